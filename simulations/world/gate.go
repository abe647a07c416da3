package world

import (
	"context"
	"errors"
	"net"
	"sync"
)

// gate stands between a region and the rest of the world. While it is shut the
// region is a black hole: the kernel still completes handshakes, as it does for
// a stopped process, but nothing is accepted, read or written, and datagrams
// vanish.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while the gate is open
	shut bool
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

// set shuts or opens the gate.
func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == shut {
		return
	}
	if g.shut = shut; shut {
		g.open = make(chan struct{})
	} else {
		close(g.open)
	}
}

// isShut reports whether the region is a black hole now.
func (g *gate) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

// pass blocks while the gate is shut, and reports false if done is closed first.
func (g *gate) pass(done <-chan struct{}) bool {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	select {
	case <-open:
		return true
	case <-done:
		return false
	}
}

// listen opens a listener behind the gate.
func (g *gate) listen(ctx context.Context, network, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &gatedListener{Listener: l, gate: g, done: make(chan struct{})}, nil
}

// dial opens a connection out of the region, through the gate.
func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if !g.pass(ctx.Done()) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: context.Cause(ctx)}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return g.wrap(c), nil
}

func (g *gate) wrap(c net.Conn) *gatedConn {
	return &gatedConn{Conn: c, gate: g, done: make(chan struct{})}
}

type gatedListener struct {
	net.Listener
	gate *gate
	done chan struct{}
	once sync.Once
}

// Accept takes a connection while the gate is open.
func (l *gatedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !l.gate.pass(l.done) {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	return l.gate.wrap(c), nil
}

// Close closes the listener and wakes who waits at the gate.
func (l *gatedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// gatedConn reads and writes only while its gate is open. Its deadlines are
// those of the socket: a stopped process does not notice that they have passed
// until it goes on.
type gatedConn struct {
	net.Conn
	gate *gate
	done chan struct{}
	once sync.Once
}

// Read reads when the gate is open, before and after: bytes that arrived just
// before it shut wait as well.
func (c *gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.gate.pass(c.done) {
		return 0, net.ErrClosed
	}
	return n, err
}

// Write writes when the gate is open.
func (c *gatedConn) Write(b []byte) (int, error) {
	if !c.gate.pass(c.done) {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// Close closes the connection and wakes who waits at the gate.
func (c *gatedConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}

// SetLinger makes closing a reset, where the socket can.
func (c *gatedConn) SetLinger(seconds int) error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(seconds)
	}
	return errors.ErrUnsupported
}

// CloseWrite ends the sending side, where the socket can.
func (c *gatedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}
