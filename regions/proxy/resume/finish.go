package resume

import (
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
)

// Finish gives what the client has to get at the end of a stream that is complete,
// or whose pod ended its answer cleanly: text that was held back, the last event
// where the pod's was lost, OpenAI's mark. Its error is ErrCut where the answer
// should have had more; nothing has changed then, and Continue may follow.
func (s *Session) Finish() ([]byte, error) {
	d := s.request.dialect
	if d == nil {
		return nil, nil
	}
	if s.awaits() {
		return nil, ErrCut
	}
	text := s.held
	s.seam, s.held = "", ""
	s.note(text)
	s.sent += len(text)
	var out []byte
	if text != "" || s.closing && s.tellsFinish() {
		out = sse.Append(nil, s.ending(s.full("", text)))
	}
	s.closing = false
	if d.choices && !s.done {
		out, s.done = sse.Append(out, doneMark), true
	}
	return out, nil
}

// awaits tells whether an answer that ended now would lack something.
func (s *Session) awaits() bool {
	switch d := s.request.dialect; {
	case s.finish != "" || s.done:
		return false
	case d.choices:
		return true
	case s.reason != "":
		return false // whatever it was, the pod ended it
	default:
		return d.asks && (len(s.strip) > 0 || s.tellsFinish())
	}
}

// tellsFinish tells whether the client's events say why the text has ended.
func (s *Session) tellsFinish() bool {
	d := s.request.dialect
	return d.choices || d.asks && string(s.request.value(question+d.finish)) == "true"
}

// ending is the JSON of an event of our own: some text, and the end.
func (s *Session) ending(text string) []byte {
	d := s.request.dialect
	o, err := parseObject(s.frame)
	if err != nil {
		return nil
	}
	a, ok := d.read(o)
	if !ok {
		return nil
	}
	inner := []change{{d.text, appendQuoted(nil, text)}}
	var outer []change
	if s.finish != "" && s.tellsFinish() {
		inner = append(inner, change{d.finish, appendQuoted(nil, s.finish)})
	}
	if a.tokens >= 0 {
		outer = append(outer, change{d.tokens, []byte("0")})
	}
	return d.join(o, a, inner, outer)
}

// Terminal is the event that ends a stream which can't go on, with a cause for
// people. It is an error to programs and never passes for the end of an answer:
// OpenAI's clients raise an error for an object with "error", and there is no
// [DONE] behind it, since that says that the answer is whole.
func (s *Session) Terminal(cause string) []byte {
	const rest = `"code":"stream_interrupted","resumable":false}`
	if d := s.request.dialect; d != nil && d.choices {
		data := appendQuoted([]byte(`{"error":{"message":`), cause)
		data = append(data, `,"type":"server_error","param":null,`...)
		return sse.Append(nil, append(append(data, rest...), '}'))
	}
	data := append(appendQuoted([]byte(`{"error":`), cause), ',')
	return sse.Append(nil, append(data, rest...))
}
