package agent

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/discovery/resolver"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// headless is a name whose addresses a test changes, as a Service's do.
type headless struct {
	mu    sync.Mutex
	addrs []netip.Addr // guarded by mu
}

func (h *headless) set(addrs ...netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addrs = addrs
}

// Lookup implements discovery.Resolver.
func (h *headless) Lookup(_ context.Context, _ string, t resolver.Type) (resolver.Answer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := resolver.Answer{TTL: time.Second}
	if t == resolver.A {
		a.Addrs = slices.Clone(h.addrs)
	}
	return a, nil
}

// TestPodsByName: an agent finds pods by a name, takes in one that comes, and
// lets one that leaves the name finish its stream.
func TestPodsByName(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, _ := m.options("us-east", "llama")

	// Pods of one port at addresses of their own, as in a cluster.
	var pods []*tritontest.Pod
	var addrs []netip.Addr
	at := netip.AddrPortFrom(free(t).Addr(), 0)
	for range 2 {
		spec := tritontest.DefaultOptions()
		spec.Addr, spec.MetricsAddr = at.String(), ""
		model := tritontest.DefaultModel("llama")
		model.Slots, model.PrefillPerToken, model.InterToken, model.BatchPenalty = podSlots, 0, 5*time.Millisecond, 0
		spec.Models = append(spec.Models, model)
		p := tritontest.New(spec)
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		got := netip.MustParseAddrPort(p.Addr())
		pods, addrs = append(pods, p), append(addrs, got.Addr())
		at = netip.AddrPortFrom(free(t).Addr(), got.Port())
	}

	name := new(headless)
	name.set(addrs[0])
	dns := discovery.DefaultDNSOptions("triton.example.")
	dns.HTTPPort, dns.Resolver = at.Port(), name
	dns.Models = []regions.PodModel{{Name: "llama", Slots: podSlots}}
	source, err := discovery.NewDNS(dns)
	if err != nil {
		t.Fatal(err)
	}
	o.Sources = []discovery.Source{source}
	us := m.start(o, pods[:1])
	const tokens = 1800 // 9 s: longer than it takes to find the second pod and drop the first
	x, err := us.open("llama", "s", tokens)
	if err != nil {
		t.Fatal(err)
	}

	name.set(addrs...)
	ready := func() (ids []regions.PodID) {
		for _, p := range us.pool.Pods() {
			if p.State == regions.PodReady {
				ids = append(ids, p.ID)
			}
		}
		return ids
	}
	regionstest.Eventually(t, patience, func() bool { return len(ready()) == 2 }, "the second pod is found and gets ready")

	name.set(addrs[1])
	second := regions.PodID(netip.AddrPortFrom(addrs[1], at.Port()).String())
	regionstest.Eventually(t, patience, func() bool { return slices.Equal(ready(), []regions.PodID{second}) }, "the first pod leaves")
	for range 4 {
		if status, _ := us.get(us.url("/v2/models/llama/ready")); status != http.StatusOK {
			t.Errorf("a request after the first pod has left: %d", status)
		}
	}
	if n, err := x.rest(); err != nil || n != tokens {
		t.Errorf("the stream of the pod that left has %d tokens, %v", n, err)
	}
}
