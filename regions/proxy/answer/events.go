package answer

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
)

// Events is an answer of server-sent events, which the client gets whole.
type Events struct {
	session *resume.Session
	opaque  Payload // the client's body, if it is not in memory
	body    []byte  // for the present pod
	split   *sse.Splitter
	own     []byte // the pod's own words on why it ended
	torn    bool   // an event was passed on in parts
	heard   bool   // there was something of the answer
}

// NewEvents follows the answer to a request that asks for events. Without a body in
// memory it is passed on and not resumed.
func NewEvents(p resume.Profile, l resume.Limits, client Payload, body []byte) *Events {
	e := &Events{session: resume.Open(p, l, body), split: sse.NewSplitter(maxPart)}
	if !client.Whole() {
		e.opaque = client
		return e
	}
	e.body = e.session.Body()
	return e
}

// Open implements Payload.
func (e *Events) Open(moved func()) io.ReadCloser {
	e.split, e.own = sse.NewSplitter(maxPart), nil
	if e.opaque != nil {
		return e.opaque.Open(moved)
	}
	return io.NopCloser(bytes.NewReader(e.body))
}

// Length implements Payload.
func (e *Events) Length() int64 {
	if e.opaque != nil {
		return e.opaque.Length()
	}
	return int64(len(e.body))
}

// Whole implements Payload.
func (e *Events) Whole() bool { return e.opaque == nil }

// Hear implements Listener.
func (e *Events) Hear(p []byte) Heard {
	var h Heard
	e.split.Feed(p)
	for h.Cut == nil && h.End == nil {
		event, tooLong := e.split.Next()
		if tooLong != nil {
			return e.pass(h)
		}
		if event == nil {
			break
		}
		out, err := e.session.Event(event)
		if told, ok := errors.AsType[*resume.PodError](err); ok {
			h.Sick, h.Told = e.heard, h.Told+1
			if told.Retryable {
				h.Cut, e.own = told, out
				break
			}
			h.Some = true
		}
		e.heard = e.heard || err == nil && !sse.Parse(event).Silent
		h.Some = h.Some || e.heard
		if h.Out = append(h.Out, out...); e.session.Stopped() {
			return e.finish(h)
		}
	}
	return h
}

// pass gives an event that is too long to the client as far as it has come, and what
// follows as it comes.
func (e *Events) pass(h Heard) Heard {
	h.Some, e.torn = true, true
	h.Out = append(h.Out, e.split.Rest()...)
	e.split = sse.NewSplitter(maxPart)
	e.session.Skip()
	return h
}

// Over implements Listener.
func (e *Events) Over(http.Header) Heard { return e.finish(Heard{}) }

// finish ends an answer that is complete, or that its pod ended cleanly.
func (e *Events) finish(h Heard) Heard {
	last, err := e.session.Finish()
	if err != nil {
		h.Cut = err
		return h
	}
	h.Out = append(append(h.Out, e.split.Rest()...), last...)
	h.End = io.EOF
	return h
}

// Continue implements Narrator.
func (e *Events) Continue(now time.Time) ([]byte, error) {
	body, err := e.session.Continue(now)
	if errors.Is(err, resume.ErrComplete) {
		last, _ := e.session.Finish() // nothing is missing, so that it does not fail
		return last, err
	}
	if err == nil {
		e.body = body
	}
	return nil, err
}

// Interrupt implements Narrator.
func (e *Events) Interrupt(cause string) (out []byte) {
	if e.torn {
		out = []byte("\n\n") // half an event may have gone out
	}
	if len(e.own) > 0 {
		return append(out, e.own...)
	}
	return append(out, e.session.Terminal(cause)...)
}

// Refusal implements Narrator.
func (e *Events) Refusal() resume.Reason { return e.session.Refusal() }
