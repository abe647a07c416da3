package gateway

import (
	"log/slog"
	"net/http"
	"time"
)

const (
	// headerTime is how long a client may take for a request's head, and
	// idleTime how long a connection may wait for its next request.
	headerTime = 5 * time.Second
	idleTime   = 60 * time.Second
	// maxHead bounds a request's head in bytes; beyond it the answer is 431.
	maxHead = 32 << 10
	// headSlop is what net/http reads beyond MaxHeaderBytes.
	headSlop = 4 << 10
)

// NewServer makes the server of a client port: HTTP/1.1, with bounds on heads
// and idle connections. There is no bound on reading or writing a whole
// request, since a stream may take hours: handlers set rolling deadlines. log
// gets the server's own complaints, as debug: they are the clients' doing.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHead - headSlop,
		// "OPTIONS *" is for the handler to refuse, as everything else is.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
