package peek

import (
	"encoding/json"
	"fmt"
)

const (
	// maxEscaped is the most that a byte of text takes in JSON, as in "\u006d".
	maxEscaped = 6

	// maxKey is the longest key that is looked for, "text_input".
	maxKey = 10

	// maxDepth is how deep values may stand in each other. A tool's JSON Schema has
	// some 20 levels; Python's own reader gives up near 1000.
	maxDepth = 256
)

const (
	errNoObject = BodyError("the body must be a JSON object")
	errNoModel  = BodyError(`"model" must be a string of at most 255 bytes`)
	errDeep     = BodyError("the body nests values deeper than 256 levels")
)

// Object reads one JSON object (RFC 8259), given in parts of any size, and finds
// the members on its top level by which a request is routed. A body that has
// "model" or "stream" twice is refused: readers differ in which of them they take.
// The zero value is ready.
type Object struct {
	// Keep is how many bytes of the prompt are kept.
	Keep int
	// Model is the value of "model", empty if there was none so far.
	Model string
	// Stream is true where "stream" is true.
	Stream bool
	// Prompt is the beginning of the first of "text_input", "prompt" and "messages", as
	// it stands in the body.
	Prompt []byte

	state  state
	err    error
	depth  int                     // of the values that are open
	arrays [maxDepth/64 + 1]uint64 // by depth, whether it is an array
	seen   struct{ model, stream bool }
	member member // whose value comes or is read, on the top level
	prompt bool   // bytes are the prompt's

	key    bool   // the string that is read is a key
	raw    []byte // of a string that matters, still escaped
	room   int    // how much more of it is kept
	over   bool   // there was more
	hex    int    // digits that an escape still needs
	expect string // the rest of a literal
}

// member is one that matters.
type member uint8

const (
	memberOther member = iota
	memberModel
	memberStream
	memberPrompt
)

// state is what the next byte is read as.
type state uint8

const (
	stateStart state = iota
	stateFirstKey
	stateKey
	stateColon
	stateFirstItem
	stateValue
	stateAfter // a value
	stateEnd
	stateText
	stateEscape
	stateHex
	stateLiteral
	stateMinus
	stateZero
	stateInt
	stateDot
	stateFrac
	stateExp
	stateExpSign
	stateExpDigits
)

// literals are JSON's, by their first letters.
var literals = map[byte]string{'t': "true", 'f': "false", 'n': "null"}

// Enough reports that the object has ended.
func (o *Object) Enough() bool { return o.state == stateEnd }

// Write reads on.
func (o *Object) Write(p []byte) (int, error) {
	for n := 0; n < len(p) && o.err == nil; {
		used, prompt := 1, o.prompt
		if o.state == stateText {
			used = o.text(p[n:])
		} else {
			o.err = o.step(p[n])
		}
		// A value's first byte and its last are of it.
		if prompt || o.prompt {
			o.Prompt = append(o.Prompt, p[n:n+min(used, o.Keep-len(o.Prompt))]...)
		}
		n += used
	}
	if o.err != nil {
		return 0, o.err
	}
	return len(p), nil
}

// step reads one byte outside of a string's plain text.
func (o *Object) step(c byte) error {
	switch o.state {
	case stateEscape, stateHex:
		return o.escaped(c)
	case stateLiteral:
		if c != o.expect[0] {
			return errNoObject
		}
		if o.expect = o.expect[1:]; o.expect == "" {
			o.ended()
		}
		return nil
	}
	if o.state >= stateMinus {
		if next, ok := number(o.state, c); ok {
			o.state = next
			return nil
		}
		if o.state != stateZero && o.state != stateInt && o.state != stateFrac && o.state != stateExpDigits {
			return errNoObject
		}
		o.ended() // and the byte is of what follows
	}
	if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
		return nil
	}
	return o.structure(c)
}

// structure reads a byte between values, or the first one of a value.
func (o *Object) structure(c byte) error {
	switch {
	case o.state == stateStart && c == '{':
		return o.open(false)
	case (o.state == stateFirstKey || o.state == stateKey) && c == '"':
		o.begin(true)
	case o.state == stateFirstKey && c == '}', o.state == stateFirstItem && c == ']',
		o.state == stateAfter && c == '}' && !o.inArray(), o.state == stateAfter && c == ']' && o.inArray():
		o.close()
	case o.state == stateColon && c == ':':
		o.state = stateValue
	case o.state == stateAfter && c == ',':
		o.state = stateKey
		if o.inArray() {
			o.state = stateValue
		}
	case o.state == stateValue, o.state == stateFirstItem:
		return o.value(c)
	default:
		return errNoObject
	}
	return nil
}

// value reads a value's first byte.
func (o *Object) value(c byte) error {
	if o.depth == 1 {
		if o.member == memberModel && c != '"' {
			return errNoModel
		}
		o.prompt = o.member == memberPrompt
		o.Stream = o.Stream || o.member == memberStream && c == 't'
	}
	switch {
	case c == '"':
		o.begin(false)
	case c == '{' || c == '[':
		return o.open(c == '[')
	case c == '-':
		o.state = stateMinus
	case c == '0':
		o.state = stateZero
	case c >= '1' && c <= '9':
		o.state = stateInt
	case c == 't' || c == 'f' || c == 'n':
		o.state, o.expect = stateLiteral, literals[c][1:]
	default:
		return errNoObject
	}
	return nil
}

func (o *Object) open(array bool) error {
	if o.depth == maxDepth {
		return errDeep
	}
	o.depth++
	bit := uint64(1) << (o.depth % 64)
	o.arrays[o.depth/64] &^= bit
	o.state = stateFirstKey
	if array {
		o.arrays[o.depth/64] |= bit
		o.state = stateFirstItem
	}
	return nil
}

func (o *Object) inArray() bool { return o.arrays[o.depth/64]>>(o.depth%64)&1 == 1 }

func (o *Object) close() {
	o.depth--
	if o.depth == 0 {
		o.state = stateEnd
		return
	}
	o.ended()
}

// ended notes the end of a value.
func (o *Object) ended() {
	o.state = stateAfter
	if o.depth == 1 {
		o.member, o.prompt = memberOther, false
	}
}

// begin begins a string and says how much of it matters.
func (o *Object) begin(key bool) {
	o.state, o.key, o.raw, o.over, o.room = stateText, key, o.raw[:0], false, 0
	switch {
	case o.depth != 1:
	case key:
		o.room = maxKey * maxEscaped
	case o.member == memberModel:
		o.room = maxName * maxEscaped
	}
}

// text reads a run of a string and says how long it is.
func (o *Object) text(p []byte) int {
	n := 0
	for n < len(p) && p[n] != '"' && p[n] != '\\' && p[n] >= ' ' {
		n++
	}
	switch {
	case n > 0:
		o.keep(p[:n])
		return n
	case p[0] == '\\':
		o.keep(p[:1])
		o.state = stateEscape
	case p[0] == '"':
		o.err = o.finish()
	default:
		o.err = errNoObject
	}
	return 1
}

func (o *Object) keep(p []byte) {
	o.over = o.over || len(p) > o.room
	p = p[:min(len(p), o.room)]
	o.raw = append(o.raw, p...)
	o.room -= len(p)
}

// escaped reads what follows a backslash.
func (o *Object) escaped(c byte) error {
	o.keep([]byte{c})
	switch {
	case o.state == stateHex:
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
			return errNoObject
		}
		if o.hex--; o.hex == 0 {
			o.state = stateText
		}
	case c == 'u':
		o.state, o.hex = stateHex, 4
	case c == '"' || c == '\\' || c == '/' || c == 'b' || c == 'f' || c == 'n' || c == 'r' || c == 't':
		o.state = stateText
	default:
		return errNoObject
	}
	return nil
}

// finish takes a string that has ended.
func (o *Object) finish() error {
	if o.key {
		o.state = stateColon
		if o.depth == 1 {
			return o.named()
		}
		return nil
	}
	if o.depth == 1 && o.member == memberModel {
		name, ok := o.unescape()
		if !ok || len(name) > maxName {
			return errNoModel
		}
		o.Model = name
	}
	o.ended()
	return nil
}

// named takes a key of the top level.
func (o *Object) named() error {
	name, _ := o.unescape()
	seen := &o.seen.model
	switch name {
	case "model":
		o.member = memberModel
	case "stream":
		o.member, seen = memberStream, &o.seen.stream
	case "text_input", "prompt", "messages":
		if len(o.Prompt) == 0 {
			o.member = memberPrompt
		}
		return nil
	default:
		return nil
	}
	if *seen {
		return BodyError(fmt.Sprintf("the body has %q twice", name))
	}
	*seen = true
	return nil
}

// unescape decodes the string that was kept; false if it was too long.
func (o *Object) unescape() (text string, ok bool) {
	if o.over {
		return "", false
	}
	quoted := append(append([]byte{'"'}, o.raw...), '"')
	return text, json.Unmarshal(quoted, &text) == nil
}

// number reads one more byte of a number, if it is one.
func number(s state, c byte) (next state, ok bool) {
	digit := c >= '0' && c <= '9'
	switch {
	case digit && s == stateMinus && c == '0':
		return stateZero, true
	case digit && (s == stateMinus || s == stateInt):
		return stateInt, true
	case digit && (s == stateDot || s == stateFrac):
		return stateFrac, true
	case digit && s != stateZero:
		return stateExpDigits, true
	case c == '.' && (s == stateZero || s == stateInt):
		return stateDot, true
	case c|0x20 == 'e' && (s == stateZero || s == stateInt || s == stateFrac):
		return stateExp, true
	case (c == '+' || c == '-') && s == stateExp:
		return stateExpSign, true
	default:
		return s, false
	}
}
