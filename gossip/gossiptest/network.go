// Package gossiptest is a network in memory for tests of gossip: memberlist
// transports with delay, loss and partitions, which run in testing/synctest
// bubbles (timers and channels only, no sockets), so that minutes of gossip take
// well under a second.
package gossiptest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/rhumb-lb/rhumb/regions"
)

// queue is how many packets and streams wait at a transport, as in a kernel's
// buffers; more are lost.
const queue = 1024

// Network connects transports. All methods can be called at any time.
type Network struct {
	mu         sync.Mutex
	rand       *rand.Rand
	transports map[netip.AddrPort]*Transport
	delay      func(from, to netip.AddrPort) time.Duration
	loss       regions.Permille
	cut        func(from, to netip.AddrPort) bool
}

// NewNetwork makes a network without delay, loss or partition. The seed decides
// which packets are lost (as far as goroutines come in the same order).
func NewNetwork(seed uint64) *Network {
	return &Network{rand: rand.New(rand.NewPCG(seed, 0)), transports: map[netip.AddrPort]*Transport{}}
}

// Delay sets the time that packets and streams take one way.
func (n *Network) Delay(f func(from, to netip.AddrPort) time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = f
}

// Loss sets the share of packets that are lost. Streams lose nothing.
func (n *Network) Loss(share regions.Permille) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = share
}

// Cut has everything between two addresses vanish for which f is true, in that
// direction; nobody is told. Streams between them break. Nil heals all.
func (n *Network) Cut(f func(from, to netip.AddrPort) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = f
	for _, t := range n.transports {
		for c := range t.streams {
			if n.cutLocked(c.from, c.to) {
				_ = c.Conn.Close()
			}
		}
	}
}

// Isolate cuts some addresses off from all others, both ways.
func (n *Network) Isolate(addrs ...netip.AddrPort) {
	inside := map[netip.AddrPort]bool{}
	for _, a := range addrs {
		inside[a] = true
	}
	n.Cut(func(from, to netip.AddrPort) bool { return inside[from] != inside[to] })
}

// Heal ends every cut.
func (n *Network) Heal() { n.Cut(nil) }

func (n *Network) cutLocked(from, to netip.AddrPort) bool { return n.cut != nil && n.cut(from, to) }

// lookLocked gives the transport at an address, and what happens on the way
// there: it is nil where nothing arrives.
func (n *Network) lookLocked(from, to netip.AddrPort) (*Transport, time.Duration) {
	t := n.transports[to]
	if t == nil || n.cutLocked(from, to) {
		return nil, 0
	}
	if n.delay == nil {
		return t, 0
	}
	return t, n.delay(from, to)
}

// Transport is one member's place in the network.
type Transport struct {
	net     *Network
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	conns   chan net.Conn
	done    chan struct{}
	streams map[*stream]struct{} // with the network's lock
	sent    atomic.Int64         // bytes in packets
}

// Sent is how many bytes the member has sent in packets, lost ones too.
func (t *Transport) Sent() int64 { return t.sent.Load() }

var _ memberlist.NodeAwareTransport = (*Transport)(nil)

// Transport places a member at an address, in place of one that was shut down
// there.
func (n *Network) Transport(addr netip.AddrPort) *Transport {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := &Transport{
		net: n, addr: addr,
		packets: make(chan *memberlist.Packet, queue), conns: make(chan net.Conn, queue),
		done: make(chan struct{}), streams: map[*stream]struct{}{},
	}
	n.transports[addr] = t
	return t
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *Transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.addr.Addr().AsSlice(), int(t.addr.Port()), nil
}

// PacketCh implements memberlist.Transport.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *Transport) StreamCh() <-chan net.Conn { return t.conns }

// WriteTo implements memberlist.Transport.
func (t *Transport) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return now, fmt.Errorf("send a packet: %w", err)
	}
	t.sent.Add(int64(len(b)))
	n := t.net
	n.mu.Lock()
	peer, delay := n.lookLocked(t.addr, to)
	lost := n.loss > 0 && regions.Permille(n.rand.IntN(int(regions.Whole))) < n.loss
	n.mu.Unlock()
	if peer == nil || lost {
		return now, nil
	}
	p := &memberlist.Packet{Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(t.addr)}
	if delay <= 0 {
		// No timer of no time: under the race detector, one that runs at once in a bubble
		// of virtual time now and then crashes (golang/go#78156, open as of Go 1.26).
		peer.deliver(p)
		return now, nil
	}
	time.AfterFunc(delay, func() { peer.deliver(p) })
	return now, nil
}

// deliver hands over a packet, or drops it like a full socket.
func (t *Transport) deliver(p *memberlist.Packet) {
	p.Timestamp = time.Now()
	select {
	case <-t.done:
	case t.packets <- p:
	default:
	}
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *Transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// DialTimeout implements memberlist.Transport. Connecting takes a round trip;
// where nothing answers, the timeout, at most 2 s.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	n := t.net
	n.mu.Lock()
	peer, delay := n.lookLocked(t.addr, to)
	n.mu.Unlock()
	const longest = 2 * time.Second
	if peer == nil {
		if !t.wait(min(timeout, longest)) {
			return nil, net.ErrClosed
		}
		return nil, fmt.Errorf("connect to %s: %w", to, os.ErrDeadlineExceeded)
	}
	if !t.wait(2 * delay) {
		return nil, net.ErrClosed
	}
	here, there := net.Pipe()
	mine := &stream{Conn: here, t: t, from: t.addr, to: to, delay: delay}
	theirs := &stream{Conn: there, t: peer, from: to, to: t.addr, delay: delay}
	n.mu.Lock()
	defer n.mu.Unlock()
	// A pipe has no buffer: without a deadline, who writes to a peer that went
	// away would wait for ever.
	err = errors.Join(here.SetDeadline(time.Now().Add(timeout)), there.SetDeadline(time.Now().Add(timeout)))
	if err != nil || isClosed(peer.done) || isClosed(t.done) {
		return nil, errors.Join(fmt.Errorf("connect to %s: refused", to), err)
	}
	select {
	case peer.conns <- theirs:
	default:
		return nil, fmt.Errorf("connect to %s: too many streams wait there", to)
	}
	t.streams[mine], peer.streams[theirs] = struct{}{}, struct{}{}
	return mine, nil
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *Transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// Shutdown takes the member out of the network and breaks its streams. It can be
// called again.
func (t *Transport) Shutdown() error {
	n := t.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if isClosed(t.done) {
		return nil
	}
	close(t.done)
	if n.transports[t.addr] == t {
		delete(n.transports, t.addr)
	}
	for c := range t.streams {
		_ = c.Conn.Close()
	}
	t.streams = nil
	return nil
}

// wait returns true after d, or false as soon as the transport is shut down.
func (t *Transport) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.done:
		return false
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stream is one end of a connection. Each write takes the way's delay.
type stream struct {
	net.Conn
	t        *Transport
	from, to netip.AddrPort
	delay    time.Duration
}

// Write waits for the delay, then writes.
func (c *stream) Write(b []byte) (int, error) {
	if !c.t.wait(c.delay) {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// Close closes this end.
func (c *stream) Close() error {
	c.t.net.mu.Lock()
	delete(c.t.streams, c)
	c.t.net.mu.Unlock()
	return c.Conn.Close()
}

// RemoteAddr is the address of the other end.
func (c *stream) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.to) }
