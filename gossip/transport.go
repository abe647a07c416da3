package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// dialTimeout bounds connecting: twice the longest round trip between regions
	// and one lost SYN (repeated after 1 s). memberlist's own timeout, 5 s, is for
	// the whole exchange, and a black hole must not hold a rejoin up that long.
	dialTimeout = 2 * time.Second
	// bindTries is how often a free port is looked for that is free for both TCP
	// and UDP.
	bindTries = 10
	// receiveBuffer is asked of the kernel for packets: 2 s of statuses of 200
	// members, should the process be stopped for a moment.
	receiveBuffer = 1 << 20
)

// sockets is the memberlist transport over one TCP and one UDP port. It differs
// from memberlist's own in that it binds without starting anything (so that a
// taken port shows at once, and the port is known before the node runs), bounds
// and counts streams, ends all of them when shut down, and can impair a link.
type sockets struct {
	tcp       *net.TCPListener
	udp       *net.UDPConn
	bound     netip.AddrPort
	advertise netip.AddrPort
	impair    func(netip.Addr) Impairment
	metrics   *metrics

	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{} // closed by Shutdown
	wg      sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	conns    map[*stream]struct{}
	dials    map[int]context.CancelFunc
	lastDial int
}

var _ memberlist.NodeAwareTransport = (*sockets)(nil)

// bind opens the sockets and starts nothing.
func bind(o *Options, m *metrics) (*sockets, error) {
	s := &sockets{
		impair: o.Impair, metrics: m,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), done: make(chan struct{}),
		conns: map[*stream]struct{}{}, dials: map[int]context.CancelFunc{},
	}
	var err error
	for range bindTries {
		if err = s.listen(o.Bind); err == nil || o.Bind.Port() != 0 {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	_ = s.udp.SetReadBuffer(receiveBuffer) // the kernel may give less, which is fine
	s.advertise = s.bound
	if a := o.Advertise; a.Addr().IsValid() {
		s.advertise = a
		if a.Port() == 0 {
			s.advertise = netip.AddrPortFrom(a.Addr(), s.bound.Port())
		}
	}
	return s, nil
}

// listen opens one port for TCP and UDP.
func (s *sockets) listen(at netip.AddrPort) error {
	family := "4"
	if at.Addr().Is6() && !at.Addr().Is4In6() {
		family = "6"
	}
	tcp, err := net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("listen for gossip on %s (TCP): %w", at, err)
	}
	port := tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	bound := netip.AddrPortFrom(at.Addr().Unmap(), port)
	udp, err := net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(bound))
	if err != nil {
		return errors.Join(fmt.Errorf("listen for gossip on %s (UDP): %w", bound, err), tcp.Close())
	}
	s.tcp, s.udp, s.bound = tcp, udp, bound
	return nil
}

// start begins to receive.
func (s *sockets) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed { // meanwhile, and may be waiting for what runs
		return
	}
	s.wg.Go(s.receive)
	s.wg.Go(s.accept)
}

// link is what the link to a peer suffers.
func (s *sockets) link(peer netip.Addr) Impairment {
	if s.impair == nil {
		return Impairment{}
	}
	return s.impair(peer.Unmap())
}

func (s *sockets) receive() {
	buf := make([]byte, 64<<10) // the most a UDP packet holds
	for {
		size, from, err := s.udp.ReadFromUDPAddrPort(buf)
		at := time.Now()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // of an earlier send, as ECONNREFUSED; reading goes on
		}
		if size == 0 || s.link(from.Addr()).Cut {
			continue
		}
		s.metrics.bytes.WithLabelValues("received", "packet").Add(float64(size))
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:size]...), From: net.UDPAddrFromAddrPort(from), Timestamp: at}
		select {
		case s.packets <- p:
		case <-s.done:
			return
		}
	}
}

func (s *sockets) accept() {
	const pause = 50 * time.Millisecond // when there are no file descriptors left
	for {
		c, err := s.tcp.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-time.After(pause):
				continue
			case <-s.done:
				return
			}
		}
		peer, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		if s.link(peer.Addr()).Cut {
			_ = c.Close()
			continue
		}
		wrapped, ok := s.track(c, peer.Addr())
		if !ok {
			return
		}
		select {
		case s.streams <- wrapped:
		case <-s.done:
			_ = wrapped.Close()
			return
		}
	}
}

// track takes a connection over, so that Shutdown ends it. ok is false after
// that.
func (s *sockets) track(c net.Conn, peer netip.Addr) (*stream, bool) {
	x := &stream{Conn: c, s: s, peer: peer}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return nil, false
	}
	s.conns[x] = struct{}{}
	return x, true
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (s *sockets) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return s.advertise.Addr().AsSlice(), int(s.advertise.Port()), nil
}

// WriteTo implements memberlist.Transport.
func (s *sockets) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("send a packet: %w", err)
	}
	link := s.link(to.Addr())
	if link.Cut || link.Loss > 0 && regions.Permille(rand.IntN(int(regions.Whole))) < link.Loss {
		return time.Now(), nil
	}
	s.metrics.bytes.WithLabelValues("sent", "packet").Add(float64(len(b)))
	if link.Delay > 0 {
		later := append([]byte(nil), b...)
		time.AfterFunc(link.Delay, func() { _, _ = s.udp.WriteToUDPAddrPort(later, to) })
		return time.Now(), nil
	}
	_, err = s.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (s *sockets) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return s.WriteTo(b, a.Addr)
}

// PacketCh implements memberlist.Transport.
func (s *sockets) PacketCh() <-chan *memberlist.Packet { return s.packets }

// StreamCh implements memberlist.Transport.
func (s *sockets) StreamCh() <-chan net.Conn { return s.streams }

// DialTimeout implements memberlist.Transport. Connecting takes at most 2 s, and
// the timeout then bounds all that is written and read, since memberlist sets no
// deadline for some of it.
func (s *sockets) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(timeout, dialTimeout))
	defer cancel()
	forget, ok := s.cancelOnShutdown(cancel)
	if !ok {
		return nil, net.ErrClosed
	}
	defer forget()
	link := s.link(to.Addr())
	if link.Cut {
		<-ctx.Done()
		return nil, fmt.Errorf("connect to %s: %w", to, ctx.Err())
	}
	if !wait(ctx.Done(), 2*link.Delay) { // a round trip
		return nil, fmt.Errorf("connect to %s: %w", to, ctx.Err())
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(to.Addr().String(), strconv.Itoa(int(to.Port()))))
	if err != nil {
		return nil, err
	}
	x, ok := s.track(c, to.Addr())
	if !ok {
		return nil, net.ErrClosed
	}
	if err := x.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return x, nil
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (s *sockets) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return s.DialTimeout(a.Addr, timeout)
}

// cancelOnShutdown has Shutdown call cancel until forget is called. ok is false
// after Shutdown.
func (s *sockets) cancelOnShutdown(cancel context.CancelFunc) (forget func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.lastDial++
	id := s.lastDial
	s.dials[id] = cancel
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.dials, id)
	}, true
}

// Shutdown closes the sockets and every stream, at once. It can be called again.
func (s *sockets) Shutdown() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.done)
	conns := s.conns
	s.conns = nil
	for _, cancel := range s.dials {
		cancel()
	}
	s.mu.Unlock()
	err := errors.Join(s.tcp.Close(), s.udp.Close())
	for c := range conns {
		_ = c.Conn.Close()
	}
	s.wg.Wait()
	return err
}

// stream is a connection that Shutdown ends.
type stream struct {
	net.Conn
	s    *sockets
	peer netip.Addr
}

// Read counts what it reads.
func (c *stream) Read(b []byte) (int, error) {
	got, err := c.Conn.Read(b)
	c.s.metrics.bytes.WithLabelValues("received", "stream").Add(float64(got))
	return got, err
}

// Write delays and loses as the link does, and counts. A stream that failed is
// closed, since memberlist forgets one to which it could not write the label.
func (c *stream) Write(b []byte) (int, error) {
	link := c.s.link(c.peer)
	if link.Cut {
		return len(b), nil
	}
	if !wait(c.s.done, link.Delay) {
		return 0, net.ErrClosed
	}
	put, err := c.Conn.Write(b)
	c.s.metrics.bytes.WithLabelValues("sent", "stream").Add(float64(put))
	if err != nil {
		_ = c.Close()
	}
	return put, err
}

// Close closes the connection.
func (c *stream) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// wait returns true after d, or false as soon as done is closed.
func wait(done <-chan struct{}, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-done:
		return false
	}
}
