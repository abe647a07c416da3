package proxy

import (
	"net"
	"net/http"
	"time"
)

// writeStep is how much of an answer may be waited for anew: a reader of single
// bytes gets one stall for all of the next KiB, as a sender does.
const writeStep = 1 << 10

// clientWriter writes the answer under a rolling deadline and remembers whether
// the client failed to take it. The deadline is there only while something is
// written: over HTTP/2 one that passes cuts the stream, though nobody waits for
// the client. Nor does the time between two writes count.
type clientWriter struct {
	http.ResponseWriter
	ctl   *http.ResponseController
	stall time.Duration
	begun bool  // the answer's head was written
	err   error // of a write

	due   int           // bytes until the wait begins anew
	wait  time.Duration // how long the client is still waited for until then
	since time.Time     // when the wait began
}

// Unwrap lets http.ResponseController reach the server's writer.
func (w *clientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader writes the head; interim answers don't count as one.
func (w *clientWriter) WriteHeader(status int) {
	w.extend()
	if status >= http.StatusOK {
		w.begun = true
	}
	w.ResponseWriter.WriteHeader(status)
	w.lift()
}

// Write writes a part of the body.
func (w *clientWriter) Write(p []byte) (int, error) {
	w.extend()
	n, err := w.ResponseWriter.Write(p)
	w.due -= n
	w.lift()
	w.note(err)
	return n, err
}

// FlushError sends what is buffered.
func (w *clientWriter) FlushError() error {
	w.extend()
	err := w.ctl.Flush()
	w.lift()
	w.note(err)
	return err
}

func (w *clientWriter) note(err error) {
	if err != nil && w.err == nil {
		w.err = err
	}
}

// extend gives the next write its time. Writers that have no deadlines, such as
// recorders, are left alone.
func (w *clientWriter) extend() {
	if w.due <= 0 {
		w.due, w.wait = writeStep, w.stall
	}
	w.since = time.Now()
	_ = w.ctl.SetWriteDeadline(w.since.Add(w.wait))
}

// lift takes the deadline away.
func (w *clientWriter) lift() {
	w.wait -= time.Since(w.since)
	_ = w.ctl.SetWriteDeadline(time.Time{})
}

// reset cuts a client's connection with a reset. An HTTP/1.0 client reads an
// answer until the connection ends, so only a reset tells it that there was
// more to come (RFC 9112 section 8).
func (w *clientWriter) reset() {
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
