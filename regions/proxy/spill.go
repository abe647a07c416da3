package proxy

import (
	"maps"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Spiller gives out other regions for requests that no pod here can take.
type Spiller interface {
	// Spill chooses a region for the request, or reports that there is none.
	// It is called again for one request when a region that it gave was lost;
	// by then it has heard so from that region's Done.
	Spill(now time.Time, req regions.Request) (SpillLease, bool)
	// Knows reports that some region has the model, whether or not one can take a
	// request now: then the model is unavailable, not unknown.
	Knows(model regions.ModelName) bool
	// HasPeer reports that there is another region of that name.
	HasPeer(region regions.ID) bool
}

// SpillLease is a place in another region that a request holds.
type SpillLease interface {
	// Region and Endpoint say where.
	Region() regions.ID
	Endpoint() regions.Endpoint
	// Done ends the lease; it is called exactly once.
	Done(now time.Time, out regions.Outcome)
}

// place is where an attempt goes: a pod of this region or another region.
type place struct {
	scheme, host string
	pod          regions.PodID // empty for a region
	region       regions.ID    // empty for a pod
	done         func(now time.Time, out regions.Outcome)
}

// name is the place's name in logs and errors.
func (p place) name() string {
	if p.pod != "" {
		return "pod " + string(p.pod)
	}
	return "region " + string(p.region)
}

// tally counts requests by model while they last.
type tally struct {
	mu sync.Mutex
	n  map[regions.ModelName]int // above zero; guarded by mu
}

func (t *tally) add(m regions.ModelName, by int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[regions.ModelName]int{}
	}
	if t.n[m] += by; t.n[m] == 0 {
		delete(t.n, m)
	}
}

// SpilledIn are the requests from other regions' gateways that hold a pod here,
// by model.
func (p *Proxy) SpilledIn() map[regions.ModelName]int {
	p.guests.mu.Lock()
	defer p.guests.mu.Unlock()
	return maps.Clone(p.guests.n)
}
