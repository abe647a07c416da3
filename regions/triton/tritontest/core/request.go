package core

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// defaultMaxTokens is what vLLM generates if the request does not say.
const defaultMaxTokens = 16

// Error is an answer other than success: Triton's error text and the HTTP status
// that its error code maps to.
//
// The codes are INTERNAL 500, NOT_FOUND 404, UNAVAILABLE 503, UNSUPPORTED 501,
// and INVALID_ARG and all others 400.
type Error struct {
	Status int
	Text   string
	Early  bool // met before the inference: never an event of a stream
	Late   bool // told by the backend, or about what it was given
}

func (e *Error) Error() string { return e.Text }

// Internal is an error of the code INTERNAL.
func Internal(format string, args ...any) *Error {
	return &Error{Status: http.StatusInternalServerError, Text: fmt.Sprintf(format, args...)}
}

// Invalid is an error of the code INVALID_ARG.
func Invalid(format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Text: fmt.Sprintf(format, args...)}
}

// NotFound is an error of the code NOT_FOUND.
func NotFound(format string, args ...any) *Error {
	return &Error{Status: http.StatusNotFound, Text: fmt.Sprintf(format, args...)}
}

// Unavailable is an error of the code UNAVAILABLE.
func Unavailable(format string, args ...any) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Text: fmt.Sprintf(format, args...)}
}

// Unsupported is an error of the code UNSUPPORTED.
func Unsupported(text string) *Error {
	return &Error{Status: http.StatusNotImplemented, Text: text}
}

// Request is a decoded request for text.
type Request struct {
	ID           string
	Prompt       string
	PromptTokens int
	Stream       bool // a response per token
	MaxTokens    int
	Timeout      time.Duration // in the queue; 0 is none
	Prepend      bool          // the text begins with the prompt
	Stop         []string      // none empty; the text ends before the first that appears
	FinishReason bool          // return_finish_reason
	NumInput     bool          // return_num_input_tokens
	NumOutput    bool          // return_num_output_tokens
	Outputs      []string      // asked for; none is all

	unprompted bool   // the prompt is missing, not empty
	garbled    string // what Python says of a prompt that is no UTF-8
}

// LogID is how Triton's core begins the texts of errors about a request.
func (q Request) LogID() string {
	if q.ID == "" {
		return "[request id: <id_unknown>] "
	}
	return "[request id: " + q.ID + "] "
}

// Text is what the answer to an unstreamed request shows.
func (q Request) Text(s Step) string {
	if q.Prepend && !q.Stream {
		return q.Prompt + s.Text
	}
	return s.Text
}

// Fields are what a frontend made of a request: input tensors of one element
// and parameters, as JSON.
type Fields struct {
	ID     string
	Inputs map[string]json.RawMessage
	Params map[string]json.RawMessage
	// Tensors are inputs whose types and shapes the client gave: Fill checks them
	// and makes Inputs of them.
	Tensors []Input
	Outputs []string // asked for by name
}

// Fill reads what the backends understand of the fields, whose inputs have the
// types of the model's.
func Fill(f Fields, m Model) (Request, *Error) {
	q := Request{ID: f.ID, MaxTokens: defaultMaxTokens, Outputs: f.Outputs}
	if err := f.checkTensors(m); err != nil {
		return q, err
	}
	if err := checkRequired(f, m); err != nil {
		return q, err
	}
	if err := f.take(m); err != nil {
		return q, err
	}
	prompt, prompted := f.Inputs["text_input"]
	q.unprompted = !prompted
	if !utf8.Valid(prompt) {
		q.garbled = garbledText(prompt, asString(prompt))
	}
	q.Prompt = asString(f.Inputs["text_input"])
	q.PromptTokens = CountTokens(q.Prompt)
	q.Stream = asBool(f.Inputs["stream"])
	exclude, given := f.Inputs["exclude_input_in_output"]
	q.Prepend = !asBool(exclude) && (given || !q.Stream)
	q.FinishReason = asBool(f.Inputs["return_finish_reason"])
	q.NumInput = asBool(f.Inputs["return_num_input_tokens"])
	q.NumOutput = asBool(f.Inputs["return_num_output_tokens"])
	limit, stop := f.Params["max_tokens"], f.Params["stop"]
	if raw, ok := f.Inputs["max_tokens"]; ok {
		limit = raw
	}
	if raw, ok := f.Inputs["stop_words"]; ok {
		stop = raw
	}
	if raw, ok := f.Inputs["sampling_parameters"]; ok {
		var sampling map[string]json.RawMessage
		if json.Unmarshal([]byte(asString(raw)), &sampling) == nil {
			limit, stop = sampling["max_tokens"], sampling["stop"]
		}
	}
	if n, err := strconv.ParseFloat(strings.Trim(string(limit), `"`), 64); err == nil && !math.IsNaN(n) {
		q.MaxTokens = int(min(max(n, 0), 1<<30))
	}
	q.Stop = Stops(stop)
	return q, nil
}

// Stops reads a stop string or a list of them.
func Stops(raw json.RawMessage) []string {
	var all, out []string
	if one := asString(raw); one != "" {
		all = []string{one}
	} else if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	for _, s := range all {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

// QueueTimeout reads the request parameter timeout, in microseconds; 0 is none.
func QueueTimeout(us int64) time.Duration {
	return time.Duration(min(max(us, 0), time.Hour.Microseconds())) * time.Microsecond
}

// checkRequired is the core's check of the inputs, with its text. It counts them:
// a request with an optional input in place of a required one gets to the backend.
func checkRequired(f Fields, m Model) *Error {
	var got []string
	for name := range f.Inputs {
		got = append(got, "'"+name+"'")
	}
	for _, in := range f.Tensors {
		got = append(got, "'"+in.Name+"'")
	}
	sort.Strings(got)
	var missing []string
	required, inputs := 0, m.Inputs()
	for _, in := range inputs {
		if in.Optional {
			continue
		}
		required++
		if name := "'" + in.Name + "'"; !slices.Contains(got, name) {
			missing = append(missing, name)
		}
	}
	if len(got) >= required {
		return nil
	}
	return Invalid("%sexpected number of inputs between %d and %d but got %d inputs for model '%s'. Got input(s) [%s], "+
		"but missing required input(s) [%s]. Please provide all required input(s).", Request{ID: f.ID}.LogID(),
		required, len(inputs), len(got), m.Name, strings.Join(got, ","), strings.Join(missing, ","))
}

// garbledText is what Python says of a prompt that is no UTF-8. In the decoded
// text a mark stands where the first byte is wrong.
func garbledText(raw json.RawMessage, text string) string {
	rest := raw
	for r, size := utf8.DecodeRune(rest); len(rest) > 1 && (r != utf8.RuneError || size > 1); r, size = utf8.DecodeRune(rest) {
		rest = rest[size:]
	}
	return fmt.Sprintf("Error generating stream: 'utf-8' codec can't decode byte 0x%x in position %d: invalid start byte",
		rest[0], strings.IndexRune(text, utf8.RuneError))
}

func asString(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s) // of another type or absent is empty
	return s
}

func asBool(raw json.RawMessage) bool { return string(raw) == "true" }

// buffer holds back the end of a text as vLLM does: as many characters as could
// be all but the last of a stop string, until the text has ended.
type buffer struct {
	stop []string
	keep int    // characters held back
	held string // a stop string that appears has begun here at the earliest
}

func newBuffer(stop []string) *buffer {
	b := &buffer{stop: stop}
	for _, s := range stop {
		b.keep = max(b.keep, utf8.RuneCountInString(s)-1)
	}
	return b
}

// add takes what was generated and returns what may be seen of the text now. It
// tells whether a stop string has appeared: from there on nothing is ever seen.
func (b *buffer) add(piece string, last bool) (string, bool) {
	b.held += piece
	end, hit := len(b.held), false
	for _, s := range b.stop {
		if at := strings.Index(b.held, s); at >= 0 {
			end, hit = min(end, at), true
		}
	}
	if !hit && !last {
		for range b.keep {
			_, size := utf8.DecodeLastRuneInString(b.held[:end])
			end -= size
		}
	}
	seen := b.held[:end]
	b.held = b.held[end:]
	return seen, hit
}
