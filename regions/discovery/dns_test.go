package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/discovery/resolver"
)

var discardLog = slog.New(slog.DiscardHandler)

const service = "triton-llama.inference.svc.cluster.local."

// names is a resolver whose answers a test changes: addresses with spaces
// between, "none", "error", or "hang" until the lookup's time is up.
type names struct {
	mu      sync.Mutex
	answers map[string]string // by network; guarded by mu
	asked   map[string]int    // guarded by mu
}

func (n *names) set(v4, v6 string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers = map[string]string{"ip4": v4, "ip6": v6}
}

// Lookup implements discovery.Resolver. Each answer holds for two seconds.
func (n *names) Lookup(ctx context.Context, _ string, t resolver.Type) (resolver.Answer, error) {
	network := map[resolver.Type]string{resolver.A: "ip4", resolver.AAAA: "ip6"}[t]
	out := resolver.Answer{TTL: 2 * time.Second}
	n.mu.Lock()
	answer := n.answers[network]
	if n.asked == nil {
		n.asked = map[string]int{}
	}
	n.asked[network]++
	n.mu.Unlock()
	switch answer {
	case "none":
		return out, nil
	case "error":
		return resolver.Answer{}, errors.New("server misbehaving")
	case "hang":
		<-ctx.Done()
		return resolver.Answer{}, ctx.Err()
	}
	for _, text := range strings.Fields(answer) {
		out.Addrs = append(out.Addrs, netip.MustParseAddr(text))
	}
	return out, nil
}

// options are those of a source over a resolver.
func options(r discovery.Resolver) discovery.DNSOptions {
	o := discovery.DefaultDNSOptions(service)
	o.Models, o.Resolver = []regions.PodModel{{Name: "llama", Slots: 8}}, r
	return o
}

// ids are the IDs of a set in one line.
func ids(pods []regions.Pod) string {
	out := make([]string, 0, len(pods))
	for _, p := range pods {
		out = append(out, string(p.ID))
	}
	return strings.Join(out, " ")
}

// run runs a source in a bubble until the function returns; what it emits is
// appended to the list that the function is given.
func run(t *testing.T, d discovery.Source, f func(emitted *[][]regions.Pod)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var emitted [][]regions.Pod
	ended := make(chan error, 1)
	go func() {
		ended <- d.Run(ctx, func(pods []regions.Pod) {
			if err := discovery.Validate(pods); err != nil {
				t.Errorf("emitted an invalid set: %v", err)
			}
			turns.Lock()
			defer turns.Unlock()
			emitted = append(emitted, pods)
		})
	}()
	synctest.Wait()
	f(&emitted)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("an ordered stop is no error, got %v", err)
	}
}

// turns tells the race detector that what a test has read is over when a source
// goes on, which it does by a timer of its own.
var turns sync.Mutex

// pass lets time go by in the bubble.
func pass(d time.Duration) {
	turns.Lock()
	turns.Unlock() //nolint:staticcheck // see there
	<-time.After(d)
	synctest.Wait()
}

// TestDNSOverTime walks a source through the answers of a name. A step lasts
// until just after the next lookup, times its count.
func TestDNSOverTime(t *testing.T) {
	type step struct {
		v4, v6 string
		rounds int    // lookups with these answers; 0 is 1
		want   string // the set at the end, IDs in order; "-" none was ever emitted
		emits  int    // how many sets were emitted in this step
	}
	for _, c := range []struct {
		what  string
		steps []step
	}{
		{"pods of both families, each a pod, emitted on change only", []step{
			{v4: "10.0.0.2 10.0.0.1", v6: "fd00::1", want: "10.0.0.1:8000 10.0.0.2:8000 [fd00::1]:8000", emits: 1},
			{v4: "10.0.0.1 10.0.0.2", v6: "fd00::1", rounds: 20, want: "10.0.0.1:8000 10.0.0.2:8000 [fd00::1]:8000"},
			{v4: "10.0.0.1 10.0.0.2 10.0.0.3", v6: "fd00::1", want: "10.0.0.1:8000 10.0.0.2:8000 10.0.0.3:8000 [fd00::1]:8000", emits: 1},
		}},
		{"a pod comes at once and leaves at the third answer without it", []step{
			{v4: "10.0.0.1 10.0.0.2", v6: "none", want: "10.0.0.1:8000 10.0.0.2:8000", emits: 1},
			{v4: "10.0.0.2 10.0.0.3", v6: "none", rounds: 2, want: "10.0.0.1:8000 10.0.0.2:8000 10.0.0.3:8000", emits: 1},
			{v4: "10.0.0.2 10.0.0.3", v6: "none", want: "10.0.0.2:8000 10.0.0.3:8000", emits: 1},
		}},
		{"caches of different age do not make a pod come and go", []step{
			{v4: "10.0.0.1 10.0.0.2", v6: "none", want: "10.0.0.1:8000 10.0.0.2:8000", emits: 1},
			{v4: "10.0.0.1", v6: "none", rounds: 2, want: "10.0.0.1:8000 10.0.0.2:8000"},
			{v4: "10.0.0.1 10.0.0.2", v6: "none", want: "10.0.0.1:8000 10.0.0.2:8000"},
			{v4: "10.0.0.1", v6: "none", rounds: 2, want: "10.0.0.1:8000 10.0.0.2:8000"},
		}},
		{"an error changes nothing, however long", []step{
			{v4: "10.0.0.1", v6: "none", want: "10.0.0.1:8000", emits: 1},
			{v4: "error", v6: "error", rounds: 10_000, want: "10.0.0.1:8000"},
			{v4: "error", v6: "none", rounds: 10_000, want: "10.0.0.1:8000"},
			{v4: "10.0.0.1", v6: "none", want: "10.0.0.1:8000"},
		}},
		{"an error of one family keeps its pods and lets the others change", []step{
			{v4: "10.0.0.1", v6: "fd00::1 fd00::2", want: "10.0.0.1:8000 [fd00::1]:8000 [fd00::2]:8000", emits: 1},
			{v4: "error", v6: "fd00::2", rounds: 50, want: "10.0.0.1:8000 [fd00::2]:8000", emits: 1},
			{v4: "error", v6: "none", rounds: 50, want: "10.0.0.1:8000", emits: 1},
		}},
		{"no addresses are believed when repeated for half a minute", []step{
			{v4: "10.0.0.1 10.0.0.2", v6: "none", want: "10.0.0.1:8000 10.0.0.2:8000", emits: 1},
			{v4: "none", v6: "none", rounds: 16, want: "10.0.0.1:8000 10.0.0.2:8000"},
			{v4: "none", v6: "none", want: "", emits: 1},
			{v4: "none", v6: "none", rounds: 50, want: ""},
			{v4: "10.0.0.9", v6: "none", want: "10.0.0.9:8000", emits: 1},
		}},
		{"an answer between takes the repetition back, an error does not add to it", []step{
			{v4: "10.0.0.1", v6: "none", want: "10.0.0.1:8000", emits: 1},
			{v4: "none", v6: "none", rounds: 16, want: "10.0.0.1:8000"},
			{v4: "error", v6: "error", rounds: 50, want: "10.0.0.1:8000"},
			{v4: "10.0.0.1", v6: "none", want: "10.0.0.1:8000"},
			{v4: "none", v6: "none", rounds: 16, want: "10.0.0.1:8000"},
			{v4: "none", v6: "none", want: "", emits: 1},
		}},
		{"nothing is said before there is anything to say", []step{
			{v4: "error", v6: "error", rounds: 5, want: "-"},
			{v4: "error", v6: "none", rounds: 5, want: "-"},
			{v4: "none", v6: "none", want: "", emits: 1},
		}},
		{"one family's word is enough if it has pods", []step{
			{v4: "error", v6: "fd00::1", want: "[fd00::1]:8000", emits: 1},
		}},
		{"the first pods that are back after a spell of nothing do not cost the others", []step{
			{v4: "10.0.0.1 10.0.0.2 10.0.0.3", v6: "none", want: "10.0.0.1:8000 10.0.0.2:8000 10.0.0.3:8000", emits: 1},
			{v4: "none", v6: "none", rounds: 16, want: "10.0.0.1:8000 10.0.0.2:8000 10.0.0.3:8000"},
			{v4: "10.0.0.2", v6: "none", rounds: 2, want: "10.0.0.1:8000 10.0.0.2:8000 10.0.0.3:8000"},
			{v4: "10.0.0.2 10.0.0.3", v6: "none", want: "10.0.0.2:8000 10.0.0.3:8000", emits: 1},
		}},
		{"what no pod can have is left out", []step{
			{v4: "0.0.0.0 10.0.0.1 224.0.0.1 10.0.0.1", v6: ":: fe80::1 ff02::1 ::ffff:10.0.0.2", want: "10.0.0.1:8000 10.0.0.2:8000", emits: 1},
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := new(names)
				r.set(c.steps[0].v4, c.steps[0].v6)
				d, err := discovery.NewDNS(options(r))
				if err != nil {
					t.Fatal(err)
				}
				run(t, d, func(emitted *[][]regions.Pod) {
					before := 0
					for i, s := range c.steps {
						r.set(s.v4, s.v6)
						rounds := max(1, s.rounds)
						if i == 0 {
							rounds-- // the first lookup is at the start
						}
						pass(time.Duration(rounds) * 2 * time.Second)
						got := "-"
						if n := len(*emitted); n > 0 {
							got = ids((*emitted)[n-1])
						}
						if got != s.want || len(*emitted)-before != s.emits {
							t.Fatalf("step %d: %q after %d emissions, want %q after %d", i+1, got, len(*emitted)-before, s.want, s.emits)
						}
						before = len(*emitted)
					}
				})
			})
		})
	}
}

func TestDNSPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(names)
		r.set("10.0.0.1", "fd00::1")
		o := options(r)
		o.HTTPPort, o.MetricsPort, o.GRPCPort = 9000, 9002, 9001
		o.Models = []regions.PodModel{{Name: "llama", Slots: 8}, {Name: "mistral", Slots: 4}}
		d, err := discovery.NewDNS(o)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // a second run finds the same pods by the same IDs
			run(t, d, func(emitted *[][]regions.Pod) {
				if len(*emitted) != 1 || len((*emitted)[0]) != 2 {
					t.Fatalf("emitted %v", *emitted)
				}
				p := (*emitted)[0][1]
				want := regions.Pod{
					ID: "[fd00::1]:9000", HTTP: netip.MustParseAddrPort("[fd00::1]:9000"),
					Metrics: netip.MustParseAddrPort("[fd00::1]:9002"), GRPC: netip.MustParseAddrPort("[fd00::1]:9001"),
				}
				if p.ID != want.ID || p.HTTP != want.HTTP || p.Metrics != want.Metrics || p.GRPC != want.GRPC || !slices.Equal(p.Models, o.Models) {
					t.Errorf("got %+v, want %+v with the models", p, want)
				}
				p.Models[0].Slots = 99 // the set is the receiver's
				if (*emitted)[0][0].Models[0].Slots != 8 {
					t.Error("two pods share their models")
				}
			})
		}
	})
}

// TestDNSFamily: of a name with both families only the chosen one is asked for.
func TestDNSFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(names)
		r.set("hang", "fd00::1")
		o := options(r)
		o.Family = "ip6"
		d, err := discovery.NewDNS(o)
		if err != nil {
			t.Fatal(err)
		}
		run(t, d, func(emitted *[][]regions.Pod) {
			if len(*emitted) != 1 || ids((*emitted)[0]) != "[fd00::1]:8000" {
				t.Errorf("emitted %v", *emitted)
			}
		})
		if r.asked["ip4"] != 0 {
			t.Error("the other family was asked for")
		}
	})
}

// TestDNSHangs: a lookup that does not end is given up, and the next is made.
func TestDNSHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(names)
		r.set("hang", "hang")
		d, err := discovery.NewDNS(options(r))
		if err != nil {
			t.Fatal(err)
		}
		run(t, d, func(emitted *[][]regions.Pod) {
			pass(11 * time.Second)
			r.set("10.0.0.1", "none")
			pass(3 * time.Second)
			if len(*emitted) != 1 || ids((*emitted)[0]) != "10.0.0.1:8000" {
				t.Errorf("emitted %v", *emitted)
			}
		})
	})
}

// TestDNSStopsAtOnce: a stop does not wait for a lookup that hangs.
func TestDNSStopsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(names)
		r.set("hang", "hang")
		d, err := discovery.NewDNS(options(r))
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		run(t, d, func(*[][]regions.Pod) {})
		if took := time.Since(begun); took != 0 {
			t.Errorf("the stop took %v", took)
		}
	})
}

func TestDNSTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		many := func(from int) string {
			var b strings.Builder
			for i := from; i < from+1500; i++ {
				fmt.Fprintf(&b, "10.0.%d.%d ", i/256, i%256)
			}
			return b.String()
		}
		r := new(names)
		r.set(many(0), "fd00::1")
		d, err := discovery.NewDNS(options(r))
		if err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		d.Report(slog.New(slog.NewTextHandler(&log, nil)), discovery.NewMetrics(nil))
		run(t, d, func(emitted *[][]regions.Pod) {
			last := func() []regions.Pod { return (*emitted)[len(*emitted)-1] }
			if n := len(last()); n != 1024 {
				t.Fatalf("%d pods", n)
			}
			// All are replaced: those that linger make room for those that are there.
			r.set(many(2000), "none")
			pass(2 * time.Second)
			if p := last(); len(p) != 1024 || p[0].HTTP.Addr() != netip.MustParseAddr("10.0.7.208") {
				t.Errorf("%d pods from %s", len(p), p[0].ID)
			}
		})
		if !strings.Contains(log.String(), "dropped=476") {
			t.Errorf("the log does not tell: %s", log.String())
		}
	})
}

// TestDNSReports: going away and coming back is logged once each and shows in
// the metrics; a source that ended leaves no gauge behind.
func TestDNSReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(names)
		r.set("10.0.0.1", "none")
		d, err := discovery.NewDNS(options(r))
		if err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		registry := prometheus.NewRegistry()
		d.Report(slog.New(slog.NewTextHandler(&log, nil)), discovery.NewMetrics(registry))
		gauges := func(away, pods int) {
			t.Helper()
			want := fmt.Sprintf(`# HELP rhumb_discovery_away 1 while a source of pods does not answer and its pods stay as they were.
# TYPE rhumb_discovery_away gauge
rhumb_discovery_away{name=%[1]q} %[2]d
# HELP rhumb_discovery_pods Pods that a source has found, whatever their state.
# TYPE rhumb_discovery_pods gauge
rhumb_discovery_pods{name=%[1]q} %[3]d
`, service, away, pods)
			if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "rhumb_discovery_away", "rhumb_discovery_pods"); err != nil {
				t.Error(err)
			}
		}
		run(t, d, func(*[][]regions.Pod) {
			gauges(0, 1)
			r.set("error", "error")
			pass(20 * time.Second)
			gauges(1, 1)
			r.set("10.0.0.1 10.0.0.2", "none")
			pass(2 * time.Second)
			gauges(0, 2)
		})
		for text, times := range map[string]int{"the source is away": 1, "the source is back": 1, "pods found": 2, "both families": 0} {
			if n := strings.Count(log.String(), text); n != times {
				t.Errorf("%q is logged %d times, want %d:\n%s", text, n, times, log.String())
			}
		}
		if n, err := testutil.GatherAndCount(registry, "rhumb_discovery_away", "rhumb_discovery_pods"); err != nil || n != 0 {
			t.Errorf("%d gauges are left behind, %v", n, err)
		}
		counted := map[string]float64{"found": 2, "none": 2, "error": 20}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				result := m.GetLabel()[1].GetValue()
				if got := m.GetCounter().GetValue(); got != counted[result] {
					t.Errorf("%s lookups: %v, want %v", result, got, counted[result])
				}
			}
		}
	})
}

func TestNewDNSRefuses(t *testing.T) {
	for want, spoil := range map[string]func(*discovery.DNSOptions){
		"no name":          func(o *discovery.DNSOptions) { o.Name = "" },
		"can't be dialled": func(o *discovery.DNSOptions) { o.HTTPPort = 0 },
		"are both":         func(o *discovery.DNSOptions) { o.MetricsPort = o.HTTPPort },
		"no models":        func(o *discovery.DNSOptions) { o.Models = nil },
		`family "ipv4"`:    func(o *discovery.DNSOptions) { o.Family = "ipv4" },
	} {
		o := options(nil)
		spoil(&o)
		if _, err := discovery.NewDNS(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if _, err := discovery.NewDNS(options(nil)); err != nil {
		t.Error(errors.Join(errors.New("good options are refused"), err))
	}
}

// resolverAddr is the address of a target by its letter.
func resolverAddr(name string) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, name[0]}) }

func resolverAddrs(text string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(text)} }
