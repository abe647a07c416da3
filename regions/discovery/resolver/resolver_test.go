package resolver_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions/discovery/resolver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a DNS server on loopback, by UDP and TCP on one port.
type server struct {
	addr string
	mu   sync.Mutex
	got  []string // "name type network", guarded by mu
}

func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// serve starts a server. Without tcp there is nobody at the TCP port.
func serve(t *testing.T, tcp bool, answer dns.HandlerFunc) *server {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String()}
	p, err := config.ListenPacket(t.Context(), "udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		s.mu.Lock()
		s.got = append(s.got, q.Question[0].Name+" "+dns.TypeToString[q.Question[0].Qtype]+" "+w.LocalAddr().Network())
		s.mu.Unlock()
		answer(w, q)
	})
	servers := []*dns.Server{{PacketConn: p, Handler: handler, UDPSize: 4096}}
	if tcp {
		servers = append(servers, &dns.Server{Listener: l, Handler: handler})
	} else if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	for _, x := range servers {
		started := make(chan struct{})
		x.NotifyStartedFunc = func() { close(started) }
		g.Go(func() { _ = x.ActivateAndServe() })
		<-started
	}
	t.Cleanup(func() {
		for _, x := range servers {
			_ = x.Shutdown()
		}
		g.Wait()
	})
	return s
}

// zone answers by text: "name type" → records, one a line, those after "--" in the
// authority section, after "++" in the additional; a line of capitals like
// "NXDOMAIN" is the code, "tc" cuts it off, "aa" and "-ra" are flags, "none" is
// silence.
type zone map[string]string

func (z zone) serve(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	text, ok := z[q.Question[0].Name+" "+dns.TypeToString[q.Question[0].Qtype]]
	if !ok {
		text = "NXDOMAIN\n--\nexample. 60 SOA ns.example. mail.example. 1 1 1 1 30"
	}
	into := &m.Answer
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		code, isCode := dns.StringToRcode[line]
		switch {
		case line == "":
		case line == "none":
			return
		case isCode:
			m.Rcode = code
		case line == "--":
			into = &m.Ns
		case line == "++":
			into = &m.Extra
		case line == "aa":
			m.Authoritative = true
		case line == "-ra":
			m.RecursionAvailable = false
		case line == "tc":
			m.Truncated = w.LocalAddr().Network() == "udp"
		case line == "tc always":
			m.Truncated = true
		default:
			rr, err := dns.NewRR(line)
			if err != nil {
				panic(err)
			}
			*into = append(*into, rr)
		}
	}
	if m.Truncated {
		m.Answer = nil
	}
	_ = w.WriteMsg(m)
}

// ask makes a resolver of servers with a resolv.conf and a hosts file.
func ask(t *testing.T, conf, hosts string, servers ...*server) *resolver.Resolver {
	t.Helper()
	dir := t.TempDir()
	o := resolver.DefaultOptions()
	o.Config, o.Hosts = filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	for path, text := range map[string]string{o.Config: conf, o.Hosts: hosts} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range servers {
		o.Servers = append(o.Servers, s.addr)
	}
	return resolver.New(o)
}

// show is an answer in one line.
func show(a resolver.Answer, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	var out []string
	for _, x := range a.Addrs {
		out = append(out, x.String())
	}
	for _, x := range a.Targets {
		out = append(out, fmt.Sprintf("%d %d %d %s %v", x.Priority, x.Weight, x.Port, x.Name, x.Addrs))
	}
	return fmt.Sprint(strings.Join(out, " "), " ", a.TTL)
}

const brief = "options timeout:1 attempts:1\n"

func TestLookup(t *testing.T) {
	var many strings.Builder
	many.WriteString("tc\n")
	for i := range 300 {
		fmt.Fprintf(&many, "many.example. 5 A 10.1.%d.%d\n", i/256, i%256)
	}
	const soa = "\n--\nexample. 60 SOA ns.example. mail.example. 1 1 1 1 30"
	z := zone{
		"two.example. A":                "two.example. 30 A 10.0.0.1\ntwo.example. 5 A 10.0.0.2\nother.example. 1 A 10.0.0.3",
		"two.example. AAAA":             soa,
		"bare.example. AAAA":            "",
		"soattl.example. A":             "--\nexample. 7 SOA ns.example. mail.example. 1 1 1 1 3600",
		"v6.example. AAAA":              "v6.example. 5 AAAA fd00::1\nv6.example. 5 AAAA ::ffff:10.0.0.1",
		"alias.example. A":              "alias.example. 60 CNAME b.example.\nb.example. 3 CNAME c.example.\nc.example. 20 A 10.0.0.9",
		"shuffled.example. A":           "c.example. 20 A 10.0.0.9\nB.example. 3 CNAME c.example.\nshuffled.example. 60 CNAME b.EXAMPLE.",
		"loop.example. A":               "loop.example. 60 CNAME b.example.\nb.example. 3 CNAME loop.example.",
		"dangling.example. A":           "-ra\naa\ndangling.example. 60 CNAME elsewhere.test.",
		"dangling-soa.example. A":       "-ra\naa\ndangling-soa.example. 10 CNAME elsewhere.example." + soa,
		"dangling-recursive.example. A": "dangling-recursive.example. 10 CNAME elsewhere.test.",
		"nowhere.example. A":            "NXDOMAIN\nnowhere.example. 10 CNAME elsewhere.example." + soa,
		"referral.example. A":           "-ra\n--\nexample. 60 NS ns.example.",
		"fails.example. A":              "SERVFAIL",
		"refuses.example. A":            "REFUSED",
		"many.example. A":               many.String(),
		"cut.example. A":                "tc always",
		"_http._tcp.example. SRV": `_http._tcp.example. 30 SRV 10 1 8000 a.example.
			_http._tcp.example. 30 SRV 20 2 9000 b.example.
			++
			A.example. 4 A 10.0.0.1
			a.example. 30 AAAA fd00::1`,
		"_none._tcp.example. SRV": "_none._tcp.example. 11 SRV 0 0 0 .",
	}
	r := ask(t, brief, "", serve(t, true, z.serve))
	for _, c := range []struct {
		name string
		typ  resolver.Type
		want string // a part of it, if an error
	}{
		{"two.example.", resolver.A, "10.0.0.1 10.0.0.2 5s"},
		{"two.example.", resolver.AAAA, " 30s"},
		{"bare.example.", resolver.AAAA, " 0s"},
		{"soattl.example.", resolver.A, " 7s"},
		{"no.example.", resolver.A, " 30s"},
		{"v6.example.", resolver.AAAA, "fd00::1 10.0.0.1 5s"},
		{"alias.example.", resolver.A, "10.0.0.9 3s"},
		{"shuffled.example.", resolver.A, "10.0.0.9 3s"},
		{"loop.example.", resolver.A, "error: look up loop.example. A: server "},
		{"dangling.example.", resolver.A, "error: look up dangling.example. A: server "},
		{"dangling-soa.example.", resolver.A, " 10s"},
		{"dangling-recursive.example.", resolver.A, " 0s"},
		{"nowhere.example.", resolver.A, " 10s"},
		{"referral.example.", resolver.A, "error: look up referral.example. A: server "},
		{"fails.example.", resolver.A, "it answered SERVFAIL"},
		{"refuses.example.", resolver.A, "it answered REFUSED"},
		{"cut.example.", resolver.A, "the answer is cut off"},
		{"_http._tcp.example.", resolver.SRV, "10 1 8000 a.example. [10.0.0.1 fd00::1] 20 2 9000 b.example. [] 4s"},
		{"_none._tcp.example.", resolver.SRV, " 11s"},
	} {
		got := show(r.Lookup(t.Context(), c.name, c.typ))
		if got != c.want && !(strings.HasPrefix(got, "error") && strings.Contains(got, c.want)) {
			t.Errorf("%s %s: got %q, want %q", c.name, c.typ, got, c.want)
		}
	}
	for _, name := range []string{"", `a\.example.`, "a..example.", strings.Repeat("a", 64) + "."} {
		if got := show(r.Lookup(t.Context(), name, resolver.A)); !strings.Contains(got, "this is not a name") {
			t.Errorf("%q: %s", name, got)
		}
	}
	a, err := r.Lookup(t.Context(), "many.example.", resolver.A)
	if err != nil || len(a.Addrs) != 300 {
		t.Errorf("an answer that only TCP holds: %d addresses, %v", len(a.Addrs), err)
	}
}

// TestServers: a server that fails, is silent, is not there or makes no sense is
// passed over for the next, and an answer that was begun by UDP is never used in
// part.
func TestServers(t *testing.T) {
	good := zone{"a.example. A": "a.example. 5 A 10.0.0.1"}
	cut := serve(t, false, zone{"a.example. A": "tc"}.serve)
	gone := &server{addr: cut.addr[:strings.LastIndex(cut.addr, ":")] + ":1"}
	for _, c := range []struct {
		what string
		bad  *server
	}{
		{"fails", serve(t, true, zone{"a.example. A": "SERVFAIL"}.serve)},
		{"is silent", serve(t, true, zone{"a.example. A": "none"}.serve)},
		{"is not there", gone},
		{"has no TCP for an answer that is cut off", cut},
		{"has no EDNS, nor an answer", serve(t, true, zone{"a.example. A": "FORMERR"}.serve)},
		{"sends garbage", serve(t, true, func(w dns.ResponseWriter, q *dns.Msg) {
			for range 20 {
				_, _ = w.Write([]byte("garbage"))
			}
		})},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			r := ask(t, brief, "", c.bad, serve(t, true, good.serve))
			if got := show(r.Lookup(t.Context(), "a.example.", resolver.A)); got != "10.0.0.1 5s" {
				t.Errorf("with a good server after it: %q", got)
			}
			if got := show(ask(t, brief, "", c.bad).Lookup(t.Context(), "a.example.", resolver.A)); !strings.HasPrefix(got, "error: ") {
				t.Errorf("alone: %q", got)
			}
		})
	}
}

// TestAttempts: all servers are asked before one is asked again.
func TestAttempts(t *testing.T) {
	bad := serve(t, true, zone{"a.example. A": "SERVFAIL"}.serve)
	_, err := ask(t, "options attempts:3", "", bad).Lookup(t.Context(), "a.example.", resolver.A)
	if got := len(bad.asked()); err == nil || got != 3 {
		t.Errorf("asked %d times, %v", got, err)
	}
}

// TestEDNS: a question says what size it takes; who does not know that is asked in
// the old way.
func TestEDNS(t *testing.T) {
	var mu sync.Mutex
	var sizes []uint16 // guarded by mu
	s := serve(t, true, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		if o := q.IsEdns0(); o != nil {
			mu.Lock()
			sizes = append(sizes, o.UDPSize())
			mu.Unlock()
			m.SetRcodeFormatError(q)
			m.Id = q.Id
			_ = w.WriteMsg(m)
			return
		}
		zone{"old.example. A": "old.example. 5 A 10.0.0.1"}.serve(w, q)
	})
	got := show(ask(t, brief, "", s).Lookup(t.Context(), "old.example.", resolver.A))
	mu.Lock()
	defer mu.Unlock()
	if got != "10.0.0.1 5s" || !slices.Equal(sizes, []uint16{1232}) {
		t.Errorf("got %q with sizes %v", got, sizes)
	}
}

// TestForgeries: packets that do not fit the question are no answer to it.
func TestForgeries(t *testing.T) {
	s := serve(t, true, func(w dns.ResponseWriter, q *dns.Msg) {
		for _, spoil := range []func(m *dns.Msg){
			func(m *dns.Msg) { m.Id++ },
			func(m *dns.Msg) { m.Response = false },
			func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
			func(m *dns.Msg) { m.Question[0].Name = "b.example." },
			func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
			func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
			func(m *dns.Msg) { m.Question = nil },
			func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		} {
			m := new(dns.Msg)
			m.SetReply(q)
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "a.example.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 9}, A: net.IPv4(6, 6, 6, 6)}}
			spoil(m)
			_ = w.WriteMsg(m)
		}
		_, _ = w.Write([]byte{1, 2, 3})
		zone{"a.example. A": "A.EXAMPLE. 5 A 10.0.0.1"}.serve(w, q)
	})
	if got := show(ask(t, brief, "", s).Lookup(t.Context(), "a.example.", resolver.A)); got != "10.0.0.1 5s" {
		t.Errorf("got %q", got)
	}
}

// TestSearch: a name without a dot at its end is looked for in the search domains,
// in the order that its dots say, up to the first that has it.
func TestSearch(t *testing.T) {
	const conf = "search one.test two.test\noptions ndots:2 attempts:1 timeout:1\n"
	z := zone{
		"a.two.test. A":       "a.two.test. 5 A 10.0.0.2",
		"a.b.c. A":            "a.b.c. 5 A 10.0.0.3",
		"bad.one.test. A":     "SERVFAIL",
		"bad.two.test. A":     "bad.two.test. 5 A 10.0.0.4",
		"six.one.test. A":     "--\none.test. 20 SOA ns.test. m.test. 1 1 1 1 20",
		"six.two.test. A":     "six.two.test. 5 A 10.0.0.5",
		"gone.one.test. A":    "NXDOMAIN\n--\none.test. 9 SOA ns.test. m.test. 1 1 1 1 20",
		"nowhere.one.test. A": "NXDOMAIN\nnowhere.one.test. 8 CNAME gone.test.\n--\ntest. 9 SOA ns.test. m.test. 1 1 1 1 20",
		"whole.test. A":       "whole.test. 5 A 10.0.0.6",
		"whole.one.test. A":   "whole.one.test. 5 A 6.6.6.6",
		"fails.too. A":        "SERVFAIL",
		"a.b.c.one.test. A":   "a.b.c.one.test. 5 A 6.6.6.6",
		"b.c.one.test. AAAA":  "b.c.one.test. 5 AAAA fd00::1",
	}
	for _, c := range []struct {
		name string
		typ  resolver.Type
		want string
		asks string
	}{
		{"a", resolver.A, "10.0.0.2 5s", "a.one.test. a.two.test."},
		{"a.b.c", resolver.A, "10.0.0.3 5s", "a.b.c."},
		{"b.c", resolver.AAAA, "fd00::1 5s", "b.c.one.test."},
		{"bad", resolver.A, "error", "bad.one.test."},
		{"six", resolver.A, " 20s", "six.one.test."},
		{"gone", resolver.A, " 9s", "gone.one.test. gone.two.test. gone."},
		{"nowhere", resolver.A, " 8s", "nowhere.one.test."},
		{"whole.test.", resolver.A, "10.0.0.6 5s", "whole.test."},
	} {
		s := serve(t, true, z.serve)
		got := show(ask(t, conf, "", s).Lookup(t.Context(), c.name, c.typ))
		if strings.HasPrefix(got, "error") {
			got = "error"
		}
		var asks []string
		for _, x := range s.asked() {
			asks = append(asks, strings.Fields(x)[0])
		}
		if got != c.want || strings.Join(asks, " ") != c.asks {
			t.Errorf("%s: got %q by asking %v, want %q by %s", c.name, got, asks, c.want, c.asks)
		}
	}
}

// TestHosts: a name of the hosts file has what is there, and is not asked for.
func TestHosts(t *testing.T) {
	s := serve(t, true, zone{}.serve)
	r := ask(t, brief, "# a comment\n10.0.0.1 other triton # triton2\nfd00::1\tTriton.\nbad triton\n10.0.0.2 triton.example\n", s)
	for _, c := range []struct {
		name string
		typ  resolver.Type
		want string
	}{
		{"triton", resolver.A, "10.0.0.1 5s"},
		{"triton", resolver.AAAA, "fd00::1 5s"},
		{"triton.example.", resolver.A, "10.0.0.2 5s"},
		{"triton.example.", resolver.AAAA, " 5s"},
	} {
		if got := show(r.Lookup(t.Context(), c.name, c.typ)); got != c.want {
			t.Errorf("%s %s: got %q, want %q", c.name, c.typ, got, c.want)
		}
	}
	if asked := s.asked(); len(asked) > 0 {
		t.Errorf("asked for %v", asked)
	}
	if got := show(r.Lookup(t.Context(), "triton2.", resolver.A)); got != " 30s" {
		t.Errorf("a name in a comment: %q", got)
	}
}

// TestStop: a lookup that is given up does not wait for its server.
func TestStop(t *testing.T) {
	s := serve(t, true, zone{"a.example. A": "none"}.serve)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := ask(t, "options timeout:30 attempts:5", "", s).Lookup(ctx, "a.example.", resolver.A)
		done <- err
	}()
	for len(s.asked()) == 0 {
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err == nil || len(s.asked()) != 1 {
		t.Errorf("%v after %v", err, s.asked())
	}
}

// TestOnlyTCP: resolv.conf can ask for TCP from the start.
func TestOnlyTCP(t *testing.T) {
	s := serve(t, true, zone{"a.example. A": "a.example. 5 A 10.0.0.1"}.serve)
	if got := show(ask(t, "options use-vc", "", s).Lookup(t.Context(), "a.example.", resolver.A)); got != "10.0.0.1 5s" {
		t.Errorf("got %q", got)
	}
	if asked := s.asked(); len(asked) != 1 || !strings.HasSuffix(asked[0], "tcp") {
		t.Errorf("asked for %v", asked)
	}
}
