package pool

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Models is the status of every known model, sorted by name: all of it but the
// fingerprint, which the pool does not know.
//
// Requests on a pod count as in flight up to its slots for the model and as
// queued beyond: Triton takes them all and runs them as slots become free. Wait
// is how long the queued of the pods that take requests need to get a slot;
// zero if no pod takes any, which the slots say.
func (p *Pool) Models(now time.Time) []regions.ModelStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]regions.ModelStatus, 0, len(p.models))
	for _, m := range p.models {
		out = append(out, m.status(now, &p.options))
	}
	slices.SortFunc(out, func(a, b regions.ModelStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (m *model) status(now time.Time, o *Options) regions.ModelStatus {
	out := regions.ModelStatus{
		Name: m.name, PoolID: m.id(), SlotsSource: regions.SlotsConfigured,
		TTFT: m.ttft.value(), Arrivals: m.arrivals, Completions: m.completions,
	}
	ahead := 0 // queued on pods to which a new request may come
	for _, s := range m.seats {
		count(&out.Pods, s.state())
		queued, capacity := s.queued(), s.capacity(now, o)
		out.Slots += capacity
		out.InFlight += uint32(s.inFlight - queued)
		out.Queued += uint32(queued)
		if capacity > 0 {
			ahead += queued
		}
	}
	if out.Slots > 0 {
		out.Wait = regions.Micros(ahead) * m.residence.value() * 1000 / regions.Micros(out.Slots)
	}
	return out
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
	InFlight int    // requests of this model on the pod
	Slots    int    // for this model, in full even while it is warming
	Served   uint64 // requests answered in full
	Failed   uint64 // requests that ended by the pod's doing
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
				ID: s.pod.spec.ID, Model: m.name, State: s.state(),
				InFlight: s.inFlight, Slots: s.slots, Served: s.served, Failed: s.failed,
			})
		}
	}
	slices.SortStableFunc(out, func(a, b PodInfo) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Model, b.Model))
	})
	return out
}
