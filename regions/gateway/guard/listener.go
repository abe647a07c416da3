package guard

import "net"

// Listen puts the guard before a listener: what there is no room for is accepted
// and reset at once, so that its client knows, and nothing is left of it here.
// (Left in the kernel's queue it would be waited for, and take the place of others.)
func (g *Guard) Listen(l net.Listener) net.Listener { return &listener{l, g} }

type listener struct {
	net.Listener
	guard *Guard
}

// Accept accepts the next connection that there is room for.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if in := l.guard.enter(c); in != nil {
			return in, nil
		}
		if tcp, ok := c.(interface{ SetLinger(int) error }); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}
