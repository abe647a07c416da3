package agent

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// beside gives the options of another agent of a region, over the same pods and
// behind the same endpoint.
func (m *members) beside(o Options, name string) Options {
	m.t.Helper()
	l, err := new(net.ListenConfig).Listen(m.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = l.Close() })
	source, err := discovery.NewStatic(found(m.t, &o))
	if err != nil {
		m.t.Fatal(err)
	}
	o.Sources, o.Registry = []discovery.Source{source}, prometheus.NewRegistry()
	o.Listen = []string{l.Addr().String()}
	o.ListenStream = func(context.Context, string, string) (net.Listener, error) { return l, nil }
	o.Gossip.Name = string(o.Region) + "/" + name
	o.Gossip.Registry, o.Gossip.OnRecord = nil, nil
	return o
}

// twoAgents are two agents of one region over the same pods.
func twoAgents(t *testing.T, m *members) (one, two *site) {
	t.Helper()
	o, pods := m.options("eu-west", "llama")
	other := m.beside(o, "agent-2")
	one, two = m.start(o, pods), m.start(other, pods)
	for _, s := range []*site{one, two} {
		regionstest.Eventually(t, patience, func() bool {
			return s.gossip.Heeds(gossip.Audience{Role: gossip.RoleAgent, Region: "eu-west"})
		}, "the agents know each other")
	}
	return one, two
}

// TestAgentsSeeEachOthersLoad: the slots that one agent has taken are not free for the
// other, until they are, or until the first has died.
func TestAgentsSeeEachOthersLoad(t *testing.T) {
	m := newMembers(t)
	one, two := twoAgents(t, m)
	for _, p := range one.pods {
		p.Slow(1000) // nothing ends before it is to
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	ask := func(s *site, id string) {
		clients.Go(func() {
			if x, err := s.open("llama", id, 2); err == nil {
				_, _ = x.rest()
			}
		})
	}
	for i := range m.count * m.slots {
		ask(one, fmt.Sprint("one-", i))
	}
	full := func() bool {
		l, refusal := two.pool.Claim(time.Now(), regions.Request{Model: "llama"})
		if l != nil {
			l.Done(time.Now(), regions.Outcome{End: regions.EndNotStarted})
		}
		return refusal == pool.Full
	}
	regionstest.Eventually(t, patience, full, "the other agent knows that all slots are taken")
	for i := range 5 {
		ask(two, fmt.Sprint("two-", i))
	}
	regionstest.Eventually(t, patience, func() bool { return two.proxy.Waiting()["llama"] == 5 }, "its requests wait")
	one.Kill() // and with it its requests
	for _, p := range one.pods {
		p.Slow(1)
	}
	regionstest.Eventually(t, patience, func() bool { return two.proxy.Waiting()["llama"] == 0 && !full() }, "its requests have the slots of the dead agent")
}

// TestLoadOfStrangers: another region's agent can't take slots here.
func TestLoadOfStrangers(t *testing.T) {
	m := newMembers(t)
	eu, us := m.start(m.options("eu-west", "llama")), m.start(m.options("us-east", "llama"))
	regionstest.Eventually(t, patience, func() bool {
		return us.gossip.Heeds(gossip.Audience{Role: gossip.RoleAgent, Region: "eu-west"})
	}, "the agents know each other")
	var loads []regions.PodLoad
	for _, p := range eu.pool.Pods() {
		loads = append(loads, regions.PodLoad{Pod: p.ID, Model: p.Model, InFlight: 1000})
	}
	for _, region := range []regions.ID{"eu-west", "us-east"} {
		payload, err := wire.EncodePods(region, loads)
		if err != nil {
			t.Fatal(err)
		}
		if err := us.gossip.Publish(gossip.Record{Kind: wire.Kind_PODS, Payload: payload, Audience: gossip.Audience{Role: gossip.RoleAgent, Region: "eu-west"}}); err != nil {
			t.Fatal(err)
		}
	}
	// What comes later than they did has its slot all the same.
	m.sends(eu, rowFrom("eu-west", "llama", us.target(8)))
	for i := range 5 {
		x, err := eu.open("llama", fmt.Sprint(i), 2)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := x.rest(); err != nil || n != 2 || x.res.Header.Get("Rhumb-Region") != "eu-west" {
			t.Errorf("%d events from %s, %v", n, x.res.Header.Get("Rhumb-Region"), err)
		}
	}
}

// together is what some agents have on each pod, in order.
func together(sites ...*site) []int {
	sum := map[regions.PodID]int{}
	for _, s := range sites {
		for _, p := range s.pool.Pods() {
			sum[p.ID] += p.InFlight
		}
	}
	var out []int
	for _, n := range sum {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// TestTwoAgentsOverTheSamePods: 500 streams begin within 100 ms at two agents of a
// region, over ten pods of 32 slots. What they have together on any pod is even, and
// at no time much more than its slots. All streams end as they should.
//
// In virtual time no pod gets more than one over its slots. Here it also counts what
// one agent gives away while the other's word waits for a processor, which clients,
// agents and pods share: 34 to 39 on a pod, and 43 where three programs more want the
// two processors. Without that word each pod has 50.
func TestTwoAgentsOverTheSamePods(t *testing.T) {
	t.Parallel()
	const slots, each, tokens = 32, 250, 20
	m := newMembers(t)
	m.count, m.slots, m.token = 10, slots, 100*time.Millisecond
	one, two := twoAgents(t, m)
	var clients sync.WaitGroup
	for i := range each {
		for _, s := range []*site{one, two} {
			clients.Go(func() {
				<-time.After(time.Duration(i) * 100 * time.Millisecond / each)
				x, err := s.open("llama", fmt.Sprint(s.opts.Gossip.Name, i), tokens)
				if err != nil {
					t.Error(err)
					return
				}
				if events, err := x.rest(); err != nil || events != tokens {
					t.Errorf("a stream of %d events: %v", events, err)
				}
			})
		}
	}
	ended := make(chan struct{})
	go func() {
		clients.Wait()
		close(ended)
	}()
	var fullest []int // when a pod had the most
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for full := false; ; {
		select {
		case <-tick.C:
			on := together(one, two)
			if fullest == nil || on[9] > fullest[9] {
				fullest = on
			}
			full = full || on[0] >= slots
			continue
		case <-ended:
		}
		if !full {
			t.Error("the pods were never full")
		}
		break
	}
	t.Log("when a pod had the most:", fullest)
	if fullest[9] > slots+slots/2 {
		t.Errorf("%d on a pod of %d slots", fullest[9], slots)
	}
	sum := 0
	for _, n := range fullest {
		sum += n
	}
	if 2*10*fullest[9] > 3*sum {
		t.Errorf("%d on the fullest of ten pods, %d on all", fullest[9], sum)
	}
}

// TestAgentsAddUp: two agents have their own requests in flight on the same pods. The
// director sees all of the requests, and each slot once. When one agent is killed,
// the other gives its slots away.
func TestAgentsAddUp(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	one, two := twoAgents(t, m)
	const forever = 100_000 // tokens
	all := len(one.pods) * podSlots
	open := func(s *site, n int) {
		t.Helper()
		for i := range n {
			x, err := s.open("llama", fmt.Sprint(s.opts.Gossip.Name, i), forever)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = x.res.Body.Close() })
		}
	}
	open(one, 5)
	open(two, 4)
	sees := func(inFlight, queued int) {
		t.Helper()
		m.sees("eu-west", fmt.Sprint(inFlight, " in flight, ", queued, " waiting"), func(r *regions.Region) bool {
			x := r.Model("llama")
			return x != nil && int(x.InFlight) == inFlight && int(x.Queued) == queued && x.Slots == regions.Slots(all) && int(x.Pods.Ready) == len(one.pods)
		})
	}
	sees(9, 0)
	open(one, all-9)
	sees(all, 0)
	// Full by the word of the other agent.
	waits := make(chan error, 1)
	go func() {
		x, err := two.open("llama", "waits", 3)
		if err == nil {
			_, err = x.rest()
		}
		waits <- err
	}()
	sees(all, 1)
	one.Kill()
	if err := <-waits; err != nil {
		t.Error(err)
	}
	sees(4, 0)
}
