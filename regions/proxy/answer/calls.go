package answer

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/rpc"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// Calls is a stream of gRPC's ModelStreamInfer for a model that writes text: requests
// that may come at any time, each with its own responses. Requests that are not answered
// whole when a pod is lost go on at the next one, which gets the later ones, too.
//
// What can't be followed (compressed or large messages) passes unchanged, and the stream is
// not resumed from then on.
type Calls struct {
	opts   CallOptions
	from   io.ReadCloser
	pumped chan struct{} // closed when the client is no longer read; nil before the first Open

	mu     sync.Mutex
	change sync.Cond
	turns  []*turn
	wire   *wire  // to the present pod
	slots  Slots  // of the present pod
	held   int    // of them
	polled bool   // a slot is about to be asked for again
	rest   []byte // of requests that can't be followed, to be sent as they are
	opaque bool   // there were such
	stays  bool   // the pod has something in mind between requests
	leaves bool   // the present pod takes no more requests, and finishes those that it has
	begun  bool   // there was a request
	// failed are the ids of requests that ended with an error, of which the pod may still
	// give the mark that only we asked for.
	failed  map[string]struct{}
	aliases int
	half    error // how the client's half ended; io.EOF is well

	// Of the present pod's answer.
	in   []byte // received, and not a whole message
	pass int    // bytes of a message that pass as they come
}

// CallOptions say how a stream is followed.
type CallOptions struct {
	Profile resume.Profile
	Limits  resume.Limits
	// Keep is how many bytes of requests are kept while they are answered.
	Keep int
	// Resume lets requests go on at another pod.
	Resume bool
	// Arrived is told of each request but the first; nil: nobody is.
	Arrived func()
	// Replay lets a request of which nothing was answered be sent to a second pod.
	Replay bool
}

// NewCalls follows a stream, whose first half is the client's.
func NewCalls(client Payload, o CallOptions) *Calls {
	c := &Calls{opts: o, from: client.Open(func() {}), failed: map[string]struct{}{}, slots: Unbounded()}
	c.change.L = &c.mu
	return c
}

// Length implements Payload.
func (c *Calls) Length() int64 { return -1 }

// Whole implements Payload.
func (c *Calls) Whole() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.opaque
}

// Owed reports that a pod has a request that it has not answered whole, or may have.
func (c *Calls) Owed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opaque || slices.ContainsFunc(c.turns, func(t *turn) bool { return t.sent && !t.over })
}

// Size is how many bytes the requests have that are not answered whole.
func (c *Calls) Size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, t := range c.turns {
		n += t.size
	}
	return n
}

// Done ends the reading of the client. Its half must be released before.
func (c *Calls) Done() {
	c.mu.Lock()
	c.half = cmp.Or(c.half, errDone)
	pumped := c.pumped
	c.change.Broadcast()
	c.mu.Unlock()
	if pumped != nil {
		<-pumped
	}
}

var errDone = errors.New("the stream has ended")

// Hear implements Listener.
func (c *Calls) Hear(p []byte) (h Heard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pass > 0 {
		n := min(c.pass, len(p))
		c.pass -= n
		h.Out, h.Some = append(h.Out, p[:n]...), true
		p = p[n:]
	}
	c.in = append(c.in, p...)
	for h.Cut == nil && h.End == nil && len(c.in) >= prefix {
		size := int(binary.BigEndian.Uint32(c.in[1:prefix]))
		if c.in[0] != 0 || size > maxPart {
			c.loseLocked()
			n := min(prefix+size, len(c.in))
			h.Out, h.Some, c.pass = append(h.Out, c.in[:n]...), true, prefix+size-n
			c.in = c.in[n:]
			continue
		}
		if len(c.in) < prefix+size {
			break
		}
		frame := c.in[: prefix+size : prefix+size]
		c.in = c.in[prefix+size:]
		c.messageLocked(&h, frame)
	}
	if len(c.in) == 0 {
		c.in = nil // what a burst has left is not kept for the life of the stream
	}
	c.change.Broadcast()
	return h
}

// messageLocked takes one response.
func (c *Calls) messageLocked(h *Heard, frame []byte) {
	h.Some = true
	m := new(inferencepb.ModelStreamInferResponse)
	if err := proto.Unmarshal(frame[prefix:], m); err != nil {
		c.loseLocked()
		h.Out = append(h.Out, frame...)
		return
	}
	t := c.ofLocked(m.GetInferResponse())
	switch {
	case t == nil:
		if !c.lateLocked(m) {
			h.Out = append(h.Out, frame...)
		}
		return
	case t.over:
		if _, err := t.text.Response(m); err != nil || t.text.Done() {
			c.dropLocked(t)
		}
		return
	}
	out, err := t.text.Response(m)
	if told, ok := errors.AsType[*resume.PodError](err); ok {
		words := t.appendTo(nil, m, frame)
		if out == nil {
			words = t.appendTo(nil, t.text.Terminal(told.Text), nil)
		}
		c.failLocked(h, t, told, words)
		return
	}
	t.heard = true
	switch {
	case out == m:
		h.Out = t.appendTo(h.Out, m, frame)
	case out != nil:
		h.Out = t.appendTo(h.Out, out, nil)
	}
	if stopped := t.text.Stopped(); stopped || t.text.Done() {
		c.finishLocked(h, t)
		if t.over = stopped && !t.text.Done(); t.over && c.quietLocked() {
			h.End = io.EOF // the pod would write on for nobody
		}
	}
}

// failLocked takes an error that the pod told of a request, in the client's words. The
// request goes on elsewhere if that helps it and is alone, else once the others have ended,
// if nothing of it was answered.
func (c *Calls) failLocked(h *Heard, t *turn, told *resume.PodError, words []byte) {
	h.Told++
	// What is wrong with a request is said before any of its text.
	h.Sick = h.Sick || t.heard
	alone := !slices.ContainsFunc(c.turns, func(other *turn) bool { return other != t && !other.over })
	if told.Retryable && alone && c.opts.Resume && !c.opaque && t.text.Refusal() == "" {
		h.Cut, t.told = told, words
		return
	}
	if told.Retryable && !t.heard && !t.begun && c.opts.Replay && !c.opaque {
		// It has done nothing of it, and others are under way: this one goes elsewhere when
		// they have ended.
		t.sent, t.begun, c.leaves = false, true, true
		c.giveLocked()
		c.forgetLocked(t)
		return
	}
	h.Out = append(h.Out, words...)
	c.dropLocked(t)
	if !t.text.Wished() {
		c.forgetLocked(t)
	}
}

// forgetLocked keeps the mark of a request that has failed from the client.
func (c *Calls) forgetLocked(t *turn) {
	if t.text.Done() {
		return
	}
	if len(c.failed) >= maxFailed {
		clear(c.failed)
	}
	c.failed[t.id] = struct{}{}
}

// maxFailed bounds the ids that are kept of failed requests. The mark follows at once.
const maxFailed = 64

// lateLocked reports that a response is nothing but the mark of a request that has failed.
func (c *Calls) lateLocked(m *inferencepb.ModelStreamInferResponse) bool {
	r := m.GetInferResponse()
	if _, failed := c.failed[r.GetId()]; !failed || m.GetErrorMessage() != "" || len(r.GetOutputs()) > 0 {
		return false
	}
	delete(c.failed, r.GetId())
	return true
}

// finishLocked ends one request whose answer is complete.
func (c *Calls) finishLocked(h *Heard, t *turn) {
	last, err := t.text.Finish()
	switch {
	case err != nil && c.opaque: // it can't go on, and others may be well
		c.dropLocked(t)
		return
	case err != nil:
		h.Cut = err
		return
	}
	for _, m := range last {
		h.Out = t.appendTo(h.Out, m, nil)
	}
	if !t.text.Stopped() || t.text.Done() {
		c.dropLocked(t)
	}
}

// quietLocked reports that nothing is to come any more, neither from the client nor for
// it.
func (c *Calls) quietLocked() bool {
	return errors.Is(c.half, io.EOF) && !slices.ContainsFunc(c.turns, func(t *turn) bool { return !t.over })
}

// loseLocked says that the stream can't be followed any more.
func (c *Calls) loseLocked() { c.opaque = true }

// CallError is a status other than success with which a pod has ended a stream.
type CallError struct{ Code rpc.Code }

// Error names the status.
func (e *CallError) Error() string { return "the pod has ended the stream with " + e.Code.String() }

// Over implements Listener.
func (c *Calls) Over(trailers http.Header) (h Heard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	code, ok := rpc.Answered(trailers)
	if !ok || len(c.in) > 0 || c.pass > 0 {
		h.Cut = resume.ErrCut
		return h
	}
	if code == rpc.Unavailable || code == rpc.Internal {
		h.Cut = &CallError{code}
		return h
	}
	for _, t := range slices.Clone(c.turns) {
		switch {
		case code != rpc.OK || t.over:
		case !t.sent:
			h.Cut = resume.ErrCut
		default:
			c.finishLocked(&h, t)
		}
		if h.Cut != nil {
			return h
		}
	}
	h.End = io.EOF
	return h
}

// Continue implements Narrator. All requests go on, or none does.
func (c *Calls) Continue(now time.Time) (out []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opaque {
		return nil, &resume.RefusalError{Reason: resume.ReasonEvent}
	}
	if c.wire != nil {
		c.wire.closed = true // it takes nothing of what is for the next pod
	}
	for _, t := range slices.Clone(c.turns) {
		if t.over {
			c.dropLocked(t)
			continue
		}
		if !t.sent {
			continue // the lost pod never had it
		}
		if c.opts.Replay && !t.heard && !t.begun {
			t.sent, t.begun, t.told = false, true, nil
			continue
		}
		next, err := t.text.Continue(now)
		switch {
		case errors.Is(err, resume.ErrComplete):
			var h Heard
			c.finishLocked(&h, t) // nothing is missing, so that it does not fail
			c.dropLocked(t)
			out = append(out, h.Out...)
			continue
		case err != nil:
			return out, err
		}
		t.frame, t.sent, t.begun, t.told = appendMessage(nil, next), false, true, nil
	}
	if c.quietLocked() {
		return out, resume.ErrComplete
	}
	return out, nil
}

// Interrupt implements Narrator: each request that is not answered whole ends with an
// error.
func (c *Calls) Interrupt(cause string) (out []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.turns {
		switch {
		case t.over, c.pass > 0: // the client has half a message
		case t.told != nil:
			out = append(out, t.told...)
		default:
			out = t.appendTo(out, t.text.Terminal(cause), nil)
		}
	}
	c.turns = nil
	return out
}

// Refuse ends the requests that no pod has got, each with an error. The stream goes on.
func (c *Calls) Refuse(cause string) (out []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.turns {
		out = t.appendTo(out, t.text.Failed(cause), nil)
	}
	c.turns = nil
	c.change.Broadcast()
	return out
}

// Refusal implements Narrator.
func (c *Calls) Refusal() resume.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opaque {
		return resume.ReasonEvent
	}
	for _, t := range c.turns {
		if why := t.text.Refusal(); why != "" && !t.over {
			return why
		}
	}
	return ""
}
