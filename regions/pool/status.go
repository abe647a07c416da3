package pool

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Models is the status of every known model, sorted by name. How many requests
// wait for a slot is the caller's to say, since they wait in front of the pool;
// nil says that none do.
//
// In-flight are the pool's own requests. Wait is how long those that wait need to
// get a slot; zero if no pod takes any, which the slots say. The source of slots
// is the least firm of any pod's, and the fingerprint is there if all pods that
// take requests have the same.
func (p *Pool) Models(now time.Time, queued map[regions.ModelName]int) []regions.ModelStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tickLocked(now)
	out := make([]regions.ModelStatus, 0, len(p.models))
	for _, m := range p.models {
		out = append(out, m.status(max(0, queued[m.name])))
	}
	slices.SortFunc(out, func(a, b regions.ModelStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (m *model) status(queued int) regions.ModelStatus {
	out := regions.ModelStatus{
		Name: m.name, PoolID: m.id(), SlotsSource: regions.SlotsConfigured, Fingerprint: m.fingerprint(),
		Queued: uint32(queued), TTFT: m.ttft.Value(), Arrivals: m.arrivals, Completions: m.completions,
	}
	for _, s := range m.seats {
		count(&out.Pods, s.state())
		out.Slots += regions.Slots(s.open())
		out.InFlight += uint32(s.inFlight)
		if s.listed {
			out.SlotsSource = max(out.SlotsSource, s.source)
		}
	}
	if out.Slots > 0 {
		out.Wait = regions.Micros(queued) * m.residence.Value() * 1000 / regions.Micros(out.Slots)
	}
	return out
}

// fingerprint is that of all pods that take requests, the zero value if they
// differ or some is not known.
func (m *model) fingerprint() regions.Fingerprint {
	var all regions.Fingerprint
	first := true
	for _, s := range m.seats {
		switch {
		case !s.state().Takes():
		case first:
			all, first = s.facts.Fingerprint, false
		case s.facts.Fingerprint != all:
			return regions.Fingerprint{}
		}
	}
	return all
}

func count(c *regions.PodCounts, st regions.PodState) {
	switch st {
	case regions.PodReady:
		c.Ready++
	case regions.PodWarming:
		c.Warming++
	case regions.PodEjected:
		c.Ejected++
	case regions.PodDraining:
		c.Draining++
	default:
		c.Gone++
	}
}

// id is the hash of the pods that the set lists for the model, in any state:
// FNV-1a over each ID's length and bytes. It is for telling sets apart, not
// against forgery.
func (m *model) id() uint64 {
	h := fnv.New64a()
	for _, s := range m.seats {
		if s.listed {
			id := s.pod.spec.ID
			_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(id)))) // a hash does not fail
			_, _ = h.Write([]byte(id))
		}
	}
	return h.Sum64()
}

// PodInfo is one pod's part in one model's pool, for people to read.
type PodInfo struct {
	ID       regions.PodID
	Model    regions.ModelName
	State    regions.PodState
	Why      string // it was ejected the last time, if it was
	InFlight int    // own requests of this model on the pod
	Slots    int    // for this model, in full even while it is warming
	Source   regions.SlotsSource
	Served   uint64 // requests answered in full
	Failed   uint64 // requests that ended by the pod's doing
}

// Lists reports whether some pod is said to have a model, in whatever state.
func (p *Pool) Lists(name regions.ModelName) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.models[name] != nil
}

// Takes reports whether any pod takes requests for a model, busy or not.
func (p *Pool) Takes(name regions.ModelName) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.models[name]
	return m != nil && slices.ContainsFunc(m.seats, func(s *seat) bool { return s.open() > 0 })
}

// Pods lists every pod and model, those that still finish requests included,
// sorted by pod and model.
func (p *Pool) Pods() []PodInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []PodInfo
	for _, m := range p.models {
		for _, s := range m.seats {
			out = append(out, PodInfo{
				ID: s.pod.spec.ID, Model: m.name, State: s.state(), Why: s.why,
				InFlight: s.inFlight, Slots: s.slots, Source: s.source, Served: s.served, Failed: s.failed,
			})
		}
	}
	slices.SortStableFunc(out, func(a, b PodInfo) int {
		return compareSeats(a.ID, b.ID, a.Model, b.Model)
	})
	return out
}

// compareSeats orders by pod, then by model.
func compareSeats(a, b regions.PodID, m, n regions.ModelName) int {
	return cmp.Or(cmp.Compare(a, b), cmp.Compare(m, n))
}
