package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
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
	// peerPingAfter and peerPingWait bound how long a region that vanished holds
	// requests on a connection of HTTP/2: 5 s after its last frame they are lost and
	// can be sent elsewhere. A round trip takes 0.4 s at most.
	peerPingAfter, peerPingWait = 3 * time.Second, 2 * time.Second
)

// links are the ways to pods and regions. Pods speak HTTP/1.1 only; another
// region's gateway is spoken to over HTTP/2, with many streams on a connection,
// unless something between does not speak it. (A burst that finds no connection
// opens several.) Bodies that stream through go by HTTP/1.1, each on a connection of
// its own: one that is stuck must not hold others up.
type links struct {
	pooled *http.Transport // HTTP/1.1, keeps connections
	fresh  *http.Transport // HTTP/1.1, one connection per request
	secure *http.Transport // over TLS, whose handshake chooses the protocol
	plain  *http.Transport // HTTP/2 over plain TCP
	peers  peers
}

func newLinks(o Options) *links {
	l := &links{}
	l.pooled, l.fresh = newTransport(o, o.Dial), newTransport(o, o.Dial)
	l.pooled.Protocols.SetHTTP1(true)
	l.fresh.Protocols.SetHTTP1(true)
	l.fresh.DisableKeepAlives = true
	l.secure = newTransport(o, o.Dial)
	l.secure.Protocols.SetHTTP1(true)
	l.secure.Protocols.SetHTTP2(true)
	l.plain = newTransport(o, l.peers.dial(o.Dial))
	l.plain.Protocols.SetUnencryptedHTTP2(true)
	for _, t := range []*http.Transport{l.secure, l.plain} {
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: peerPingAfter, PingTimeout: peerPingWait}
		t.IdleConnTimeout = idlePeer
	}
	l.peers.now = o.Now
	return l
}

// idlePeer is how long a connection to another region is kept unused: a spill that
// comes and goes by the second should not pay three round trips each time. It is
// half of what the other gateway allows, lest a request meet that end's closing.
const idlePeer = 30 * time.Second

// to is the way to a place. A replay never rides on a kept connection: whatever
// closed the first one may have closed them all.
func (l *links) to(p place, replays int, whole bool) *http.Transport {
	switch {
	case replays > 0:
		return l.fresh
	case p.pod != "" || !whole:
		return l.pooled
	case p.scheme == "https":
		return l.secure
	case l.peers.speaksOld(p.host):
		return l.pooled
	default:
		return l.plain
	}
}

func (l *links) closeIdle() {
	for _, t := range []*http.Transport{l.pooled, l.secure, l.plain} {
		t.CloseIdleConnections()
	}
}

// dialFunc opens a connection.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// newTransport makes a transport without protocols: never by way of a proxy of the
// environment, and without a compression of its own.
func newTransport(o Options, dial dialFunc) *http.Transport {
	return &http.Transport{
		DisableCompression:     true,
		MaxIdleConnsPerHost:    idleConns,
		IdleConnTimeout:        idleFor,
		MaxResponseHeaderBytes: maxAnswerFields,
		TLSClientConfig:        o.SpillTLS.Clone(),
		TLSHandshakeTimeout:    o.Limits.Dial,
		Protocols:              new(http.Protocols),
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, o.Limits.Dial)
			defer cancel()
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &countedConn{Conn: c}, nil
		},
	}
}

// countedConn counts what is written, which is the only proof that a request
// that failed on a kept connection never left this machine.
type countedConn struct {
	net.Conn
	wrote atomic.Int64
}

// Write counts and writes.
func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wrote.Add(int64(n))
	return n, err
}

// ownTrouble reports that connecting failed for want of something here: file
// descriptors, ports or memory. That is no sight of the pod.
func ownTrouble(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// timedOut reports that an error is a deadline's.
func timedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}
