package resume

import (
	"errors"
	"strconv"
	"time"

	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
)

// ErrAnswer is an answer in one piece that is longer than Limits.Answer.
var ErrAnswer = errors.New("the answer is too long to be gathered")

// Triton's words where a model does not answer exactly once; the status is 200.
const notOne = `{"error":"generate expects model to produce exactly 1 response, ` +
	`use generate stream for model that generates various number of responses"}`

// Gathering is a generate that the pod is asked for as generate_stream, so that it
// notices a client which leaves, and that is folded into the one answer that
// generate would have given. It is resumed like a stream.
type Gathering struct {
	session *Session
	last    []byte // the newest event's JSON, as a stream's client would have it
	text    []byte
	tokens  int
}

// Gather opens a body of generate. It is nil, with the reason, where the answer
// can't be told from its events; the request is then sent as it came. The pod is
// asked by generate_stream with Body.
func Gather(p Profile, l Limits, body []byte) (*Gathering, Reason) {
	s := open(p, l, true, body)
	switch {
	case s.request.dialect == nil || !s.request.dialect.folds:
		return nil, ReasonOff
	case s.request.opaque:
		return nil, s.reason
	}
	return &Gathering{session: s}, ""
}

// Body is what the first pod is sent.
func (g *Gathering) Body() []byte { return g.session.Body() }

// Refusal says why the request can't be resumed; empty if it can.
func (g *Gathering) Refusal() Reason { return g.session.Refusal() }

// Counts are what was done so far. Text is what was gathered.
func (g *Gathering) Counts() Counts { return g.session.Counts() }

// Stopped is as for a Session.
func (g *Gathering) Stopped() bool { return g.session.Stopped() }

// Continue is as for a Session.
func (g *Gathering) Continue(now time.Time) ([]byte, error) { return g.session.Continue(now) }

// Event takes one whole event. Its error is a *PodError, or ErrAnswer.
func (g *Gathering) Event(event []byte) error {
	out, err := g.session.Event(event)
	if err != nil {
		return err
	}
	return g.fold(out)
}

// Finish is as for a Session: nil if the answer is whole.
func (g *Gathering) Finish() error {
	out, err := g.session.Finish()
	if err != nil {
		return err
	}
	return g.fold(out)
}

func (g *Gathering) fold(event []byte) error {
	e := sse.Parse(event)
	o, ok := parseObject(e.Data)
	if !ok {
		return nil
	}
	a, ok := g.session.request.dialect.read(o)
	if !ok {
		return nil
	}
	if g.session.request.profile.Cumulative {
		g.text = g.text[:0]
	}
	if len(g.text)+len(a.text) > g.session.limits.Answer || len(e.Data)-len(a.text) > maxFrame {
		return ErrAnswer
	}
	g.text = append(g.text, a.text...)
	g.tokens += max(a.tokens, 0)
	g.last = append(g.last[:0], e.Data...)
	return nil
}

// Answer is the status and the JSON for the client, once Finish or Continue have
// said that nothing is missing.
func (g *Gathering) Answer() (status int, body []byte) {
	r := g.session.request
	o, ok := parseObject(g.last)
	if !ok {
		return statusOK, []byte(notOne)
	}
	text := []byte{'"'}
	if r.whole {
		text = append(text, r.prompt[1:len(r.prompt)-1]...)
	}
	changes := []change{{r.dialect.text, append(appendEscaped(text, string(g.text)), '"')}}
	if o.value(r.dialect.tokens) != nil {
		changes = append(changes, change{r.dialect.tokens, strconv.AppendInt(nil, int64(g.tokens), 10)})
	}
	return statusOK, o.with(changes...)
}

// Failed is the status and the JSON for an error of a pod, whose answer had this
// status: that of its first response, which is 200 if the error came later.
func (g *Gathering) Failed(status int, e *PodError) (int, []byte) {
	if status == statusOK {
		status = e.Status()
	}
	return status, append(appendQuoted([]byte(`{"error":`), e.Text), '}')
}
