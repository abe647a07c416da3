// Package socket listens for a simulated pod: it tracks every connection, can
// refuse new ones as a draining Triton does, cut or reset all at once, and tells
// the ledger what the kernel took of each answer.
package socket

import (
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// Listener tracks the connections that it accepted.
type Listener struct {
	net.Listener
	wg sync.WaitGroup // connections

	mu      sync.Mutex // guards the fields below
	conns   map[*Conn]struct{}
	dead    bool
	refuses bool          // new connections are closed unread
	idle    chan struct{} // closed when refusing and no connection is left
}

// New takes over a listener.
func New(ln net.Listener) *Listener {
	return &Listener{Listener: ln, conns: make(map[*Conn]struct{}), idle: make(chan struct{})}
}

// Accept returns the next connection that is to be served. While the listener
// refuses, a new one is closed without a byte (Triton's pre-accept hook), which
// its client sees as an end of file, or as a reset if it has written already.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &Conn{Conn: raw, ln: l, jobs: make(map[*core.Job]struct{})}
		l.mu.Lock()
		refused := l.dead || l.refuses
		if !refused {
			l.conns[c] = struct{}{}
			l.wg.Add(1)
		}
		l.mu.Unlock()
		if !refused {
			return c, nil
		}
		_ = raw.Close() // nothing was promised on it
	}
}

// Refuse closes new connections unread from now on. The channel is closed when
// none of the others is left.
func (l *Listener) Refuse() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuses = true
	l.checkIdleLocked()
	return l.idle
}

func (l *Listener) checkIdleLocked() {
	if !l.refuses || len(l.conns) > 0 {
		return
	}
	select {
	case <-l.idle:
	default:
		close(l.idle)
	}
}

// Conns lists the open connections.
func (l *Listener) Conns() []*Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*Conn, 0, len(l.conns))
	for c := range l.conns {
		all = append(all, c)
	}
	return all
}

// Silence lets no further write begin on any connection, and has them end with a
// reset if asked for.
func (l *Listener) Silence(reset bool) {
	l.mu.Lock()
	l.dead = true
	l.mu.Unlock()
	for _, c := range l.Conns() {
		c.silence(reset)
	}
}

// Kill closes the listener and all connections, with resets if asked for.
func (l *Listener) Kill(reset bool) {
	l.Silence(reset)
	_ = l.Close() // a listener that is closed twice is still closed
	for _, c := range l.Conns() {
		c.Cut(reset)
	}
}

// Wait returns when no connection is left.
func (l *Listener) Wait() { l.wg.Wait() }

// Serve makes a server for HTTP/1.1 over the listener keep the connections'
// books: a request's answer is settled when the connection is idle or closed.
// Its handlers find the connection by Of.
func Serve(srv *http.Server) {
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, key{}, c)
	}
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		switch tracked := c.(*Conn); state {
		case http.StateIdle:
			tracked.settle()
		case http.StateClosed:
			tracked.settle()
			tracked.forget()
		}
	}
}

type key struct{}

// Of is the connection that a request to such a server came on.
func Of(ctx context.Context) *Conn {
	c, _ := ctx.Value(key{}).(*Conn)
	return c
}
