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
)

// newTransport makes the transport to pods and regions: HTTP/1.1, never by way
// of a proxy of the environment, and without a compression of its own.
func newTransport(o Options, keep bool) *http.Transport {
	t := &http.Transport{
		DisableCompression:     true,
		DisableKeepAlives:      !keep,
		MaxIdleConnsPerHost:    idleConns,
		IdleConnTimeout:        idleFor,
		MaxResponseHeaderBytes: maxAnswerFields,
		TLSClientConfig:        o.SpillTLS,
		TLSHandshakeTimeout:    o.Limits.Dial,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, o.Limits.Dial)
		defer cancel()
		c, err := o.Dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &countedConn{Conn: c}, nil
	}
	return t
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
