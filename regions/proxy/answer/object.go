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

// Object is an answer of one JSON object that is made of a pod's events. Nothing of it
// comes out before its end: Result has it.
type Object struct {
	gather *resume.Gathering
	body   []byte
	split  *sse.Splitter
	told   *resume.PodError // what it ended with instead
	heard  bool             // there was something of the answer
}

// NewObject follows the answer to a request for one object, and is nil if that can't be
// told from events.
func NewObject(p resume.Profile, l resume.Limits, body []byte) *Object {
	gather, _ := resume.Gather(p, l, body)
	if gather == nil {
		return nil
	}
	return &Object{gather: gather, body: gather.Body(), split: sse.NewSplitter(maxPart)}
}

// Open implements Payload.
func (o *Object) Open(func()) io.ReadCloser {
	o.split, o.told = sse.NewSplitter(maxPart), nil
	return io.NopCloser(bytes.NewReader(o.body))
}

// Length implements Payload.
func (o *Object) Length() int64 { return int64(len(o.body)) }

// Whole implements Payload.
func (o *Object) Whole() bool { return true }

// Hear implements Listener.
func (o *Object) Hear(p []byte) Heard {
	var h Heard
	o.split.Feed(p)
	for {
		event, tooLong := o.split.Next()
		if tooLong != nil {
			h.End = tooLong
			return h
		}
		if event == nil {
			return h
		}
		err := o.gather.Event(event)
		switch told, ok := errors.AsType[*resume.PodError](err); {
		case ok:
			// What is wrong with a request is said before any of its text.
			o.told, h.Sick, h.Told = told, o.heard, 1
			if h.End = io.EOF; told.Retryable {
				h.Cut, h.End = told, nil
			}
			h.Some = !told.Retryable
			return h
		case err != nil:
			h.End = err
			return h
		}
		o.heard, h.Some = true, true
		if o.gather.Stopped() {
			return o.finish(h)
		}
	}
}

// Over implements Listener.
func (o *Object) Over(http.Header) Heard { return o.finish(Heard{}) }

func (o *Object) finish(h Heard) Heard {
	h.Cut = o.gather.Finish()
	if h.Cut == nil {
		h.End = io.EOF
	}
	return h
}

// Continue implements Narrator.
func (o *Object) Continue(now time.Time) ([]byte, error) {
	body, err := o.gather.Continue(now)
	if errors.Is(err, resume.ErrComplete) {
		_ = o.gather.Finish() // nothing is missing, so that it does not fail
		return nil, err
	}
	if err == nil {
		o.body = body
	}
	return nil, err
}

// Interrupt implements Narrator. There is nothing to say before the result.
func (o *Object) Interrupt(string) []byte { return nil }

// Refusal implements Narrator.
func (o *Object) Refusal() resume.Reason { return o.gather.Refusal() }

// Failed is the status and the JSON of the pod's error with which the answer ended; false
// if there was none. The pod's status is that of its answer's head.
func (o *Object) Failed(status int) (int, []byte, bool) {
	if o.told == nil {
		return 0, nil, false
	}
	status, body := o.gather.Failed(status, o.told)
	return status, body, true
}

// Result is the status and the JSON of an answer that is complete.
func (o *Object) Result() (status int, body []byte) { return o.gather.Answer() }
