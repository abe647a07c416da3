package dnsserver

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// udpQuery is the read buffer: no query is as long, and a longer message
	// is cut by the kernel and answered FORMERR.
	udpQuery = 4096
	// replyScratch is the buffer that replies are packed in; the library
	// takes new memory for the few that are longer before compression.
	replyScratch = 4096
	// udpReceiveBuffer is asked of the kernel for each socket: it holds some
	// 5,000 queries while the workers are descheduled. The kernel gives less
	// where net.core.rmem_max says so.
	udpReceiveBuffer = 4 << 20
	// errorPause is how long a worker or acceptor rests after a socket error,
	// so that a lasting one (no memory, no descriptors) does not take a core.
	errorPause = 20 * time.Millisecond
)

// packetSocket is one UDP socket. A real one is read and written without
// allocation; where it is bound to a wildcard address, replies go out from the
// address that was asked.
type packetSocket struct {
	conn     net.PacketConn
	udp      *net.UDPConn // conn, if it is a real socket
	wildcard bool
}

// peer is where a query came from and how to reply to it.
type peer struct {
	addr netip.AddrPort
	raw  net.Addr // for sockets that are not real ones
	oob  []byte   // control message that sets the source address
}

// newPacketSocket prepares a socket that is bound to address.
func newPacketSocket(conn net.PacketConn, address netip.AddrPort) *packetSocket {
	s := &packetSocket{conn: conn, wildcard: address.Addr().IsUnspecified()}
	s.udp, _ = conn.(*net.UDPConn)
	if s.udp == nil {
		return s
	}
	// All three are improvements that the server can do without.
	_ = s.udp.SetReadBuffer(udpReceiveBuffer)
	neverFragment(s.udp, address.Addr().Is6())
	if s.wildcard {
		if address.Addr().Is6() {
			_ = ipv6.NewPacketConn(s.udp).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
		} else {
			_ = ipv4.NewPacketConn(s.udp).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
		}
	}
	return s
}

// neverFragment makes the kernel send with the interface's MTU whatever it
// has learnt of the path: a forged "fragmentation needed" can then not make
// replies fragment, which is what fragment-spoofing attacks begin with. Linux
// only; elsewhere replies of 1232 octets are small enough by themselves.
func neverFragment(conn *net.UDPConn, is6 bool) {
	// From Linux's in.h and in6.h; package syscall lacks the last two.
	const (
		ipMTUDiscover   = 10
		ipv6MTUDiscover = 23
		pmtudiscOmit    = 5
	)
	raw, err := conn.SyscallConn()
	if err != nil || runtime.GOOS != "linux" {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if is6 {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, ipv6MTUDiscover, pmtudiscOmit)
			return
		}
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipMTUDiscover, pmtudiscOmit)
	})
}

// read waits for a message. oob is the caller's scratch for control messages.
func (s *packetSocket) read(buf, oob []byte) (int, peer, error) {
	switch {
	case s.udp == nil:
		n, raw, err := s.conn.ReadFrom(buf)
		return n, peer{addr: addrPort(raw), raw: raw}, err
	case s.wildcard:
		n, size, _, addr, err := s.udp.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return 0, peer{}, err
		}
		return n, peer{addr: addr, oob: replyFrom(oob[:size], addr.Addr().Is6())}, nil
	default:
		n, addr, err := s.udp.ReadFromUDPAddrPort(buf)
		return n, peer{addr: addr}, err
	}
}

// write sends a reply.
func (s *packetSocket) write(reply []byte, to peer) error {
	var err error
	switch {
	case s.udp == nil:
		_, err = s.conn.WriteTo(reply, to.raw)
	case to.oob != nil:
		_, _, err = s.udp.WriteMsgUDPAddrPort(reply, to.oob, to.addr)
	default:
		_, err = s.udp.WriteToUDPAddrPort(reply, to.addr)
	}
	return err
}

// replyFrom turns the control message of a query, which says what address it
// was sent to, into one that makes the reply come from there.
func replyFrom(oob []byte, is6 bool) []byte {
	if is6 {
		var cm ipv6.ControlMessage
		if cm.Parse(oob) != nil || cm.Dst == nil {
			return nil
		}
		// Link-local addresses mean nothing without their interface.
		reply := ipv6.ControlMessage{Src: cm.Dst, IfIndex: cm.IfIndex}
		return reply.Marshal()
	}
	var cm ipv4.ControlMessage
	if cm.Parse(oob) != nil || cm.Dst == nil {
		return nil
	}
	reply := ipv4.ControlMessage{Src: cm.Dst}
	return reply.Marshal()
}

// addrPort reads a net.Addr of any kind; the zero value if it is no address.
func addrPort(addr net.Addr) netip.AddrPort {
	switch a := addr.(type) {
	case *net.UDPAddr:
		return a.AddrPort()
	case *net.TCPAddr:
		return a.AddrPort()
	case nil:
		return netip.AddrPort{}
	}
	parsed, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return parsed
}

// serveUDP runs the workers of one socket until the server stops. A worker
// reads, answers and sends by itself: there is no queue to grow, and under
// overload the kernel drops what the workers can't take.
func (s *Server) serveUDP(ctx context.Context, socket *packetSocket) {
	var workers sync.WaitGroup
	for range s.limits.UDPWorkers {
		workers.Go(func() { s.udpWorker(ctx, socket) })
	}
	workers.Wait()
}

func (s *Server) udpWorker(ctx context.Context, socket *packetSocket) {
	query, scratch, oob := make([]byte, udpQuery), make([]byte, replyScratch), make([]byte, 128)
	for {
		n, from, err := socket.read(query, oob)
		if err != nil {
			if s.stopped() {
				return
			}
			s.metrics.sockets.WithLabelValues(overUDP.String()).Inc()
			if !pause(ctx, errorPause) {
				return
			}
			continue
		}
		if from.addr.Port() == 0 {
			s.metrics.drop(overUDP, dropSource)
			continue
		}
		start := time.Now()
		reply := s.handler.handle(scratch, query[:n], from.addr.Addr(), overUDP)
		s.metrics.took(overUDP, start)
		if reply == nil {
			continue
		}
		if err := socket.write(reply, from); err != nil && !s.stopped() {
			s.metrics.drop(overUDP, dropSend)
		}
	}
}

// pause waits and reports whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
