package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/discovery/resolver"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// serve is a DNS server on loopback, by UDP and TCP on one port, that gives the
// records of the question's type, or a code.
func serve(t *testing.T, rcode int, records ...string) discovery.Resolver {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := config.ListenPacket(t.Context(), "udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetRcode(q, rcode)
		m.RecursionAvailable = true
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			if rr.Header().Name == q.Question[0].Name && rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(1232)
		}
		_ = w.WriteMsg(m)
	})
	servers := []*dns.Server{{PacketConn: p, Handler: answer}, {Listener: l, Handler: answer}}
	var g sync.WaitGroup
	for _, s := range servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		g.Go(func() { _ = s.ActivateAndServe() })
		<-started
	}
	t.Cleanup(func() {
		for _, s := range servers {
			_ = s.Shutdown()
		}
		g.Wait()
	})
	o := resolver.DefaultOptions()
	o.Servers, o.Hosts = []string{l.Addr().String()}, ""
	return resolver.New(o)
}

// TestDNSOnTheWire asks a real server, to see that what a server says arrives in
// the sense that the source takes it.
func TestDNSOnTheWire(t *testing.T) {
	const patience = 20 * time.Second
	const v4, v6 = service + " 5 A 10.0.0.1", service + " 5 AAAA fd00::1"
	const srv = service + " 5 SRV 10 0 9000 a.example."
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("%s 5 A 10.1.0.%d", service, i))
	}
	for _, c := range []struct {
		what    string
		srv     bool
		rcode   int
		records []string
		want    string // the first set, IDs or their number; "-" none
	}{
		{"both families", false, dns.RcodeSuccess, []string{v4, v6}, "10.0.0.1:8000 [fd00::1]:8000"},
		{"one family, none of the other", false, dns.RcodeSuccess, []string{v6}, "[fd00::1]:8000"},
		{"more than a packet holds, by TCP", false, dns.RcodeSuccess, many, "200 pods"},
		{"no such name", false, dns.RcodeNameError, nil, ""},
		{"a name without addresses", false, dns.RcodeSuccess, nil, ""},
		{"a server in trouble", false, dns.RcodeServerFailure, nil, "-"},
		{"a server that refuses", false, dns.RcodeRefused, nil, "-"},
		{"SRV, a target of both families is one pod", true, dns.RcodeSuccess,
			[]string{srv, "a.example. 5 A 10.0.0.1", "a.example. 5 AAAA fd00::1"}, "10.0.0.1:9000"},
		{"SRV, two on a machine, and one with IPv6 only", true, dns.RcodeSuccess,
			[]string{srv, service + " 5 SRV 10 0 9001 a.example.", service + " 5 SRV 10 0 9000 b.example.", "a.example. 5 A 10.0.0.1", "b.example. 5 AAAA fd00::1"},
			"10.0.0.1:9000 10.0.0.1:9001 [fd00::1]:9000"},
		{"SRV, those of the second priority are left alone", true, dns.RcodeSuccess,
			[]string{srv, service + " 5 SRV 20 0 9000 b.example.", "a.example. 5 A 10.0.0.1", "b.example. 5 A 10.0.0.2"}, "10.0.0.1:9000"},
		{"SRV without records", true, dns.RcodeSuccess, nil, ""},
		{"SRV that says that there is no such service", true, dns.RcodeSuccess, []string{service + " 5 SRV 0 0 0 ."}, ""},
		{"SRV of a server in trouble", true, dns.RcodeServerFailure, nil, "-"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			o := options(serve(t, c.rcode, c.records...))
			o.SRV = c.srv
			d, err := discovery.NewDNS(o)
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
				if len(pods) > 3 {
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

// lookups is a resolver by a function.
type lookups func(name string, t resolver.Type) (resolver.Answer, error)

func (f lookups) Lookup(_ context.Context, name string, t resolver.Type) (resolver.Answer, error) {
	return f(name, t)
}

// TestDNSAsksAgain: when an answer's time is over, within bounds, and soon after
// one that failed.
func TestDNSAsksAgain(t *testing.T) {
	for _, c := range []struct {
		v4, v6 time.Duration
		err    error
		want   time.Duration
	}{
		{5 * time.Second, 30 * time.Second, nil, 5 * time.Second},
		{30 * time.Second, 3 * time.Second, nil, 3 * time.Second},
		{0, time.Minute, nil, time.Second},
		{24 * time.Hour, time.Hour, nil, 30 * time.Second},
		{time.Minute, time.Minute, errors.New("away"), 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var asked []time.Time
			d, err := discovery.NewDNS(options(lookups(func(_ string, typ resolver.Type) (resolver.Answer, error) {
				if typ == resolver.A {
					asked = append(asked, time.Now())
					return resolver.Answer{TTL: c.v4}, nil
				}
				return resolver.Answer{TTL: c.v6}, c.err
			})))
			if err != nil {
				t.Fatal(err)
			}
			run(t, d, func(*[][]regions.Pod) { pass(10*c.want + c.want/2) })
			if len(asked) != 11 || asked[1].Sub(asked[0]) != c.want {
				t.Errorf("answers that hold for %v and %v, %v: asked %d times, first after %v, want %v", c.v4, c.v6, c.err, len(asked), asked[1].Sub(asked[0]), c.want)
			}
		})
	}
}

// TestSRVOverTime: a target whose address nobody could say keeps its pod and hides
// no others, and the addresses that come along need no questions.
func TestSRVOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var step, asked atomic.Int32
		d, err := discovery.NewDNS(func() discovery.DNSOptions {
			o := options(lookups(func(name string, typ resolver.Type) (resolver.Answer, error) {
				a := resolver.Answer{TTL: 2 * time.Second}
				if typ == resolver.SRV {
					for _, n := range []string{"a.", "b.", "c."}[:min(3, 2+step.Load())] {
						a.Targets = append(a.Targets, resolver.Target{Name: n, Port: 9000})
					}
					if step.Load() == 2 {
						a.Targets = a.Targets[1:] // also without a.
					}
					return a, nil
				}
				asked.Add(1)
				if name == "b." && step.Load() >= 1 && typ == resolver.A {
					return a, errors.New("away") // and by the other family's word there is none
				}
				if typ == resolver.A {
					a.Addrs = append(a.Addrs, resolverAddr(name))
				}
				return a, nil
			}))
			o.SRV, o.MetricsPort, o.GRPCPort, o.OpenAIPort = true, 8002, 8001, 9100
			return o
		}())
		if err != nil {
			t.Fatal(err)
		}
		run(t, d, func(emitted *[][]regions.Pod) {
			last := func() string { return ids((*emitted)[len(*emitted)-1]) }
			p := (*emitted)[0][0]
			if last() != "10.0.0.97:9000 10.0.0.98:9000" || p.Metrics.Port() != 8002 || p.GRPC.Port() != 8001 || p.OpenAI.Port() != 9100 || asked.Load() != 2 {
				t.Fatalf("got %s, %+v after %d questions", last(), p, asked.Load())
			}
			step.Store(1) // c. comes, b.'s address is not known any more
			pass(2 * time.Second)
			if last() != "10.0.0.97:9000 10.0.0.98:9000 10.0.0.99:9000" {
				t.Errorf("one target that is away hides another: %s", last())
			}
			step.Store(2) // a. is gone, but with b. away nothing says which are
			pass(time.Minute)
			if last() != "10.0.0.97:9000 10.0.0.98:9000 10.0.0.99:9000" {
				t.Errorf("a part of an answer took pods away: %s", last())
			}
		})
	})
}

// TestSRVGivenAlong: the addresses that come with SRV records are those of the
// family that is wanted.
func TestSRVGivenAlong(t *testing.T) {
	for family, want := range map[string]string{"": "10.0.0.97:9000", "ip4": "10.0.0.97:9000", "ip6": "[fd00::1]:9000"} {
		synctest.Test(t, func(t *testing.T) {
			o := options(lookups(func(name string, typ resolver.Type) (resolver.Answer, error) {
				if typ != resolver.SRV {
					t.Errorf("asked for %s %v", name, typ)
				}
				target := resolver.Target{Name: "a.", Port: 9000, Addrs: slices.Concat(resolverAddrs("fd00::1"), resolverAddrs("10.0.0.97"))}
				return resolver.Answer{TTL: time.Second, Targets: []resolver.Target{target, target}}, nil
			}))
			o.SRV, o.Family = true, family
			d, err := discovery.NewDNS(o)
			if err != nil {
				t.Fatal(err)
			}
			run(t, d, func(emitted *[][]regions.Pod) {
				if got := ids((*emitted)[0]); got != want {
					t.Errorf("family %q: got %s, want %s", family, got, want)
				}
			})
		})
	}
}
