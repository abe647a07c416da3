package heads

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// Secure is a listener of TLS. It shakes hands before a connection is accepted, so
// that heads of HTTP/1.1 can be checked behind it; those of HTTP/2 are given to the
// server as net/http wants them, as a [tls.Conn]. Make it with [ListenTLS].
type Secure struct {
	net.Listener
	config *tls.Config
	wait   time.Duration
	log    *slog.Logger

	ready chan accepted
	done  chan struct{} // closed by Close
	close sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

// ListenTLS puts TLS and the check before a listener. A client has the time of wait
// for its handshake. Handshakes that fail are logged as debug: they are the clients'
// doing.
func ListenTLS(l net.Listener, config *tls.Config, wait time.Duration, log *slog.Logger) *Secure {
	return &Secure{Listener: l, config: config, wait: wait, log: log, ready: make(chan accepted), done: make(chan struct{})}
}

// Accept gives the next connection whose handshake is done.
func (s *Secure) Accept() (net.Conn, error) {
	select {
	case a := <-s.ready:
		return a.conn, a.err
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close ends the listener, and with it Run.
func (s *Secure) Close() error {
	s.close.Do(func() { close(s.done) })
	return s.Listener.Close()
}

// Run takes connections until the listener is closed. An error that is not the end,
// as for want of file descriptors, is given to who accepts, whose pace is kept.
func (s *Secure) Run() {
	ctx, cancel := context.WithCancel(context.Background())
	var shaking sync.WaitGroup
	defer shaking.Wait()
	defer cancel()
	for {
		c, err := s.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			if !s.give(accepted{err: err}) {
				return
			}
		default:
			shaking.Go(func() { s.shake(ctx, c) })
		}
	}
}

// give hands something to who accepts, unless nobody will.
func (s *Secure) give(a accepted) bool {
	select {
	case s.ready <- a:
		return true
	case <-s.done:
		return false
	}
}

// shake shakes hands with a client.
func (s *Secure) shake(ctx context.Context, raw net.Conn) {
	c := tls.Server(raw, s.config)
	_ = c.SetDeadline(time.Now().Add(s.wait))
	if err := c.HandshakeContext(ctx); err != nil {
		var not tls.RecordHeaderError
		if errors.As(err, &not) && not.Conn != nil && startsHTTP(not.RecordHeader[:]) {
			_, _ = io.WriteString(not.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nThis is an HTTPS port, and the request is plain HTTP.\n")
		}
		s.log.Debug("no TLS", "client", raw.RemoteAddr(), "error", err)
		_ = raw.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	a := accepted{conn: c}
	if c.ConnectionState().NegotiatedProtocol != "h2" {
		a.conn = &secureConn{conn{Conn: c}, c}
	}
	if !s.give(a) {
		_ = raw.Close()
	}
}

// startsHTTP reports that the first bytes are those of a request in plain words.
func startsHTTP(b []byte) bool {
	return slices.Contains([]string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO"}, string(b))
}

// secureConn is a connection of HTTP/1.1 over TLS.
type secureConn struct {
	conn
	tls *tls.Conn
}

// ConnectionState is what net/http puts into requests.
func (c *secureConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// NetConn is the connection below TLS.
func (c *secureConn) NetConn() net.Conn { return c.tls.NetConn() }
