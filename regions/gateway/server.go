package gateway

import (
	"log/slog"
	"net/http"
	"time"
)

// HeadLimits bound what a connection may take outside of a request's body.
type HeadLimits struct {
	// Size is the largest head in bytes, of 8 KiB at least; beyond it the answer is
	// 431. Over HTTP/2, where the library reads nothing beyond its limit, it is 4 KiB
	// less.
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

// What a connection of HTTP/2 may take.
const (
	// maxStreams is how many requests it may have at once (RFC 9113 section 5.1.2
	// advises against less than 100). Another gateway that spills more opens
	// another.
	maxStreams = 100
	// streamWindow is how much of a request's body comes before anybody here reads it:
	// 640 kB/s over a round trip of 100 ms. Less is not possible: clients send the
	// protocol's default of 64 KiB before they have heard of it. connWindow is for all
	// bodies of a connection, the most that the library takes: only beyond 63 bodies
	// that are stuck behind hung pods are others without room.
	streamWindow, connWindow = 64 << 10, 4<<20 - 1
	// pingAfter and pingWait find out that a client is gone without a word, whose
	// streams would else go on: as much as HTTP/1.1 has by TCP keep-alive.
	pingAfter, pingWait = 15 * time.Second, 15 * time.Second
	// writeWait is how long a connection may take no byte at all while there is
	// something for it. Nothing else bounds a client that goes on sending frames, which
	// puts the pings off, and reads none: the deadlines of its streams end these, and
	// the notes of that wait behind the write that is stuck.
	writeWait = 30 * time.Second
)

// NewServer makes the server of a client port: HTTP/1.1 and HTTP/2, which over
// plain TCP is spoken by who knows of it beforehand (h2c, RFC 9113 section 3.3; an
// upgrade from 1.1 is not taken up). Heads and idle connections are bounded. There
// is no bound on reading or writing a whole request, since a stream may take
// hours: handlers set rolling deadlines. log gets the server's own complaints, as
// debug: they are the clients' doing.
func NewServer(h http.Handler, head HeadLimits, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:   h,
		Protocols: protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:      maxStreams,
			MaxReceiveBufferPerStream: streamWindow, MaxReceiveBufferPerConnection: connWindow,
			SendPingTimeout: pingAfter, PingTimeout: pingWait, WriteByteTimeout: writeWait,
		},
		ReadHeaderTimeout: head.Time,
		IdleTimeout:       head.Idle,
		MaxHeaderBytes:    max(1, head.Size-headSlop), // 0 would be the library's 1 MiB
		// "OPTIONS *" is for the handler to refuse, as everything else is.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
