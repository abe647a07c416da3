package proxy

import (
	"maps"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Spiller gives out other regions for requests that no pod here can take.
type Spiller interface {
	// Spill chooses a region for the request, or reports that there is none. With must
	// there is no pod here at all, so that a region that has enough from here already
	// is better than none. It is called again for one request when a region that it
	// gave was lost or had no room; by then it has heard so from that region's Done.
	Spill(now time.Time, req regions.Request, must bool) (SpillLease, bool)
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
	// Done ends the lease; it is called exactly once. An end of
	// [regions.EndNotStarted] says that the region had no room.
	Done(now time.Time, out regions.Outcome)
}

// spillTries is how many regions are asked for one request: the row's best, and one
// that may know better than the row. Each costs a round trip before the request waits
// at home again.
const spillTries = 2

// place is where an attempt goes: a pod of this region or another region.
type place struct {
	scheme, host string
	pod          regions.PodID // empty for a region
	region       regions.ID    // empty for a pod
	print        regions.Fingerprint
	done         func(now time.Time, out regions.Outcome)
}

// name is the place's name in logs and errors.
func (p place) name() string {
	if p.pod != "" {
		return "pod " + string(p.pod)
	}
	return "region " + string(p.region)
}

// hostFor is how long a region that took in another's request does not send its own
// on for being busy: the time in which the directors' rows follow. Two regions that
// each send the other what they could do themselves do the same work later.
const hostFor = 5 * time.Second

// guests are the requests that other regions' gateways have sent here.
type guests struct {
	mu   sync.Mutex
	n    map[regions.ModelName]int       // above zero; guarded by mu
	last map[regions.ModelName]time.Time // when the newest came or went; guarded by mu
}

func (g *guests) add(m regions.ModelName, by int, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n == nil {
		g.n, g.last = map[regions.ModelName]int{}, map[regions.ModelName]time.Time{}
	}
	g.last[m] = now
	if g.n[m] += by; g.n[m] == 0 {
		delete(g.n, m)
	}
}

// hosts reports that the region takes in requests for a model at the moment.
func (g *guests) hosts(m regions.ModelName, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	last, ok := g.last[m]
	return g.n[m] > 0 || ok && now.Sub(last) < hostFor
}

// SpilledIn are the requests from other regions' gateways that hold a pod here,
// by model.
func (p *Proxy) SpilledIn() map[regions.ModelName]int {
	p.guests.mu.Lock()
	defer p.guests.mu.Unlock()
	return maps.Clone(p.guests.n)
}
