package dnsserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// serverGoroutines is more than a server with one address has without clients.
const serverGoroutines = 12

// frame is a message with its length before it.
func frame(wire []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
}

// dial opens a connection that lives as long as the test at most.
func dial(t testing.TB, addr netip.AddrPort) *net.TCPConn {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

func send(t testing.TB, conn net.Conn, data []byte) {
	t.Helper()
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
}

// receive reads one reply and returns its id.
func receive(t testing.TB, conn net.Conn) uint16 {
	t.Helper()
	reply, err := dnstest.ReadFrame(conn)
	if err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint16(reply)
}

// wantClosed waits for the server to close the connection.
func wantClosed(t testing.TB, conn net.Conn) {
	t.Helper()
	n, err := conn.Read(make([]byte, 1))
	if n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d octets, %v; want a closed connection", n, err)
	}
}

func closedFor(s *Server, reason string) func() bool {
	return func() bool { return testutil.ToFloat64(s.metrics.closed.WithLabelValues(reason)) > 0 }
}

// slowly is an Answerer whose "slow" waits until it is let go.
type slowly struct {
	world
	release chan struct{}
	running atomic.Int32
	most    atomic.Int32
}

func (s *slowly) Lookup(name string, client netip.Prefix) (*Answer, uint8, Result) {
	if name == "slow.example.test." {
		now := s.running.Add(1)
		for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
		}
		<-s.release
		s.running.Add(-1)
		return answerUS, 0, Found
	}
	return s.world.Lookup(name, client)
}

func TestTCPPipelining(t *testing.T) {
	_, addr := serve(t, nil)
	conn := dial(t, addr)
	const queries = 200
	var all []byte
	for id := range queries {
		all = append(all, frame(raw{id: uint16(id), name: "llama.example.test.", qtype: dns.TypeA}.wire())...)
	}
	send(t, conn, all)
	// The client is done sending, and gets all its replies nevertheless.
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	seen := make(map[uint16]bool)
	for range queries {
		seen[receive(t, conn)] = true
	}
	if len(seen) != queries {
		t.Errorf("%d different replies, want %d", len(seen), queries)
	}
	wantClosed(t, conn)
}

// TestTCPOutOfOrder: a slow answer holds up no later one of its connection,
// and no more than TCPPipeline queries are taken in meanwhile.
func TestTCPOutOfOrder(t *testing.T) {
	answerer := &slowly{release: make(chan struct{})}
	_, addr := serve(t, func(o *Options) {
		o.Answerer = answerer
		o.Limits.TCPPipeline = 4
	})
	conn := dial(t, addr)
	slow := frame(raw{id: 1, name: "slow.example.test.", qtype: dns.TypeA}.wire())
	fast := frame(raw{id: 2, name: "llama.example.test.", qtype: dns.TypeA}.wire())
	send(t, conn, slow)
	send(t, conn, fast)
	if id := receive(t, conn); id != 2 {
		t.Errorf("first reply is %d, want the fast one", id)
	}
	send(t, conn, bytes.Repeat(slow, 40))
	regionstest.Eventually(t, patience, func() bool { return answerer.running.Load() == 4 }, "4 queries being answered")
	close(answerer.release)
	for range 41 {
		if id := receive(t, conn); id != 1 {
			t.Errorf("reply %d, want a slow one", id)
		}
	}
	if most := answerer.most.Load(); most != 4 {
		t.Errorf("%d queries of one connection at a time, want 4", most)
	}
}

// TestTCPWorkers: all connections together have no more than TCPWorkers
// queries being answered.
func TestTCPWorkers(t *testing.T) {
	answerer := &slowly{release: make(chan struct{})}
	_, addr := serve(t, func(o *Options) {
		o.Answerer = answerer
		o.Limits.TCPWorkers = 3
	})
	before := runtime.NumGoroutine()
	slow := frame(raw{id: 1, name: "slow.example.test.", qtype: dns.TypeA}.wire())
	conns := make([]net.Conn, 8)
	for i := range conns {
		conns[i] = dial(t, addr)
		send(t, conns[i], bytes.Repeat(slow, 10))
	}
	regionstest.Eventually(t, patience, func() bool { return answerer.running.Load() == 3 }, "3 queries being answered")
	// A reader for each connection, the workers, and the server's own, which
	// may not have begun before.
	if now := runtime.NumGoroutine() - before; now > len(conns)+3+serverGoroutines {
		t.Errorf("%d more goroutines for %d connections", now, len(conns))
	}
	close(answerer.release)
	for _, conn := range conns {
		for range 10 {
			receive(t, conn)
		}
	}
	if most := answerer.most.Load(); most > 3 {
		t.Errorf("%d queries at a time, want 3", most)
	}
}

func TestTCPOctetByOctet(t *testing.T) {
	_, addr := serve(t, nil)
	conn := dial(t, addr)
	if err := conn.SetNoDelay(true); err != nil {
		t.Fatal(err)
	}
	for id := range uint16(3) {
		for _, octet := range frame(raw{id: id, qtype: dns.TypeSOA}.wire()) {
			send(t, conn, []byte{octet})
		}
		if got := receive(t, conn); got != id {
			t.Errorf("reply %d, want %d", got, id)
		}
	}
}

// TestTCPSlowSender: a query that trickles in ends with the message time,
// though an octet comes again and again, and though the idle time is long.
func TestTCPSlowSender(t *testing.T) {
	s, addr := serve(t, func(o *Options) {
		o.Limits.TCPIdle = time.Hour
		o.Limits.TCPMessage = 150 * time.Millisecond
	})
	conn := dial(t, addr)
	query := frame(raw{qtype: dns.TypeSOA}.wire())
	at := 0
	regionstest.Eventually(t, patience, func() bool {
		if at < len(query)-1 && !closedFor(s, closedSlow)() {
			if at%8 == 0 {
				_, _ = conn.Write(query[at/8 : at/8+1])
			}
			at++
		}
		return closedFor(s, closedSlow)()
	}, "the slow sender's end")
}

func TestTCPIdle(t *testing.T) {
	s, addr := serve(t, func(o *Options) { o.Limits.TCPIdle = 50 * time.Millisecond })
	conn := dial(t, addr)
	send(t, conn, frame(raw{qtype: dns.TypeSOA}.wire()))
	receive(t, conn)
	wantClosed(t, conn)
	regionstest.Eventually(t, patience, closedFor(s, closedIdle), "the idle connection's end")
}

// TestTCPDeafReader: a client that sends and never reads loses its connection
// and costs others nothing.
func TestTCPDeafReader(t *testing.T) {
	s, addr := serve(t, func(o *Options) {
		o.Limits.TCPWrite = 100 * time.Millisecond
		o.Limits.TCPWorkers = 2
	})
	deaf := dial(t, addr)
	if err := deaf.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		many := bytes.Repeat(frame(raw{name: "huge.example.test.", qtype: dns.TypeA}.wire()), 64)
		for {
			if _, err := deaf.Write(many); err != nil {
				return // closed by the server
			}
		}
	}()
	for i := range 20 {
		if got := ask(t, dnstest.Query{Server: addr, TCP: true, Name: "llama.example.test"}); len(got.Addrs) != 1 {
			t.Errorf("query %d beside a deaf client: %+v", i, got)
		}
	}
	<-done
	regionstest.Eventually(t, patience, closedFor(s, closedWrite), "the deaf client's end")
}

func TestTCPConnectionLimits(t *testing.T) {
	s, _ := serve(t, func(o *Options) {
		o.Listen = []string{"127.0.0.1:0", "[::1]:0"}
		o.Limits.TCPConnsPerSource = 3
		o.Limits.TCPConns = 4
	})
	v4, v6 := s.Addrs()[0], s.Addrs()[1]
	query := frame(raw{id: 9, qtype: dns.TypeSOA}.wire())
	var open []*net.TCPConn
	for range 3 {
		conn := dial(t, v4)
		send(t, conn, query)
		receive(t, conn)
		open = append(open, conn)
	}
	wantClosed(t, dial(t, v4)) // the source has its share
	other := dial(t, v6)
	send(t, other, query)
	receive(t, other)
	wantClosed(t, dial(t, v6)) // the table is full
	for _, reason := range []string{closedSource, closedTotal} {
		if !closedFor(s, reason)() {
			t.Errorf("no connection was counted as closed for %s", reason)
		}
	}
	_ = open[0].Close()
	regionstest.Eventually(t, patience, func() bool { return s.conns.count() == 3 }, "a free place")
	again := dial(t, v4)
	send(t, again, query)
	receive(t, again)
}

// TestTCPManyIdle: idle connections cost a goroutine each, no more, and hold
// up no query.
func TestTCPManyIdle(t *testing.T) {
	s, addr := serve(t, func(o *Options) { o.Limits.TCPConnsPerSource = o.Limits.TCPConns })
	const idle = 300
	before := runtime.NumGoroutine()
	for range idle {
		dial(t, addr)
	}
	regionstest.Eventually(t, patience, func() bool { return s.conns.count() == idle }, "all connections open")
	if more := runtime.NumGoroutine() - before; more > idle+serverGoroutines {
		t.Errorf("%d more goroutines for %d connections", more, idle)
	}
	for _, tcp := range []bool{false, true} {
		if got := ask(t, dnstest.Query{Server: addr, TCP: tcp, Name: "llama.example.test"}); len(got.Addrs) != 1 {
			t.Errorf("tcp=%t beside idle connections: %+v", tcp, got)
		}
	}
}

func TestTCPNotAnswered(t *testing.T) {
	s, addr := serve(t, nil)
	conn := dial(t, addr)
	// A response is passed over, the connection stays.
	send(t, conn, frame(raw{id: 1, bits: qr, qtype: dns.TypeSOA}.wire()))
	send(t, conn, frame(raw{id: 2, qtype: dns.TypeSOA}.wire()))
	if id := receive(t, conn); id != 2 {
		t.Errorf("reply %d to a response", id)
	}
	send(t, conn, frame(raw{name: "unready.example.test.", qtype: dns.TypeA}.wire()))
	wantClosed(t, conn)
	for _, data := range [][]byte{frame(nil), frame(make([]byte, 11)), {0xFF, 0xFF}} {
		conn := dial(t, addr)
		send(t, conn, data)
		wantClosed(t, conn)
	}
	regionstest.Eventually(t, patience, closedFor(s, closedUnready), "the unready query's end")
}

// TestTCPStop: what was read before the server stops is answered.
func TestTCPStop(t *testing.T) {
	answerer := &slowly{release: make(chan struct{})}
	opts := testOptions()
	opts.Answerer = answerer
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := s.Bind(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	conn := dial(t, s.Addrs()[0])
	send(t, conn, frame(raw{id: 5, name: "slow.example.test.", qtype: dns.TypeA}.wire()))
	idle := dial(t, s.Addrs()[0])
	regionstest.Eventually(t, patience, func() bool { return answerer.running.Load() == 1 && s.conns.count() == 2 }, "a query being answered")
	cancel()
	wantClosed(t, idle)
	close(answerer.release)
	if id := receive(t, conn); id != 5 {
		t.Errorf("reply %d", id)
	}
	if _, err := dnstest.ReadFrame(conn); !errors.Is(err, io.EOF) {
		t.Errorf("after the last reply: %v, want the end", err)
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestIdleShrinks(t *testing.T) {
	limits := Limits{TCPConns: 100, TCPIdle: 10 * time.Second}
	for open, want := range map[int]time.Duration{
		0: 10 * time.Second, 50: 10 * time.Second, 75: 5500 * time.Millisecond, 100: time.Second, 101: time.Second,
	} {
		if got := idleFor(open, limits); got != want {
			t.Errorf("%d of 100 open: %v, want %v", open, got, want)
		}
	}
}

func TestSourceOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "::ffff:192.0.2.7": "192.0.2.7/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%lo": "fe80::/64",
	} {
		if got := sourceOf(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("source of %s is %s, want %s", in, got, want)
		}
	}
}

// wrapped hides a socket's kind, as a simulated network does.
type wrapped struct {
	net.PacketConn
	reads atomic.Int32
}

func (w *wrapped) ReadFrom(b []byte) (int, net.Addr, error) {
	n, addr, err := w.PacketConn.ReadFrom(b)
	w.reads.Add(1)
	return n, addr, err
}

func TestOwnSockets(t *testing.T) {
	var socket *wrapped
	var mu sync.Mutex
	var opened []string
	_, addr := serve(t, func(o *Options) {
		o.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
			var config net.ListenConfig
			conn, err := config.ListenPacket(ctx, network, address)
			socket = &wrapped{PacketConn: conn}
			mu.Lock()
			defer mu.Unlock()
			opened = append(opened, network+" "+address)
			return socket, err
		}
		o.ListenStream = func(ctx context.Context, network, address string) (net.Listener, error) {
			mu.Lock()
			defer mu.Unlock()
			opened = append(opened, network)
			var config net.ListenConfig
			return config.Listen(ctx, network, address)
		}
	})
	for _, tcp := range []bool{false, true} {
		if got := ask(t, dnstest.Query{Server: addr, TCP: tcp, Name: "llama.example.test"}); len(got.Addrs) != 1 {
			t.Errorf("tcp=%t: %+v", tcp, got)
		}
	}
	if socket.reads.Load() == 0 {
		t.Error("the socket that was given was not read")
	}
	mu.Lock()
	defer mu.Unlock()
	// More than two, if the UDP socket's port was taken for TCP.
	if got := fmt.Sprint(opened[len(opened)-2:]); got != "[udp4 127.0.0.1:0 tcp4]" {
		t.Errorf("opened %s", opened)
	}
}
