// Package client is the client's side of a request on its way through the proxy:
// its body, which may come slowly, be broken or be too large, and the writer of
// its answer, which may not be taken. What goes wrong here is the client's doing
// and never a pod's. Deadlines roll: a stream may last for hours, a stall may not.
package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// What can be wrong with a client's body.
var (
	ErrTooLarge = errors.New("request body too large")
	ErrStalled  = errors.New("request body stalled")
	ErrBroken   = errors.New("request body broken")
	ErrClosed   = errors.New("request body closed: the request has ended")
)

// Limits bound a body.
type Limits struct {
	// Size is the most bytes, and Buffer the most that are kept in memory.
	Size, Buffer int64
	// Stall is how long the client may take for the next KiB.
	Stall time.Duration
}

// Body is a request's body as it is sent to pods: its head in memory, and
// the rest, if any, still at the client. A body without rest can be sent
// again at any time, one with it until the rest was touched.
type Body struct {
	head   []byte
	rest   *source // nil: the head is all
	length int64   // in bytes, -1 if unknown
}

// Read reads the body into memory if it is small enough to be kept for a
// replay. Doing so before a pod is claimed keeps slow and broken senders from
// taking slots.
func Read(r *http.Request, ctl *http.ResponseController, l Limits) (*Body, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return &Body{}, nil
	}
	if r.ContentLength > l.Size {
		return nil, ErrTooLarge
	}
	rest := &source{from: r.Body, ctl: ctl, left: l.Size, stall: l.Stall}
	if r.ContentLength > l.Buffer {
		return &Body{rest: rest, length: r.ContentLength}, nil
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
		return &Body{head: buf.Bytes(), length: n}, nil
	}
	rest.read.Store(0)
	return &Body{head: buf.Bytes(), rest: rest, length: r.ContentLength}, nil
}

// Stream takes a body that is one half of a conversation: it goes on as it comes, may
// pause for as long as the answer does, and is never sent again once it was touched.
func Stream(r *http.Request, ctl *http.ResponseController) *Body {
	return &Body{rest: &source{from: r.Body, ctl: ctl, left: math.MaxInt64, patient: true}, length: -1}
}

// Whole reports that all of the body is in memory.
func (b *Body) Whole() bool { return b.rest == nil }

// Length is its length in bytes, -1 if that is not known.
func (b *Body) Length() int64 { return b.length }

// Bytes is the body if it is whole and was not let go of. It is not to be changed.
func (b *Body) Bytes() []byte { return b.head }

// Intact reports that the body can be sent from its beginning.
func (b *Body) Intact() bool { return b.rest == nil || b.rest.read.Load() == 0 }

// Failure is what the client did wrong while its body was streamed.
func (b *Body) Failure() error {
	if b == nil || b.rest == nil {
		return nil
	}
	if err := b.rest.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Peek is a body for the request before an attempt is made; nobody reads it.
func (b *Body) Peek() io.ReadCloser {
	if b.length == 0 {
		return http.NoBody
	}
	return io.NopCloser(bytes.NewReader(nil))
}

// Open is the body from its beginning, for one attempt. moved is called as the
// rest streams.
func (b *Body) Open(moved func()) io.ReadCloser {
	switch {
	case b.length == 0:
		return http.NoBody
	case b.rest == nil:
		return io.NopCloser(&headReader{*bytes.NewReader(b.head)})
	default:
		return &restBody{io.MultiReader(&headReader{*bytes.NewReader(b.head)}, movingReader{b.rest, moved}), b.rest}
	}
}

// restBody is a body that is not all in memory.
type restBody struct {
	io.Reader
	from *source
}

// Close ends a wait for a client that may be silent for as long as it likes: the
// library closes a body when its connection is lost, and waits for who reads it. One of
// which nothing was read is for the next attempt.
func (b *restBody) Close() error {
	if b.from.patient && b.from.read.Load() > 0 {
		b.from.release()
	}
	return nil
}

// Forget lets go of the head once there is an answer: nothing is replayed after
// that, and a stream lives for long.
func (b *Body) Forget() { b.head = nil }

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

// Release stops whoever still reads the rest and waits for that: reading a
// client's connection after its request has ended would steal from the next.
func (b *Body) Release() {
	if b != nil && b.rest != nil {
		b.rest.release()
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

// source reads a body from the client under a limit and a rolling deadline.
// Its errors wrap one of the errBody sentinels. The deadline is there only while
// the client is waited for: over HTTP/2 one that passes ends the body, though it
// may be a pod that takes no more of it.
type source struct {
	from  io.Reader
	ctl   *http.ResponseController
	stall time.Duration
	// patient sources are waited for without end.
	patient bool
	read    atomic.Int64 // bytes, from where the head ends
	over    atomic.Bool  // the request has ended
	ending  sync.Once    // who ends it waits for who is ending it: the writer is not ours for longer
	// failed is the client's doing only.
	failed atomic.Pointer[error]

	mu   sync.Mutex    // held while reading
	left int64         // bytes that may still come
	due  int64         // bytes until the wait begins anew
	wait time.Duration // how long the client is still waited for until then
	err  error         // the end, once it was reached
}

// Read reads from the client.
func (b *source) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over.Load() {
		return 0, ErrClosed
	}
	if b.err != nil {
		return 0, b.err
	}
	if b.due <= 0 {
		b.due, b.wait = bodyStep, b.stall
	}
	if int64(len(p))-1 > b.left {
		p = p[:b.left+1]
	}
	n, err := b.waitLocked(p)
	b.due -= int64(n)
	b.left -= int64(n)
	b.read.Add(int64(n))
	if b.left < 0 {
		n, err = n-1, ErrTooLarge
	}
	if err != nil {
		b.err = b.endLocked(err)
	}
	return n, b.err
}

// waitLocked reads while there is a deadline. After a clean end there must be none
// either: the server then watches the connection for the client's departure, and
// would take the deadline for it.
func (b *source) waitLocked(p []byte) (int, error) {
	if b.patient {
		return b.from.Read(p)
	}
	began := time.Now()
	b.deadline(began.Add(b.wait))
	if b.over.Load() {
		return 0, ErrClosed
	}
	n, err := b.from.Read(p)
	b.deadline(time.Time{})
	b.wait -= time.Since(began)
	return n, err
}

// deadline sets the deadline of reads, or the one of the request's end, which is
// set by release after over. Not every writer can.
func (b *source) deadline(t time.Time) {
	_ = b.ctl.SetReadDeadline(t)
	if b.over.Load() {
		_ = b.ctl.SetReadDeadline(past)
	}
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// endLocked classes an error.
func (b *source) endLocked(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case b.over.Load():
		return ErrClosed
	case errors.Is(err, ErrTooLarge):
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = ErrStalled
	default:
		err = fmt.Errorf("%w: %w", ErrBroken, err)
	}
	b.failed.Store(&err)
	return err
}

// release makes a pending read return and later ones fail. If nobody reads, the
// server may still drain a little of what is left; it gets a deadline for that.
func (b *source) release() { b.ending.Do(b.finish) }

func (b *source) finish() {
	b.over.Store(true)
	if b.mu.TryLock() {
		defer b.mu.Unlock()
		switch {
		case b.patient, errors.Is(b.err, io.EOF):
		case errors.Is(b.err, ErrStalled), errors.Is(b.err, ErrBroken):
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
