package resume

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
)

// maxFrame is how long an event without text may be that is kept as the frame for
// events of our own. Those of Triton are 200 bytes.
const maxFrame = 16 << 10

var doneMark = []byte("[DONE]")

// Session is one client's stream over one or more pods. It is not safe for
// concurrent use.
type Session struct {
	progress
	request *request
	strip   []string // fields of events that the client did not ask for

	frame  []byte // an event's JSON as the client has it, without text
	kept   kept   // what later pods' events must repeat
	prefix string // what the client has of earlier pods, where events have all text
	pod    string // this pod's text so far, there
	sent   int    // how much of it the client has

	stopped bool // a stop string ended the answer, which the pod does not know
	closing bool // the last event was lost with a pod: the client gets one of our own
	done    bool // the mark behind the last event was seen
	heard   bool // there was an event
	marks   bool // there was one of OpenAI's, behind which the mark comes
	final   bool // the pod has said beside its event that it is the last
}

// kept are values of the first pod's events.
type kept struct {
	id, created []byte
	input       []byte // tokens of the prompt
	carried     int    // tokens of earlier pods, which this one takes for its prompt
}

// Open reads the client's body, and keeps it. There is always a session: events
// of one that can't be resumed pass unchanged.
func Open(p Profile, l Limits, body []byte) *Session { return open(p, l, false, body) }

func open(p Profile, l Limits, unary bool, body []byte) *Session {
	s := &Session{request: parseRequest(p, unary, body)}
	r := s.request
	if l.Resumes < 1 {
		r.refuse(ReasonOff, "", true)
	}
	s.limits, s.limit, s.many, s.stops = l, r.limit, r.many, r.stops
	s.reason, s.detail = r.reason, label(r.detail)
	s.strip = r.questions()
	return s
}

// Refusal says why the stream can't be resumed, as far as is known now; empty if
// it can.
func (s *Session) Refusal() Reason { return s.reason }

// Detail says more of the refusal: the name of a parameter. It is the client's
// word, for a log and not for a metric's label.
func (s *Session) Detail() string { return s.detail }

// Counts are what was done so far.
func (s *Session) Counts() Counts {
	c := s.progress.counts()
	c.InputTokens, _ = asCount(s.kept.input)
	return c
}

// Body is what the first pod is sent: the client's body, with questions for the
// counters where they are missing; the very same bytes if nothing is asked. It is
// there until the first event.
func (s *Session) Body() []byte { return s.request.first() }

// Stopped tells that the answer has ended by a stop string of which one pod wrote
// the beginning and another the end. The pod does not know: the caller leaves it,
// and sends the client what Finish gives.
func (s *Session) Stopped() bool { return s.stopped }

// Event takes one whole event of the pod and gives what the client gets for it:
// the same bytes, in the same memory, where nothing has to be changed, and nothing
// once Stopped. An error that the pod tells in-band is a *PodError; out is then the
// pod's event, for the client unless the stream goes on elsewhere; nil where it is to get
// Terminal.
func (s *Session) Event(event []byte) (out []byte, err error) {
	d := s.request.dialect
	if s.stopped {
		return nil, nil
	}
	if s.reason != "" {
		s.request.forget()
	}
	s.heard = true
	e := sse.Parse(event)
	if d != nil && d.choices && bytes.Equal(e.Data, doneMark) {
		s.done = true
	}
	if e.Silent || s.done {
		return event, nil
	}
	o, ok := parseObject(e.Data)
	if !ok || e.Named {
		s.lose(ReasonEvent)
	}
	if failed := podError(o); failed != nil {
		return event, failed
	}
	if !ok || d == nil {
		return event, nil
	}
	s.marks = s.marks || d.choices && o.value("choices") != nil
	a, ok := d.read(o)
	switch {
	case !ok:
		s.lose(ReasonEvent)
		return event, nil
	case gaveUp(a.finish) && (s.reason == "" || len(s.strip) > 0):
		return nil, errAborted
	}
	data := s.rewrite(o, a)
	switch {
	case bytes.Equal(data, e.Data):
		return event, nil
	case e.To > 0:
		out = append(bytes.Clone(event[:e.From]), data...)
		return append(out, event[e.To:]...), nil
	}
	return sse.Append(nil, bytes.ReplaceAll(data, []byte("\n"), []byte(" "))), nil
}

// Skip tells that something of the pod's went to the client without Event, such as an
// event that is too long to be kept. The stream passes on, and is no longer resumed.
func (s *Session) Skip() { s.lose(ReasonEvent) }

// rewrite records one event, which was read, and makes it what the client gets.
func (s *Session) rewrite(o object, a answer) []byte {
	var inner, outer []change
	if a.silent { // such as OpenAI's count of tokens
		return o.with(s.repeat(o)...)
	}
	a.last = s.final
	if s.kept.input == nil {
		s.kept.input = bytes.Clone(a.input)
	}
	text, stopped := s.add(s.delta(a.portion))
	if s.stopped = stopped; stopped && a.finishes {
		inner = append(inner, change{s.request.dialect.finish, appendQuoted(nil, finishStop)})
	}
	s.sent += len(text)
	if full := s.full(a.text, text); full != a.text {
		inner = append(inner, change{s.request.dialect.text, appendQuoted(nil, full)})
	}
	if s.resumes > 0 && a.tokens >= 0 {
		if told := s.owe(a.tokens); told != a.tokens {
			outer = append(outer, change{s.request.dialect.tokens, strconv.AppendInt(nil, int64(told), 10)})
		}
	}
	outer = append(outer, s.repeat(o)...)
	for _, field := range s.strip {
		outer = append(outer, change{field, nil})
	}
	data := s.request.dialect.join(o, a, inner, outer)
	s.keep(data)
	return data
}

// delta is what is new in a portion.
func (s *Session) delta(in portion) portion {
	if !s.request.profile.Cumulative {
		return in
	}
	// The beginning of a character is shown as a replacement, and then replaced.
	text := strings.TrimRight(in.text, "\uFFFD")
	if !strings.HasPrefix(text, s.pod) {
		// The pod has taken back what it said. Its text is for the client as it is.
		s.lose(ReasonEvent)
		s.pod, s.sent, s.seam, s.held = "", 0, "", ""
	}
	in.text, s.pod = text[len(s.pod):], text
	return in
}

// full is the text of the client's event for the text of the pod's.
func (s *Session) full(pod, text string) string {
	switch {
	case !s.request.profile.Cumulative:
		return text
	case s.resumes == 0:
		return pod
	}
	return s.prefix + s.pod[:s.sent]
}

// repeat are the changes that make a later pod's event look like the first pod's.
func (s *Session) repeat(o object) []change {
	d := s.request.dialect
	if d.choices && s.kept.id == nil {
		s.kept.id, s.kept.created = bytes.Clone(o.value("id")), bytes.Clone(o.value("created"))
	}
	if s.resumes == 0 {
		return nil
	}
	var list []change
	if s.kept.input != nil && d.input != "" && o.value(d.input) != nil {
		list = append(list, change{d.input, s.kept.input})
	}
	if !d.choices {
		return list
	}
	for name, raw := range map[string][]byte{"id": s.kept.id, "created": s.kept.created} {
		if raw != nil && o.value(name) != nil {
			list = append(list, change{name, raw})
		}
	}
	if usage, ok := parseObject(o.value("usage")); ok {
		list = append(list, change{"usage", s.usage(usage)})
	}
	return list
}

// usage moves the tokens of earlier pods from the prompt to the answer.
func (s *Session) usage(o object) []byte {
	prompt, ok := asCount(o.value("prompt_tokens"))
	answer, also := asCount(o.value("completion_tokens"))
	if !ok || !also {
		return o.text
	}
	moved := min(s.kept.carried, prompt)
	return o.with(change{"prompt_tokens", strconv.AppendInt(nil, int64(prompt-moved), 10)},
		change{"completion_tokens", strconv.AppendInt(nil, int64(answer+moved), 10)})
}

// keep makes the frame for events of our own of the first event.
func (s *Session) keep(data []byte) {
	if s.frame != nil || s.reason != "" {
		return
	}
	if o, ok := parseObject(data); ok {
		if a, ok := s.request.dialect.read(o); ok {
			empty := []change{{s.request.dialect.text, []byte(`""`)}}
			s.frame = bytes.Clone(s.request.dialect.join(o, a, empty, nil))
		}
	}
	if s.frame == nil || len(s.frame) > maxFrame {
		s.frame = nil
		s.lose(ReasonEvent)
	}
}

// Continue makes the body for the next pod, which must serve the same
// fingerprint. Its error is ErrComplete, ErrSpent, or a *RefusalError. A pod that
// could not be reached with it costs no further resume: the body is as good for
// another one.
func (s *Session) Continue(now time.Time) ([]byte, error) {
	if s.done {
		return nil, ErrComplete
	}
	ended := s.finish != ""
	left, err := s.cut(now)
	if err != nil {
		s.closing = s.closing || !ended && s.finish != ""
		return nil, err
	}
	s.kept.carried = s.tokens
	if s.request.profile.Cumulative {
		s.prefix, s.pod, s.sent = string(s.given), "", 0
	}
	return s.request.continued(s.given, left), nil
}

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
	if text != "" || s.closing && s.request.tells {
		out = sse.Append(nil, s.ending(s.full("", text)))
	}
	s.closing = false
	if d.choices && !s.done && s.finish != "" {
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
		return s.marks || !s.heard // else it is of another frontend
	case s.reason != "":
		return false // whatever it was, the pod ended it
	default:
		return len(s.strip) > 0 || s.request.tells
	}
}

// ending is the JSON of an event of our own: some text, and the end.
func (s *Session) ending(text string) []byte {
	d := s.request.dialect
	o, ok := parseObject(s.frame)
	if !ok {
		return nil
	}
	a, ok := d.read(o)
	if !ok {
		return nil
	}
	inner := []change{{d.text, appendQuoted(nil, text)}}
	var outer []change
	if s.finish != "" && s.request.tells {
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
// [DONE] behind it, since that says that the answer is whole. Where half an event went
// to the client past the session, a blank line has to come before.
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
