// Package link keeps a proxy's connections: to pods over HTTP/1.1 and, for gRPC,
// over HTTP/2, and to the gateways of other regions over HTTP/2 unless something
// between does not speak it.
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// idleConns is how many idle connections a pod may have: more sequences
	// than one GPU runs at a time.
	idleConns = 128
	// idleFor is how long a connection is kept unused. Under load it is used
	// again within milliseconds. Triton's OpenAI frontend closes after 5 s, and
	// a pod that shuts down waits for idle connections: stay below.
	idleFor = 4 * time.Second
	// maxAnswerFields bounds an answer's head in bytes; Triton's is under 1 KiB.
	maxAnswerFields = 64 << 10
	// idlePeer is how long a connection to another region is kept unused: a spill
	// that comes and goes by the second should not pay three round trips each time.
	// It is half of what the other gateway allows, lest a request meet that end's
	// closing.
	idlePeer = 30 * time.Second
	// peerPingAfter and peerPingWait bound how long a region that vanished holds
	// requests on a connection of HTTP/2: 5 s after its last frame they are lost and
	// can be sent elsewhere. A round trip takes 0.4 s at most.
	peerPingAfter, peerPingWait = 3 * time.Second, 2 * time.Second
)

// Options say how connections are opened.
type Options struct {
	// Dial opens them, each within Timeout; a TLS handshake may take as long again.
	Dial    DialFunc
	Timeout time.Duration
	// TLS is used towards https endpoints of other regions. Nil: the system's roots,
	// no client certificate.
	TLS *tls.Config
	Now func() time.Time
}

// DialFunc opens a connection.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Links are the ways to pods and regions. Bodies that stream through go to regions by
// HTTP/1.1, each on a connection of its own: one that is stuck must not hold others
// up. (A burst that finds no connection of HTTP/2 opens several.)
//
// gRPC connections to pods send no pings: a Triton that gets more than two within
// five minutes without having sent data closes the connection. A host that vanishes
// is found out by TCP's own keep-alive, see [Dialer].
type Links struct {
	pooled *http.Transport // HTTP/1.1, keeps connections
	fresh  *http.Transport // HTTP/1.1, one connection per request
	secure *http.Transport // over TLS, whose handshake chooses the protocol
	plain  *http.Transport // HTTP/2 over plain TCP, to regions
	call   *http.Transport // HTTP/2 over plain TCP, to pods, for gRPC
	recall *http.Transport // the same, one connection per request
	tunnel *http.Transport // HTTP/2 over TLS, to regions, for gRPC
	peers  peers
}

// New makes links without connections.
func New(o Options) *Links {
	l := &Links{}
	l.pooled, l.fresh = newTransport(o, o.Dial), newTransport(o, o.Dial)
	l.pooled.Protocols.SetHTTP1(true)
	l.fresh.Protocols.SetHTTP1(true)
	l.call, l.recall = newTransport(o, o.Dial), newTransport(o, o.Dial)
	l.call.Protocols.SetUnencryptedHTTP2(true)
	l.recall.Protocols.SetUnencryptedHTTP2(true)
	l.fresh.DisableKeepAlives, l.recall.DisableKeepAlives = true, true
	l.secure, l.tunnel = newTransport(o, o.Dial), newTransport(o, o.Dial)
	l.secure.Protocols.SetHTTP1(true)
	l.secure.Protocols.SetHTTP2(true)
	l.tunnel.Protocols.SetHTTP2(true)
	l.plain = newTransport(o, l.peers.dial(o.Dial))
	l.plain.Protocols.SetUnencryptedHTTP2(true)
	for _, t := range []*http.Transport{l.secure, l.tunnel, l.plain} {
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: peerPingAfter, PingTimeout: peerPingWait}
		t.IdleConnTimeout = idlePeer
	}
	l.peers.now = o.Now
	return l
}

// Target is where a request goes and what the way there must allow.
type Target struct {
	Scheme, Host string
	Region       bool // another region's gateway, else a pod
	GRPC         bool
	// Fresh demands a connection that was not used before: what closed another may
	// have closed all of them.
	Fresh bool
	// Whole says that the body is in memory.
	Whole bool
}

// To is the way to a target.
func (l *Links) To(t Target) *http.Transport {
	switch {
	case t.GRPC && !t.Region && t.Fresh:
		return l.recall
	case t.GRPC && !t.Region:
		return l.call
	case t.GRPC && t.Scheme == "https":
		return l.tunnel
	case t.GRPC:
		return l.plain
	case t.Fresh:
		return l.fresh
	case !t.Region || !t.Whole:
		return l.pooled
	case t.Scheme == "https":
		return l.secure
	case l.peers.speaksOld(t.Host):
		return l.pooled
	default:
		return l.plain
	}
}

// CloseIdle closes the connections that no request uses.
func (l *Links) CloseIdle() {
	for _, t := range []*http.Transport{l.pooled, l.secure, l.plain, l.call, l.tunnel} {
		t.CloseIdleConnections()
	}
}

// Dialer opens connections over which a host that vanishes under a silent stream is
// noticed within 15 s + 3 × 5 s.
func Dialer() *net.Dialer {
	return &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
	}}
}

// newTransport makes a transport without protocols: never by way of a proxy of the
// environment, and without a compression of its own.
func newTransport(o Options, dial DialFunc) *http.Transport {
	return &http.Transport{
		DisableCompression:     true,
		MaxIdleConnsPerHost:    idleConns,
		IdleConnTimeout:        idleFor,
		MaxResponseHeaderBytes: maxAnswerFields,
		TLSClientConfig:        o.TLS.Clone(),
		TLSHandshakeTimeout:    o.Timeout,
		Protocols:              new(http.Protocols),
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, o.Timeout)
			defer cancel()
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &Conn{Conn: c}, nil
		},
	}
}

// Conn counts what is written, which is the only proof that a request that failed on
// a kept connection never left this machine.
type Conn struct {
	net.Conn
	wrote atomic.Int64
}

// Write counts and writes.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wrote.Add(int64(n))
	return n, err
}

// Wrote is how many bytes were written.
func (c *Conn) Wrote() int64 { return c.wrote.Load() }

// Scarce reports that connecting failed for want of something here: file descriptors,
// ports or memory. That is no sight of the pod.
func Scarce(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// ErrNotBegun is the error of a request that its receiver has not begun, as HTTP/2 can
// tell (RFC 9113 section 8.7).
var ErrNotBegun = errors.New("the other end has not begun the request")

// notBegun are the library's words for the two ways to tell: a stream that is refused,
// and one beyond the last that a connection which is closed takes. There is no value of
// it once a body was written, and of what else the library would send again itself some
// may have begun.
var notBegun = [...]string{"REFUSED_STREAM", "graceful shutdown GOAWAY"}

// Begun is an error of a round trip, marked with ErrNotBegun if it is one.
func Begun(err error) error {
	text := err.Error()
	if strings.HasPrefix(text, "http2: server sent GOAWAY and closed") { // it has words of the other end's
		return err
	}
	for _, words := range notBegun {
		if strings.Contains(text, words) {
			return fmt.Errorf("%w: %w", ErrNotBegun, err)
		}
	}
	return err
}

// TimedOut reports that an error is a deadline's.
func TimedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}
