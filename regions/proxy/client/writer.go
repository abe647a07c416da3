package client

import (
	"net"
	"net/http"
	"time"
)

// writeStep is how much of an answer may be waited for anew: a reader of single
// bytes gets one stall for all of the next KiB, as a sender does.
const writeStep = 1 << 10

// Writer writes the answer under a rolling deadline and remembers whether
// the client failed to take it. The deadline is there only while something is
// written: over HTTP/2 one that passes cuts the stream, though nobody waits for
// the client. Nor does the time between two writes count.
type Writer struct {
	http.ResponseWriter
	ctl   *http.ResponseController
	stall time.Duration
	Begun bool  // the answer's head was written
	Err   error // of a write

	due   int           // bytes until the wait begins anew
	wait  time.Duration // how long the client is still waited for until then
	since time.Time     // when the wait began
}

// NewWriter makes a writer for a client that may take as long as stall for each
// write.
func NewWriter(w http.ResponseWriter, stall time.Duration) *Writer {
	return &Writer{ResponseWriter: w, ctl: http.NewResponseController(w), stall: stall}
}

// Control controls the connection below.
func (w *Writer) Control() *http.ResponseController { return w.ctl }

// Unwrap lets http.ResponseController reach the server's writer.
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader writes the head; interim answers don't count as one.
func (w *Writer) WriteHeader(status int) {
	w.Extend()
	if status >= http.StatusOK {
		w.Begun = true
	}
	w.ResponseWriter.WriteHeader(status)
	w.Lift()
}

// Write writes a part of the body.
func (w *Writer) Write(p []byte) (int, error) {
	w.Extend()
	n, err := w.ResponseWriter.Write(p)
	w.due -= n
	w.Lift()
	w.note(err)
	return n, err
}

// FlushError sends what is buffered.
func (w *Writer) FlushError() error {
	w.Extend()
	err := w.ctl.Flush()
	w.Lift()
	w.note(err)
	return err
}

func (w *Writer) note(err error) {
	if err != nil && w.Err == nil {
		w.Err = err
	}
}

// Extend gives the next write its time. Writers that have no deadlines, such as
// recorders, are left alone.
func (w *Writer) Extend() {
	if w.due <= 0 {
		w.due, w.wait = writeStep, w.stall
	}
	w.since = time.Now()
	_ = w.ctl.SetWriteDeadline(w.since.Add(w.wait))
}

// Lift takes the deadline away.
func (w *Writer) Lift() {
	w.wait -= time.Since(w.since)
	_ = w.ctl.SetWriteDeadline(time.Time{})
}

// Reset cuts a client's connection with a reset. An HTTP/1.0 client reads an
// answer until the connection ends, so only a reset tells it that there was
// more to come (RFC 9112 section 8).
func (w *Writer) Reset() {
	conn, _, err := w.ctl.Hijack()
	if err != nil {
		return // the server will close it
	}
	// A reset is asked of TCP below TLS, whose own closing would look like an end.
	under := conn
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		under = secure.NetConn()
	}
	if tcp, ok := under.(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = under.Close()
}
