package answer

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// Open implements Payload: the next pod gets the requests that are not answered whole,
// and then what comes.
func (c *Calls) Open(moved func()) io.ReadCloser {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wire != nil {
		c.wire.closed = true
	}
	for _, t := range c.turns {
		t.sent = false
	}
	c.in, c.pass, c.leaves = nil, 0, false
	clear(c.failed)
	c.wire = &wire{calls: c, moved: moved}
	if c.pumped == nil {
		c.pumped = make(chan struct{})
		go c.pump()
	}
	c.change.Broadcast()
	return c.wire
}

// wire is what one pod is sent. Whoever reads one waits for the client; a wire that is
// closed or followed by another ends that wait, and takes nothing of what comes.
type wire struct {
	calls  *Calls
	moved  func()
	out    []byte // of the message that is being sent
	closed bool
	ended  bool // nothing more follows, though the client goes on
}

// Read reads the requests.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.take(p)
	if n > 0 {
		w.moved()
	}
	return n, err
}

func (w *wire) take(p []byte) (int, error) {
	c := w.calls
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case w.closed:
			return 0, io.ErrClosedPipe
		case w.ended:
			return 0, io.EOF
		}
		if len(w.out) == 0 {
			w.out = c.nextLocked()
		}
		switch {
		case len(w.out) > 0:
			n := copy(p, w.out)
			w.out = w.out[n:]
			c.change.Broadcast()
			return n, nil
		case c.half != nil && (!errors.Is(c.half, io.EOF) || !c.unsentLocked()):
			return 0, c.half
		}
		c.change.Wait()
	}
}

// Close ends a wait.
func (w *wire) Close() error {
	c := w.calls
	c.mu.Lock()
	defer c.mu.Unlock()
	w.closed = true
	c.change.Broadcast()
	return nil
}

// Leaves reports that the present pod takes no more requests.
func (c *Calls) Leaves() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leaves
}

// Rest ends what the present pod is sent if it has answered all, so that it can be let go
// while the client is silent, or has answered all that it took. whole is false if it does
// not know that it has.
func (c *Calls) Rest() (rests, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opaque || c.stays || !c.begun || c.half != nil && !c.leaves || c.wire == nil || c.pass > 0 || len(c.in) > 0 {
		return false, false
	}
	whole = true
	for _, t := range c.turns {
		switch {
		case t.over:
			whole = false
		case t.sent, !c.leaves:
			return false, false
		}
	}
	c.turns = slices.DeleteFunc(c.turns, func(t *turn) bool { return t.over })
	c.wire.ended = true
	c.change.Broadcast()
	return true, whole
}

// Await waits for the client's next request while the stream rests. Its error is how the
// client's half has ended instead, io.EOF if well, or the cause for which the context has.
func (c *Calls) Await(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.change.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.unsentLocked():
			return nil
		case c.half != nil:
			return c.half
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		c.change.Wait()
	}
}

// unsentLocked reports that there is something for the present pod.
func (c *Calls) unsentLocked() bool {
	return len(c.rest) > 0 || slices.ContainsFunc(c.turns, func(t *turn) bool { return !t.sent })
}

// nextLocked is the next message for the present pod, nil if there is none yet, or no
// slot for it.
func (c *Calls) nextLocked() []byte {
	for _, t := range c.turns {
		switch {
		case c.leaves:
			return nil
		case t.sent:
			continue
		case c.runningLocked() > c.held && !c.slots.Take():
			c.pollLocked()
			return nil
		case c.runningLocked() > c.held:
			c.held++
		}
		t.sent = true
		return t.frame
	}
	out := c.rest
	c.rest = nil
	return out
}

// poll is how soon a slot is asked for again. Nobody tells a stream of it: those that wait
// in the line have none at all.
const poll = 20 * time.Millisecond

func (c *Calls) pollLocked() {
	if c.polled {
		return
	}
	c.polled = true
	time.AfterFunc(poll, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.polled = false
		c.change.Broadcast()
	})
}

// pump reads the client's requests, each when the one before is being sent.
func (c *Calls) pump() {
	defer close(c.pumped)
	var err error
	for err == nil {
		err = c.request()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.half = cmp.Or(c.half, err)
	c.change.Broadcast()
}

// request takes one request, or a part of what can't be followed.
func (c *Calls) request() error {
	if c.lost() {
		part := make([]byte, 32<<10) // the proxy's unit of copying
		n, err := c.from.Read(part)
		c.add(part[:n])
		return err
	}
	var head [prefix]byte
	if n, err := io.ReadFull(c.from, head[:]); err != nil {
		c.add(head[:n])
		return whole(n, err)
	}
	size := int(binary.BigEndian.Uint32(head[1:]))
	if head[0] != 0 || size > c.opts.Keep-c.Size() {
		c.add(head[:])
		return nil
	}
	frame := slices.Grow(head[:], size)[:prefix+size]
	n, err := io.ReadFull(c.from, frame[prefix:])
	m := new(inferencepb.ModelInferRequest)
	if err != nil || proto.Unmarshal(frame[prefix:], m) != nil {
		c.add(frame[:prefix+n])
		return whole(n+prefix, err)
	}
	c.begin(m, frame)
	return nil
}

// whole is the end of the client's half, which within a message is none.
func whole(n int, err error) error {
	if n > 0 && err == io.EOF { //nolint:errorlint // of io.ReadFull
		return io.ErrUnexpectedEOF
	}
	return err
}

// lost reports that requests can't be followed, once the client is to be read again.
func (c *Calls) lost() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.half == nil && c.unsentLocked() {
		c.change.Wait()
	}
	return c.opaque
}

// add passes bytes on that are not followed.
func (c *Calls) add(p []byte) {
	if len(p) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loseLocked()
	c.rest = append(c.rest, p...)
	c.change.Broadcast()
}

// begin takes a request that was read.
func (c *Calls) begin(m *inferencepb.ModelInferRequest, frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.change.Broadcast()
	t := &turn{own: m.GetId(), frame: frame, size: len(frame)}
	c.stays = c.stays || m.GetParameters()[sequenceID] != nil
	m.Id = c.aliasLocked(m.GetId())
	if t.id = m.GetId(); t.id != t.own {
		t.frame = appendMessage(nil, m)
	}
	t.text = resume.OpenInference(c.opts.Profile, c.opts.Limits, m)
	if first := t.text.Request(); first != m {
		t.frame = appendMessage(nil, first)
	}
	c.turns = append(c.turns, t)
	if c.begun && c.opts.Arrived != nil {
		c.opts.Arrived()
	}
	c.begun = true
}

// sequenceID is the parameter of requests that belong together, of which a pod keeps
// what came of the earlier ones (Triton's sequence extension).
const sequenceID = "sequence_id"

// aliasLocked is by what name the pod gets to know a request: the client's, unless another
// request has it. Many clients give none.
func (c *Calls) aliasLocked(id string) string {
	taken := func(id string) bool {
		_, failed := c.failed[id]
		return failed || slices.ContainsFunc(c.turns, func(t *turn) bool { return t.id == id })
	}
	own := id
	for taken(id) {
		c.aliases++
		id = own + "~" + strconv.Itoa(c.aliases)
	}
	return id
}
