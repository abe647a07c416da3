package discovery_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// server is a name server on loopback, by UDP and TCP, that answers every
// question in one way.
type server struct {
	t     *testing.T
	rcode dnsmessage.RCode
	addrs []netip.Addr
	udp   net.PacketConn
	tcp   net.Listener
}

func serve(t *testing.T, rcode dnsmessage.RCode, addrs ...netip.Addr) *server {
	t.Helper()
	tcp, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, rcode: rcode, addrs: addrs, udp: udp, tcp: tcp}
	var g sync.WaitGroup
	g.Go(s.serveUDP)
	g.Go(s.serveTCP)
	t.Cleanup(func() {
		_, _ = udp.Close(), tcp.Close()
		g.Wait()
	})
	return s
}

// maxUDP is what the questions' EDNS allows an answer by UDP.
const maxUDP = 1232

func (s *server) serveUDP() {
	buf := make([]byte, maxUDP)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if err != nil {
			return
		}
		answer := s.answer(buf[:n], s.addrs, false)
		if len(answer) > maxUDP {
			answer = s.answer(buf[:n], nil, true)
		}
		_, _ = s.udp.WriteTo(answer, from)
	}
}

func (s *server) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return
		}
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err == nil {
			question := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(c, question); err == nil {
				answer := s.answer(question, s.addrs, false)
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			}
		}
		_ = c.Close()
	}
}

func (s *server) answer(question []byte, addrs []netip.Addr, truncated bool) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(question)
	if err != nil {
		s.t.Errorf("a question that is none: %v", err)
		return nil
	}
	q, err := p.Question()
	if err != nil || q.Name.String() != service {
		s.t.Errorf("asked for %v, %v", q.Name, err)
		return nil
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true, RecursionAvailable: true, RCode: s.rcode, Truncated: truncated},
		Questions: []dnsmessage.Question{q},
	}
	for _, a := range addrs {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 5}}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			r.Body = &dnsmessage.AResource{A: a.As4()}
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, r)
	}
	out, err := m.Pack()
	if err != nil {
		s.t.Errorf("pack an answer: %v", err)
	}
	return out
}

// resolver asks only this server.
func (s *server) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.tcp.Addr().String())
	}}
}

// TestDNSOnTheWire asks a real server with Go's own resolver, to see that what a
// server says arrives in the sense that the source takes it.
func TestDNSOnTheWire(t *testing.T) {
	const patience = 20 * time.Second
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	var many []netip.Addr
	for i := range 200 {
		many = append(many, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
	}
	for _, c := range []struct {
		what  string
		rcode dnsmessage.RCode
		addrs []netip.Addr
		want  string // the first set, IDs or their number; "-" none
	}{
		{"both families", dnsmessage.RCodeSuccess, []netip.Addr{v4, v6}, "10.0.0.1:8000 [fd00::1]:8000"},
		{"one family, none of the other", dnsmessage.RCodeSuccess, []netip.Addr{v6}, "[fd00::1]:8000"},
		{"more than a packet holds, by TCP", dnsmessage.RCodeSuccess, many, "200 pods"},
		{"no such name", dnsmessage.RCodeNameError, nil, ""},
		{"a name without addresses", dnsmessage.RCodeSuccess, nil, ""},
		{"a server in trouble", dnsmessage.RCodeServerFailure, nil, "-"},
		{"a server that refuses", dnsmessage.RCodeRefused, nil, "-"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			d, err := discovery.NewDNS(options(serve(t, c.rcode, c.addrs...).resolver()))
			if err != nil {
				t.Fatal(err)
			}
			registry := prometheus.NewRegistry()
			m := discovery.NewMetrics(registry)
			d.Report(discardLog, m)
			ctx, cancel := context.WithCancel(t.Context())
			sets, ended := make(chan []regions.Pod, 100), make(chan error, 1)
			go func() { ended <- d.Run(ctx, func(pods []regions.Pod) { sets <- pods }) }()
			looked := func() bool {
				n, err := testutil.GatherAndCount(registry, "rhumb_discovery_lookups_total")
				return err == nil && n > 0
			}
			regionstest.Eventually(t, patience, looked, "the name is looked up")
			if c.want == "-" {
				cancel()
			}
			got := "-"
			if c.want != "-" {
				pods := <-sets
				got = ids(pods)
				if len(pods) > 2 {
					got = fmt.Sprint(len(pods), " pods")
				}
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if got != c.want || len(sets) > 0 {
				t.Errorf("got %q and %d sets more, want %q", got, len(sets), c.want)
			}
			away, err := testutil.GatherAndCount(registry, "rhumb_discovery_away")
			if err != nil || away != 0 {
				t.Errorf("gauges left behind: %d, %v", away, err)
			}
		})
	}
}

// TestDNSAsksHere: without a resolver of its own a source asks this machine's,
// which knows localhost from its hosts file, in one family or both.
func TestDNSAsksHere(t *testing.T) {
	o := options(nil)
	o.Name = "localhost"
	d, err := discovery.NewDNS(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = d.Run(ctx, func(pods []regions.Pod) {
		if all := ids(pods); !strings.Contains(all, "127.0.0.1:8000") && !strings.Contains(all, "[::1]:8000") {
			t.Errorf("localhost has the pods %q", all)
		}
		cancel()
	})
	if err != nil {
		t.Error(err)
	}
}
