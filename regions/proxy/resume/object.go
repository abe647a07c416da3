package resume

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// maxMembers is how many keys an object may have: requests and events have a
// dozen.
const (
	maxMembers   = 64
	usualMembers = 12
)

// object is a JSON object of which only the outermost keys are looked at. Its
// text is kept, so that what is not changed stays byte for byte.
type object struct {
	text    []byte
	members []member
}

// member is a key and its value: text[from:to], the value from at.
type member struct {
	name         string
	from, at, to int
}

// parseObject reads valid JSON in UTF-8. It is false for anything but an object, and
// where a key is there twice: which of them counts each reader decides for itself.
func parseObject(text []byte) (o object, ok bool) {
	if !utf8.Valid(text) || !json.Valid(text) {
		return object{}, false
	}
	o.text, o.members = text, make([]member, 0, usualMembers)
	at := skipSpace(text, 0)
	if text[at] != '{' {
		return object{}, false
	}
	for at = skipSpace(text, at+1); text[at] != '}'; at = skipSpace(text, at) {
		if text[at] == ',' {
			at = skipSpace(text, at+1)
		}
		m := member{from: at}
		at = skipString(text, at)
		m.name = decode(text[m.from:at])
		m.at = skipSpace(text, skipSpace(text, at)+1)
		m.to = skipValue(text, m.at)
		if at = m.to; len(o.members) == maxMembers || o.find(m.name) >= 0 {
			return object{}, false
		}
		o.members = append(o.members, m)
	}
	return o, true
}

func skipSpace(text []byte, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\t' || text[at] == '\r' || text[at] == '\n') {
		at++
	}
	return at
}

// skipString is where the string that begins at a quote ends.
func skipString(text []byte, at int) int {
	for at++; text[at] != '"'; at++ {
		if text[at] == '\\' {
			at++
		}
	}
	return at + 1
}

// skipValue is where the value ends that begins here.
func skipValue(text []byte, at int) int {
	for depth := 0; ; {
		switch text[at] {
		case '"':
			at = skipString(text, at) - 1
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		default:
			if depth == 0 { // a number or a word, which ends at what can't be part of one
				for at < len(text) && text[at] != ',' && text[at] != '}' && text[at] != ']' && text[at] > ' ' {
					at++
				}
				return at
			}
		}
		if at++; depth == 0 {
			return at
		}
	}
}

func (o object) find(name string) int {
	for i, m := range o.members {
		if m.name == name {
			return i
		}
	}
	return -1
}

// value is the raw value of a key, nil if it is not there.
func (o object) value(name string) []byte {
	if i := o.find(name); i >= 0 {
		return o.text[o.members[i].at:o.members[i].to]
	}
	return nil
}

// change is a key's new raw value; nil takes the key out.
type change struct {
	name  string
	value []byte
}

// with makes the object's text with changes, in the order that it has; what is new
// comes last. Without changes it is the text itself.
func (o object) with(changes ...change) []byte {
	if len(changes) == 0 {
		return o.text
	}
	head := skipSpace(o.text, skipSpace(o.text, 0)+1)
	tail, first := o.text[head:], true
	out := append(make([]byte, 0, len(o.text)), o.text[:head]...)
	for i, m := range o.members {
		value := o.text[m.at:m.to]
		for _, c := range changes {
			if c.name == m.name {
				value = c.value // the last one counts
			}
		}
		tail = o.text[m.to:]
		if value == nil {
			continue
		}
		if !first {
			out = append(out, o.text[o.members[i-1].to:m.from]...)
		}
		first = false
		out = append(append(out, o.text[m.from:m.at]...), value...)
	}
	for _, c := range changes {
		if c.value == nil || o.find(c.name) >= 0 {
			continue
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(append(appendQuoted(out, c.name), ':'), c.value...)
	}
	return append(out, tail...)
}

// decode is the text of a JSON string.
func decode(raw []byte) (text string) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]) // nearly always
	}
	_ = json.Unmarshal(raw, &text) // valid: it is a part of what was checked
	return text
}

// asString is the text of a raw value that is a string.
func asString(raw []byte) (string, bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return decode(raw), true
}

// asCount is a raw value that is a whole number from 0 to what 31 bits hold.
func asCount(raw []byte) (int, bool) {
	n := 0
	for _, c := range raw {
		if c < '0' || c > '9' || n > (1<<31-1-9)/10 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, len(raw) > 0
}

// appendQuoted appends a JSON string.
func appendQuoted(b []byte, text string) []byte {
	b = append(b, '"')
	b = appendEscaped(b, text)
	return append(b, '"')
}

// appendEscaped appends what is between the quotes of a JSON string.
func appendEscaped(b []byte, text string) []byte {
	const hex = "0123456789abcdef"
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}
