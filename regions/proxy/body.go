package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// What can be wrong with a client's body.
var (
	errBodyTooLarge = errors.New("request body too large")
	errBodyStalled  = errors.New("request body stalled")
	errBodyBroken   = errors.New("request body broken")
	errBodyClosed   = errors.New("request body closed: the request has ended")
)

// payload is a request's body as it is sent to pods: its head in memory, and
// the rest, if any, still at the client. A payload without rest can be sent
// again at any time, one with it until the rest was touched.
type payload struct {
	head   []byte
	rest   *clientBody // nil: the head is all
	length int64       // in bytes, -1 if unknown
}

// readPayload reads the body into memory if it is small enough to be kept for a
// replay. Doing so before a pod is claimed keeps slow and broken senders from
// taking slots.
func readPayload(r *http.Request, ctl *http.ResponseController, l Limits) (*payload, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return &payload{}, nil
	}
	if r.ContentLength > l.Body {
		return nil, errBodyTooLarge
	}
	rest := &clientBody{from: r.Body, ctl: ctl, left: l.Body, stall: l.BodyStall}
	if r.ContentLength > l.Buffer {
		return &payload{rest: rest, length: r.ContentLength}, nil
	}
	var buf bytes.Buffer
	// Grow by what was announced, but not at once by what may never come.
	buf.Grow(int(min(max(r.ContentLength, 0)+bytes.MinRead, 64<<10)))
	n, err := buf.ReadFrom(io.LimitReader(rest, l.Buffer+1))
	if err != nil {
		rest.release()
		return nil, err
	}
	if n <= l.Buffer {
		return &payload{head: buf.Bytes(), length: n}, nil
	}
	rest.read.Store(0)
	return &payload{head: buf.Bytes(), rest: rest, length: r.ContentLength}, nil
}

// whole reports that all of the body is in memory.
func (p *payload) whole() bool { return p.rest == nil }

// intact reports that the body can be sent from its beginning.
func (p *payload) intact() bool { return p.rest == nil || p.rest.read.Load() == 0 }

// failure is what the client did wrong while its body was streamed.
func (p *payload) failure() error {
	if p == nil || p.rest == nil {
		return nil
	}
	if err := p.rest.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// peek is a body for the request before an attempt is made; nobody reads it.
func (p *payload) peek() io.ReadCloser {
	if p.length == 0 {
		return http.NoBody
	}
	return io.NopCloser(bytes.NewReader(nil))
}

// open is the body from its beginning, for one attempt. moved is called as the
// rest streams.
func (p *payload) open(moved func()) io.ReadCloser {
	switch {
	case p.length == 0:
		return http.NoBody
	case p.rest == nil:
		return io.NopCloser(&headReader{*bytes.NewReader(p.head)})
	default:
		return io.NopCloser(io.MultiReader(&headReader{*bytes.NewReader(p.head)}, movingReader{p.rest, moved}))
	}
}

// forget lets go of the head once there is an answer: nothing is replayed after
// that, and a stream lives for long.
func (p *payload) forget() { p.head = nil }

// headReader reads the head and lets go of it at its end, since the request that
// holds the reader lives as long as its answer.
type headReader struct{ bytes.Reader }

// Read reads from memory.
func (h *headReader) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if h.Len() == 0 {
		h.Reset(nil)
	}
	return n, err
}

// WriteTo writes what is left.
func (h *headReader) WriteTo(w io.Writer) (int64, error) {
	defer h.Reset(nil)
	return h.Reader.WriteTo(w)
}

// release stops whoever still reads the rest and waits for that: reading a
// client's connection after its request has ended would steal from the next.
func (p *payload) release() {
	if p != nil && p.rest != nil {
		p.rest.release()
	}
}

type movingReader struct {
	r     io.Reader
	moved func()
}

func (m movingReader) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.moved()
	return n, err
}

// bodyStep is how much of a body may be waited for anew: a sender of single bytes
// gets one BodyStall for all of the next KiB.
const bodyStep = 1 << 10

// clientBody reads a body from the client under a limit and a rolling deadline.
// Its errors wrap one of the errBody sentinels. The deadline is there only while
// the client is waited for: over HTTP/2 one that passes ends the body, though it
// may be a pod that takes no more of it.
type clientBody struct {
	from  io.Reader
	ctl   *http.ResponseController
	stall time.Duration
	read  atomic.Int64 // bytes, from where the head ends
	over  atomic.Bool  // the request has ended
	// failed is the client's doing only.
	failed atomic.Pointer[error]

	mu   sync.Mutex    // held while reading
	left int64         // bytes that may still come
	due  int64         // bytes until the wait begins anew
	wait time.Duration // how long the client is still waited for until then
	err  error         // the end, once it was reached
}

// Read reads from the client.
func (b *clientBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over.Load() {
		return 0, errBodyClosed
	}
	if b.err != nil {
		return 0, b.err
	}
	if b.due <= 0 {
		b.due, b.wait = bodyStep, b.stall
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.waitLocked(p)
	b.due -= int64(n)
	b.left -= int64(n)
	b.read.Add(int64(n))
	if b.left < 0 {
		n, err = n-1, errBodyTooLarge
	}
	if err != nil {
		b.err = b.endLocked(err)
	}
	return n, b.err
}

// waitLocked reads while there is a deadline. After a clean end there must be none
// either: the server then watches the connection for the client's departure, and
// would take the deadline for it.
func (b *clientBody) waitLocked(p []byte) (int, error) {
	began := time.Now()
	b.deadline(began.Add(b.wait))
	if b.over.Load() {
		return 0, errBodyClosed
	}
	n, err := b.from.Read(p)
	b.deadline(time.Time{})
	b.wait -= time.Since(began)
	return n, err
}

// deadline sets the deadline of reads, or the one of the request's end, which is
// set by release after over. Not every writer can.
func (b *clientBody) deadline(t time.Time) {
	_ = b.ctl.SetReadDeadline(t)
	if b.over.Load() {
		_ = b.ctl.SetReadDeadline(past)
	}
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// endLocked classes an error.
func (b *clientBody) endLocked(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case b.over.Load():
		return errBodyClosed
	case errors.Is(err, errBodyTooLarge):
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errBodyStalled
	default:
		err = fmt.Errorf("%w: %w", errBodyBroken, err)
	}
	b.failed.Store(&err)
	return err
}

// release makes a pending read return and later ones fail. If nobody reads, the
// server may still drain a little of what is left; it gets a deadline for that.
func (b *clientBody) release() {
	b.over.Store(true)
	if b.mu.TryLock() {
		defer b.mu.Unlock()
		switch {
		case errors.Is(b.err, io.EOF):
		case errors.Is(b.err, errBodyStalled), errors.Is(b.err, errBodyBroken):
			_ = b.ctl.SetReadDeadline(past) // it had its time
		default:
			_ = b.ctl.SetReadDeadline(time.Now().Add(b.stall))
		}
		return
	}
	_ = b.ctl.SetReadDeadline(past)
	b.mu.Lock()
	defer b.mu.Unlock()
}
