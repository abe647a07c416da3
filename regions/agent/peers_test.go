package agent

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

func TestSharingIsDue(t *testing.T) {
	some, more := []regions.PodLoad{{Pod: "a", Model: "m", InFlight: 1}}, []regions.PodLoad{{Pod: "a", Model: "m", InFlight: 2}}
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var s sharing
	for i, step := range []struct {
		ms    int
		loads []regions.PodLoad
		want  bool
	}{
		{0, nil, false},
		{10, some, true},
		{30, more, false}, // too soon
		{60, more, true},
		{200, more, false}, // nothing new
		{560, more, true},  // but again
		{620, nil, true},
		{800, nil, false},
		{1120, nil, true}, // and again for a while
		{1620, nil, true},
		{2120, nil, true},
		{2630, nil, false}, // enough
		{9000, nil, false},
		{9010, some, true},
	} {
		if got := s.due(begun.Add(time.Duration(step.ms)*time.Millisecond), step.loads); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
}

// twoAgents are two agents of one region over the same pods.
func twoAgents(t *testing.T, m *members) (one, two *site) {
	t.Helper()
	o, pods := m.options("eu-west", "llama")
	other, nobodys := m.options("eu-west", "llama")
	for _, p := range nobodys {
		p.Close()
	}
	other.Sources = o.Sources
	other.Gossip = m.gossip("eu-west/agent-2", fleet.Request{Role: fleet.RoleRegion, Name: "eu-west", Grant: fleet.Grant{Endpoints: other.Endpoints}})
	one, two = m.start(o, pods), m.start(other, nil)
	regionstest.Eventually(t, patience, func() bool {
		return int(two.pool.Models(time.Now(), nil)[0].Pods.Ready) == m.count
	}, "the second agent has all pods")
	return one, two
}

// onPods is what an agent has on each pod.
func (s *site) onPods() map[regions.PodID]int {
	out := map[regions.PodID]int{}
	for _, p := range s.pool.Pods() {
		out[p.ID] += p.InFlight
	}
	return out
}

// TestBurstAtTwoAgents sends 500 requests within a moment at two agents over ten pods:
// none has more than one and a half times the mean.
func TestBurstAtTwoAgents(t *testing.T) {
	m := newMembers(t)
	m.slots, m.count = 64, 10
	one, two := twoAgents(t, m)
	var clients sync.WaitGroup
	defer clients.Wait()
	const each = 250
	begun := time.Now()
	for i := range each {
		for _, s := range []*site{one, two} {
			clients.Go(func() {
				x, err := s.open("llama", fmt.Sprint(i), 400)
				if err != nil {
					t.Error(err)
					return
				}
				if n, err := x.rest(); err != nil || n != 400 {
					t.Errorf("%d events, %v", n, err)
				}
			})
		}
	}
	var on map[regions.PodID]int
	regionstest.Eventually(t, patience, func() bool {
		on = one.onPods()
		for id, n := range two.onPods() {
			on[id] += n
		}
		sum := 0
		for _, n := range on {
			sum += n
		}
		return sum == 2*each
	}, "all requests are on pods")
	most, least := 0, 2*each
	for _, n := range on {
		most, least = max(most, n), min(least, n)
	}
	t.Logf("500 requests within %v: %d to %d on a pod, the mean is %d", time.Since(begun).Round(time.Millisecond), least, most, 2*each/m.count)
	if most*m.count*2 > 3*2*each {
		t.Errorf("%d on a pod, more than one and a half times the mean: %v", most, on)
	}
}

// TestAgentsSeeEachOthersLoad: the slots that one agent has taken are not free for the
// other, until they are, or until the first has died.
func TestAgentsSeeEachOthersLoad(t *testing.T) {
	m := newMembers(t)
	one, two := twoAgents(t, m)
	regionstest.Eventually(t, patience, func() bool {
		return two.gossip.Heeds(gossip.Audience{Role: gossip.RoleAgent, Region: "eu-west"}) && one.gossip.Heeds(gossip.Audience{Role: gossip.RoleAgent, Region: "eu-west"})
	}, "the agents know each other")
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
