package redirect

import (
	"io"
	"net/http"
	"strconv"
	"time"
)

// A body that nobody wants is taken from its connection, so that the connection
// can carry the next request, but not at any price.
const (
	// lingerBytes is what net/http takes as well: more costs more than a new
	// connection.
	lingerBytes = 256 << 10
	// lingerWait lets those bytes arrive at 1 Mbit/s.
	lingerWait = 2 * time.Second
)

// send answers at once, though the body may not have come. Left to itself,
// net/http waits for up to 256 KiB of it before it sends an answer.
//
// Full duplex turns that off, and with it the care for what is left of the body:
// if net/http meets its end after the handler, the next read of the connection
// panics. So the rest is read here, to its end, or the connection is closed.
func send(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	control := http.NewResponseController(w)
	ahead := r.ProtoMajor == 1 && r.Body != nil && r.Body != http.NoBody && control.EnableFullDuplex() == nil
	closing := status == http.StatusRequestTimeout || r.ContentLength < 0 || r.ContentLength > lingerBytes || r.Header.Get("Expect") != ""
	if ahead && closing {
		w.Header().Set("Connection", "close")
	}
	// With its length the answer is complete before the handler is.
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)                               // an error means that the client is gone
	if !ahead || status == http.StatusRequestTimeout { // the body had its time
		return
	}
	_ = control.Flush()
	_ = control.SetReadDeadline(time.Now().Add(lingerWait)) // whoever has full duplex has deadlines
	if closing {
		return
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		panic(http.ErrAbortHandler) // closes the connection, silently; the answer is out
	}
}
