package gateway

import (
	"log/slog"
	"net/http"
	"time"
)

// HeadLimits bound what a connection may take outside of a request's body.
type HeadLimits struct {
	// Size is the largest head in bytes; beyond it the answer is 431.
	Size int
	// Time is how long a client may take for a head.
	Time time.Duration
	// Idle is how long a connection may wait for its next request.
	Idle time.Duration
}

// DefaultHeadLimits are 32 KiB, four times what SDKs with a large token send,
// within 5 s, and a minute idle.
func DefaultHeadLimits() HeadLimits {
	return HeadLimits{Size: 32 << 10, Time: 5 * time.Second, Idle: time.Minute}
}

// headSlop is what net/http reads beyond MaxHeaderBytes.
const headSlop = 4 << 10

// NewServer makes the server of a client port: HTTP/1.1, with bounds on heads
// and idle connections. There is no bound on reading or writing a whole
// request, since a stream may take hours: handlers set rolling deadlines. log
// gets the server's own complaints, as debug: they are the clients' doing.
func NewServer(h http.Handler, head HeadLimits, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: head.Time,
		IdleTimeout:       head.Idle,
		MaxHeaderBytes:    head.Size - headSlop,
		// "OPTIONS *" is for the handler to refuse, as everything else is.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
