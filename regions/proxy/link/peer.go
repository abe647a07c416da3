package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// ErrNotHTTP2 is the error for connecting to who does not answer HTTP/2's
// preface. Nothing else was sent by then.
var ErrNotHTTP2 = errors.New("the peer does not speak HTTP/2 over plain TCP")

// oldFor is how long who did not speak HTTP/2 is spoken to by HTTP/1.1 before it is
// tried again: a connection a minute is nothing, and a gateway that took a load
// balancer's place is found out soon.
const oldFor = time.Minute

// maxPeers bounds the memory of peers; endpoints come from certified regions, of
// which there are fewer.
const maxPeers = 4096

// peers are the other regions' plain endpoints, whose protocol is found out by
// trying.
type peers struct {
	now func() time.Time
	mu  sync.Mutex
	old map[string]time.Time // host and port: HTTP/1.1 until then; guarded by mu
}

// speaksOld reports that an endpoint did not speak HTTP/2 a short while ago.
func (p *peers) speaksOld(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.old[host]
	return ok && p.now().Before(until)
}

func (p *peers) note(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.old == nil || len(p.old) >= maxPeers {
		p.old = map[string]time.Time{}
	}
	p.old[host] = p.now().Add(oldFor)
}

// dial wraps a dialler so that it succeeds only with who speaks HTTP/2.
func (p *peers) dial(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		greeted, err := greet(ctx, c)
		switch {
		case err == nil:
			return greeted, nil
		case TimedOut(err): // silence says nothing of protocols: it hangs
		default:
			p.note(addr)
			err = fmt.Errorf("%w: %w", ErrNotHTTP2, err)
		}
		_ = c.Close()
		return nil, err
	}
}

// preface is what a client's side of a connection of HTTP/2 starts with (RFC 9113
// section 3.4). A server of HTTP/1.1 refuses it as a request of a version that it
// does not know, which is what it was chosen for.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const (
	frameHead    = 9 // bytes of a frame's head (RFC 9113 section 4.1)
	settingsType = 4 // the frame with which a server's side must start
)

// greet sends the preface and waits for the first frame's head, before any request
// is risked on the connection: a server of HTTP/1.1 may do with frames what it
// likes.
func greet(ctx context.Context, c net.Conn) (net.Conn, error) {
	if t, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(t) // a connection without deadlines is a test's
	}
	if _, err := io.WriteString(c, preface); err != nil {
		return nil, err
	}
	head := make([]byte, frameHead)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	if head[3] != settingsType || head[4] != 0 || [4]byte(head[5:]) != [4]byte{} {
		return nil, fmt.Errorf("it began with %q", head)
	}
	_ = c.SetDeadline(time.Time{})
	return &greetedConn{Conn: c, unread: head, unsent: len(preface)}, nil
}

// greetedConn is a connection on which the preface is sent and the answer's first
// bytes are read: both are shown once more to the transport. Reads and writes may
// go on at the same time, but not two of a kind.
type greetedConn struct {
	net.Conn
	unread []byte // read, but not by the transport
	unsent int    // bytes that the transport will send, but which are out already
}

// Read reads.
func (c *greetedConn) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Write writes.
func (c *greetedConn) Write(p []byte) (int, error) {
	out := min(c.unsent, len(p))
	c.unsent -= out
	if out == len(p) {
		return out, nil
	}
	n, err := c.Conn.Write(p[out:])
	return n + out, err
}
