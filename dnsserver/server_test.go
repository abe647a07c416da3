package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds a hang; nothing here is expected to take as long.
const patience = 20 * time.Second

// world is an Answerer with two places: clients of 81.2.69.0/24 and
// 2001:db8:e::/48 are in eu, all others in us.
type world struct {
	mu    sync.Mutex
	asked []netip.Prefix
}

func (w *world) clients() []netip.Prefix {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked)
}

func (w *world) Generation() uint64 { return 1 }

var (
	eu4, eu6 = netip.MustParsePrefix("81.2.69.0/24"), netip.MustParsePrefix("2001:db8:e::/48")

	answerUS = &Answer{TTL: 20 * time.Second, Targets: []Target{
		{Priority: 2, Addrs: addrsOf("198.51.100.99")},
		{Priority: 1, Addrs: addrsOf("198.51.100.1", "2001:db8:1::1"), Port: 443},
	}}
	answerEU    = &Answer{TTL: 20 * time.Second, Targets: []Target{{Priority: 1, Addrs: addrsOf("198.51.100.2", "2001:db8:1::2")}}}
	answerV4    = &Answer{TTL: 20 * time.Second, Targets: []Target{{Addrs: addrsOf("198.51.100.3")}}}
	answerStale = &Answer{TTL: 5 * time.Second, Stale: true, Targets: answerUS.Targets}
	answerWhy   = &Answer{TTL: 1500 * time.Millisecond, TXT: []string{`cell=eu "quoted" back\slash`, strings.Repeat("x", 300)}}
	answerMany  = &Answer{TTL: 20 * time.Second, Targets: []Target{{Addrs: manyAddrs(60)}}}
	answerHuge  = &Answer{TTL: 20 * time.Second, Targets: []Target{{Addrs: manyAddrs(400)}}}
)

func addrsOf(texts ...string) (addrs []netip.Addr) {
	for _, text := range texts {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

func manyAddrs(n int) (addrs []netip.Addr) {
	for i := range n {
		addrs = append(addrs, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}))
	}
	return addrs
}

func (w *world) Lookup(name string, client netip.Prefix) (*Answer, uint8, Result) {
	w.mu.Lock()
	if len(w.asked) < 1000 {
		w.asked = append(w.asked, client)
	}
	asked := len(w.asked)
	w.mu.Unlock()
	switch strings.TrimSuffix(name, "example.test.") {
	case "", "llama.":
		switch {
		case eu4.Overlaps(client):
			return answerEU, 24, Found
		case eu6.Overlaps(client):
			return answerEU, 48, Found
		case client.Addr().Is4():
			return answerUS, 16, Found
		}
		return answerUS, 32, Found
	case "v4only.", "foo.wild.":
		return answerV4, 24, Found
	case "stale.":
		return answerStale, 24, Found
	case "_why.":
		return answerWhy, 24, Found
	case "many.":
		return answerMany, 24, Found
	case "huge.":
		return answerHuge, 24, Found
	case "wide.":
		return answerV4, 255, Found // more than either family has
	case "region.":
		return nil, 0, Empty
	case "eu.region.":
		return answerEU, 0, Found
	case "unready.":
		return nil, 0, Unready
	case "unsure.":
		return nil, 0, Unsure
	case "nothing.":
		return nil, 0, Found
	case "zero.":
		return nil, 0, 0
	case "panic.":
		panic("secret of " + name)
	case "index.":
		return nil, []uint8{}[asked], Found
	}
	return nil, 0, NotFound
}

// testOptions are those of the server that all tests ask.
func testOptions() Options {
	opts := DefaultOptions()
	opts.Zone.Name = "example.test"
	opts.Zone.Serial = 2026010101
	opts.Zone.NS = []NameServer{
		{Name: "ns1", Addrs: addrsOf("192.0.2.1", "2001:db8::1")},
		{Name: "ns2", Addrs: addrsOf("192.0.2.2", "2001:db8::2")},
	}
	opts.Zone.Hostmaster = "dns.admin@example.test"
	opts.Zone.Static = []string{
		`@ 300 IN MX 10 mail`,
		`@ CAA 0 issue "ca.example"`,
		`mail A 192.0.2.25`,
		`www 60 CNAME cdn.example.`,
		`deep.down.ent TXT "here"`,
		`*.wild TXT "any"`,
		`a.sub.wild TXT "blocks"`,
	}
	for i := range 12 {
		opts.Zone.Static = append(opts.Zone.Static, fmt.Sprintf("big TXT \"%02d %s\"", i, strings.Repeat("b", 90)))
	}
	opts.Zone.Reserved = []string{"_why", "region"}
	opts.Listen = []string{"127.0.0.1:0"}
	opts.NSID = "director-1"
	opts.Answerer = &world{}
	opts.Registry = prometheus.NewRegistry()
	return opts
}

// serve runs a server for the test and returns it with its first address.
func serve(t testing.TB, change func(*Options)) (*Server, netip.AddrPort) {
	t.Helper()
	opts := testOptions()
	if change != nil {
		change(&opts)
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := s.Bind(ctx); err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, ErrKilled) {
			t.Errorf("Run: %v", err)
		}
	})
	return s, s.Addrs()[0]
}

func ask(t testing.TB, q dnstest.Query) dnstest.Reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reply, err := dnstest.Ask(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// offline returns a handler without sockets.
func offline(t testing.TB) *handler {
	t.Helper()
	s, err := New(testOptions())
	if err != nil {
		t.Fatal(err)
	}
	return s.handler
}

// raw is a query message in the making.
type raw struct {
	id     uint16
	bits   uint16
	name   string
	qtype  uint16
	class  uint16 // 0: IN
	opt    []byte // a whole OPT record, or more
	ar     uint16
	counts [4]uint16 // instead of 1, 0, 0, ar, if any is set
	tail   []byte
	bare   bool // header only
}

func (r raw) wire() []byte {
	u16 := func(b []byte, vs ...uint16) []byte {
		for _, v := range vs {
			b = append(b, byte(v>>8), byte(v))
		}
		return b
	}
	counts := [4]uint16{1, 0, 0, r.ar}
	if r.opt != nil && r.ar == 0 {
		counts[3] = 1
	}
	if r.bare {
		counts[0] = 0
	}
	if r.counts != [4]uint16{} {
		counts = r.counts
	}
	wire := u16(nil, r.id, r.bits, counts[0], counts[1], counts[2], counts[3])
	if r.bare {
		return append(wire, r.tail...)
	}
	name := r.name
	if name == "" {
		name = "example.test."
	}
	owner := make([]byte, 300)
	end, err := dns.PackDomainName(name, owner, 0, nil, false)
	if err != nil {
		panic(err)
	}
	wire = append(wire, owner[:end]...)
	class := r.class
	if class == 0 {
		class = dns.ClassINET
	}
	wire = u16(wire, r.qtype, class)
	wire = append(wire, r.opt...)
	return append(wire, r.tail...)
}

// optRecord is an OPT record with the root as owner.
func optRecord(payload uint16, version byte, flags uint16, options ...[]byte) []byte {
	data := slices.Concat(options...)
	return append([]byte{0, 0, byte(dns.TypeOPT), byte(payload >> 8), byte(payload), 0, version, byte(flags >> 8), byte(flags),
		byte(len(data) >> 8), byte(len(data))}, data...)
}

// option is one EDNS option.
func option(code uint16, data ...byte) []byte {
	return append([]byte{byte(code >> 8), byte(code), byte(len(data) >> 8), byte(len(data))}, data...)
}

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"no answerer", func(o *Options) { o.Answerer = nil }, "Answerer"},
		{"no address", func(o *Options) { o.Listen = nil }, "listen"},
		{"host name to listen on", func(o *Options) { o.Listen = []string{"localhost:53"} }, "IP:port"},
		{"all addresses by omission", func(o *Options) { o.Listen = []string{":53"} }, "0.0.0.0:53 and [::]:53"},
		{"long nsid", func(o *Options) { o.NSID = strings.Repeat("n", 129) }, "NSID"},
		{"small payload", func(o *Options) { o.Limits.UDPPayload = 511 }, "512"},
		{"no workers", func(o *Options) { o.Limits.UDPWorkers = 0 }, "limit"},
		{"no idle time", func(o *Options) { o.Limits.TCPIdle = 0 }, "limit"},
		{"no ttl", func(o *Options) { o.Zone.TTL = 0 }, "time of the zone"},
		{"no zone", func(o *Options) { o.Zone.Name = "" }, "zone name is empty"},
		{"no name server", func(o *Options) { o.Zone.NS = nil }, "no name server"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			opts := testOptions()
			test.change(&opts)
			if _, err := New(opts); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
	opts := testOptions()
	if _, err := New(opts); err != nil {
		t.Fatal(err)
	}
	if _, err := New(opts); err == nil {
		t.Error("two servers on one registry were accepted")
	}
}

func TestBindIsAllOrNothing(t *testing.T) {
	s, addr := serve(t, nil)
	opts := testOptions()
	opts.Listen = []string{"127.0.0.1:0", addr.String()}
	second, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Bind(t.Context()); err == nil || !strings.Contains(err.Error(), addr.String()) {
		t.Errorf("bind on a taken address: %v", err)
	}
	if got := second.Addrs(); len(got) != 0 {
		t.Errorf("addresses after a failed bind: %v", got)
	}
	ask(t, dnstest.Query{Server: addr, Name: "example.test"}) // the first Run has begun
	if err := s.Run(t.Context()); err == nil {
		t.Error("second Run was accepted")
	}
}

func TestAddressesAndFamilies(t *testing.T) {
	s, _ := serve(t, func(o *Options) { o.Listen = []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"} })
	addrs := s.Addrs()
	if len(addrs) != 4 {
		t.Fatalf("addresses %v, want 4", addrs)
	}
	for _, addr := range addrs {
		if addr.Port() == 0 {
			t.Errorf("%s has no port", addr)
		}
		if addr.Addr().IsUnspecified() {
			// 127.0.0.2 shows that the reply comes from the address asked:
			// the connected socket takes no other.
			host := netip.MustParseAddr("127.0.0.2")
			if addr.Addr().Is6() {
				host = netip.IPv6Loopback()
			}
			addr = netip.AddrPortFrom(host, addr.Port())
		}
		for _, tcp := range []bool{false, true} {
			got := ask(t, dnstest.Query{Server: addr, TCP: tcp, Name: "llama.example.test"})
			if got.Rcode != "NOERROR" || len(got.Addrs) != 1 {
				t.Errorf("%s tcp=%t: %+v", addr, tcp, got)
			}
		}
	}
}

func TestKill(t *testing.T) {
	opts := testOptions()
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	addr := s.Addrs()[0]
	ask(t, dnstest.Query{Server: addr, Name: "example.test"})
	s.Kill()
	s.Kill()
	if err := <-done; !errors.Is(err, ErrKilled) {
		t.Errorf("Run after Kill: %v", err)
	}
	if err := s.Bind(t.Context()); !errors.Is(err, ErrKilled) {
		t.Errorf("Bind after Kill: %v", err)
	}
	if _, err := dnstest.Exchange(t.Context(), addr, true, raw{}.wire()); err == nil {
		t.Error("a killed server took a connection")
	}
}

func TestReload(t *testing.T) {
	s, addr := serve(t, nil)
	next := testOptions().Zone
	next.Serial++
	next.Static = []string{`new TXT "yes"`}
	bad := next
	bad.NS = nil
	if err := s.Reload(bad); err == nil {
		t.Error("a zone without a name server was taken")
	}
	if got := ask(t, dnstest.Query{Server: addr, Name: "mail.example.test"}); len(got.Addrs) != 1 {
		t.Errorf("after a refused reload: %+v", got)
	}
	if err := s.Reload(next); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, dnstest.Query{Server: addr, Name: "new.example.test", Type: "TXT"}); !slices.Equal(got.TXT, []string{"yes"}) {
		t.Errorf("after a reload: %+v", got)
	}
	if got := ask(t, dnstest.Query{Server: addr, Name: "mail.example.test"}); got.Rcode != "NXDOMAIN" {
		t.Errorf("a removed record after a reload: %+v", got)
	}
}
