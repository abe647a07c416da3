// Package dnsserver is an authoritative DNS server for one zone, over UDP and
// TCP. It owns the protocol: which messages are answered and how, EDNS, client
// subnets, truncation, limits. What a name means for a client it asks an
// Answerer.
//
// Messages and record types are the DNS library's; sockets, limits, the
// checks on what comes in and the decisions on what goes out are this
// package's own, since the library's server takes what it should not, does not
// survive a panic and bounds neither goroutines nor connections.
package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrKilled is returned by Run and Bind after Kill.
var ErrKilled = errors.New("DNS server was killed")

// Server is an authoritative DNS server. Its methods are safe for concurrent
// use.
type Server struct {
	opts    Options
	limits  Limits
	handler *handler
	metrics *metrics
	log     *slog.Logger

	conns    connTable
	tcpSlots chan struct{} // bounds TCP queries being answered
	scratch  sync.Pool     // *[]byte for TCP replies
	stopping atomic.Bool
	killed   chan struct{}

	mu      sync.Mutex
	sockets []socket // bound ones, under mu
	running bool     // Run was called, under mu
	dead    bool     // Kill was called, under mu
}

// socket is one address, served over both transports.
type socket struct {
	addr     netip.AddrPort
	packets  *packetSocket
	listener net.Listener
}

// New checks the options and returns a server that is not bound yet. An error
// names the option at fault.
func New(opts Options) (*Server, error) {
	if err := checkOptions(opts); err != nil {
		return nil, fmt.Errorf("DNS server: %w", err)
	}
	z, err := newZone(opts.Zone)
	if err != nil {
		return nil, fmt.Errorf("DNS server: %w", err)
	}
	m, err := newMetrics(opts.Registry)
	if err != nil {
		return nil, err
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("component", "dns")
	if len(opts.Zone.NS) == 1 {
		log.Warn("the zone has one name server; with its loss the zone is gone, so run two in different networks", "zone", z.name)
	}
	s := &Server{
		opts: opts, limits: opts.Limits, metrics: m, log: log,
		tcpSlots: make(chan struct{}, opts.Limits.TCPWorkers),
		killed:   make(chan struct{}),
		handler:  &handler{answerer: opts.Answerer, payload: opts.Limits.UDPPayload, nsid: opts.NSID, log: log, metrics: m},
	}
	s.scratch.New = func() any { b := make([]byte, replyScratch); return &b }
	s.handler.zone.Store(z)
	return s, nil
}

// checkOptions refuses what can't work; newZone does so for the zone.
func checkOptions(opts Options) error {
	const longestNSID = 128 // header, the longest question and all options fit into 512 octets with it
	limits := opts.Limits
	switch {
	case opts.Answerer == nil:
		return errors.New("no Answerer")
	case len(opts.Listen) == 0:
		return errors.New("no address to listen on")
	case len(opts.NSID) > longestNSID:
		return fmt.Errorf("NSID has %d octets; at most %d are allowed", len(opts.NSID), longestNSID)
	case limits.UDPPayload < minPayload:
		return fmt.Errorf("UDP payload is %d octets; at least %d are needed (RFC 6891)", limits.UDPPayload, minPayload)
	case min(limits.UDPWorkers, limits.TCPConns, limits.TCPConnsPerSource, limits.TCPPipeline, limits.TCPWorkers) < 1,
		min(limits.TCPIdle, limits.TCPMessage, limits.TCPWrite) <= 0:
		return errors.New("a limit is not positive; start from DefaultOptions")
	case min(opts.Zone.TTL, opts.Zone.Negative, opts.Zone.Refresh, opts.Zone.Retry, opts.Zone.Expire) < time.Second:
		return errors.New("a time of the zone is under 1 s; start from DefaultOptions")
	}
	for _, address := range opts.Listen {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return fmt.Errorf("listen address %q is not IP:port; for all addresses write 0.0.0.0:53 and [::]:53", address)
		}
	}
	return nil
}

// Reload replaces the zone's own data at once, for all queries from now on.
// On an error the old data stays.
func (s *Server) Reload(opts Zone) error {
	z, err := newZone(opts)
	if err != nil {
		return fmt.Errorf("reload DNS zone, the old one stays: %w", err)
	}
	s.handler.zone.Store(z)
	return nil
}

// Bind opens the sockets, all or none. Run does so itself if they are not
// open, so call Bind to know the addresses, or of a failure, beforehand.
// Until Run, clients wait in the kernel's queues.
func (s *Server) Bind(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return ErrKilled
	}
	if s.sockets != nil {
		return nil
	}
	var sockets []socket
	for _, address := range s.opts.Listen {
		bound, err := s.bindBoth(ctx, address)
		if err != nil {
			for _, other := range sockets {
				other.close()
			}
			return err
		}
		sockets = append(sockets, bound)
	}
	s.sockets = sockets
	return nil
}

// bindBoth opens one address over UDP and TCP. A free port of the one can be
// taken for the other, so with port 0 it tries some.
func (s *Server) bindBoth(ctx context.Context, address string) (socket, error) {
	const attempts = 32 // the chance that each finds its port taken is nil on any host that has ports left
	want, err := netip.ParseAddrPort(address)
	if err != nil {
		return socket{}, fmt.Errorf("listen address %q: %w", address, err)
	}
	for attempt := 1; ; attempt++ {
		bound, err := s.bindOnce(ctx, want)
		if err == nil || want.Port() != 0 || attempt == attempts || !errors.Is(err, syscall.EADDRINUSE) {
			return bound, err
		}
	}
}

func (s *Server) bindOnce(ctx context.Context, want netip.AddrPort) (socket, error) {
	family := "4"
	if want.Addr().Is6() {
		family = "6"
	}
	listenPacket, listenStream := s.opts.ListenPacket, s.opts.ListenStream
	var config net.ListenConfig
	if listenPacket == nil {
		listenPacket = config.ListenPacket
	}
	if listenStream == nil {
		listenStream = config.Listen
	}
	packets, err := listenPacket(ctx, "udp"+family, want.String())
	if err != nil {
		return socket{}, fmt.Errorf("listen for DNS on %s over UDP (choose another address, or stop what holds it): %w", want, err)
	}
	addr := addrPort(packets.LocalAddr())
	at := netip.AddrPortFrom(want.Addr(), addr.Port())
	listener, err := listenStream(ctx, "tcp"+family, at.String())
	if err != nil {
		_ = packets.Close()
		return socket{}, fmt.Errorf("listen for DNS on %s over TCP (choose another address, or stop what holds it): %w", at, err)
	}
	return socket{addr: at, packets: newPacketSocket(packets, want), listener: listener}, nil
}

// close closes both sockets.
func (k socket) close() {
	_ = k.packets.conn.Close()
	_ = k.listener.Close()
}

// Addrs returns the addresses that are served, in the order of Options.Listen,
// with the ports that were picked. Empty before Bind.
func (s *Server) Addrs() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs := make([]netip.AddrPort, len(s.sockets))
	for i, socket := range s.sockets {
		addrs[i] = socket.addr
	}
	return addrs
}

// Run serves until ctx ends, answers what it has read by then, and returns nil
// when all its goroutines have ended. It returns an error if the sockets can't
// be opened, and ErrKilled after Kill. It can be called once.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Bind(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return errors.New("DNS server: Run was called twice")
	}
	s.running = true
	sockets := s.sockets
	s.mu.Unlock()

	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	var children sync.WaitGroup
	for _, socket := range sockets {
		children.Go(func() { s.serveUDP(serving, socket.packets) })
		children.Go(func() { s.serveTCP(serving, socket.listener) })
		s.log.Info("serving", "address", socket.addr, "zone", s.handler.zone.Load().name)
	}
	var err error
	select {
	case <-ctx.Done():
	case <-s.killed:
		err = ErrKilled
	}
	cancel()
	s.stop(sockets)
	children.Wait()
	for _, socket := range sockets {
		_ = socket.packets.conn.Close()
	}
	s.log.Info("stopped", "zone", s.handler.zone.Load().name)
	return err
}

// stop ends all reading: queries that were read are still answered.
func (s *Server) stop(sockets []socket) {
	s.stopping.Store(true)
	past := time.Unix(1, 0)
	for _, socket := range sockets {
		_ = socket.listener.Close()
		if socket.packets.conn.SetReadDeadline(past) != nil {
			_ = socket.packets.conn.Close()
		}
	}
	s.conns.stop(func(conn net.Conn) {
		if conn.SetReadDeadline(past) != nil {
			_ = conn.Close()
		}
	})
}

func (s *Server) stopped() bool { return s.stopping.Load() }

// Kill closes every socket at once, as the end of the process would: nothing
// more is answered. Run then returns ErrKilled.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return
	}
	s.dead = true
	s.stopping.Store(true)
	for _, socket := range s.sockets {
		socket.close()
	}
	s.conns.stop(func(conn net.Conn) { _ = conn.Close() })
	close(s.killed)
}
