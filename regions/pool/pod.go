package pool

import (
	"cmp"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// pod is one server, of the current set or with requests left from an earlier
// one.
type pod struct {
	spec      regions.Pod
	seats     []*seat
	inFlight  int // sum of the seats'
	lastClaim uint64
}

// seat is one pod's part in one model's pool.
type seat struct {
	pod   *pod
	model *model
	slots int
	// listed is whether the current set has this model on this pod. A seat that
	// is not listed is kept only until its last request ends.
	listed   bool
	told     regions.PodState // by SetState
	since    time.Time        // when told was entered
	inFlight int
	served   uint64
	failed   uint64
}

// model is one model's pool.
type model struct {
	name        regions.ModelName
	seats       []*seat // by pod ID
	arrivals    uint64
	completions uint64
	residence   mean
	ttft        mean
}

// state is what the seat is by all that is known: its probes' finding, unless
// discovery says that the pod ends.
func (s *seat) state() regions.PodState {
	switch {
	case !s.listed:
		return regions.PodDraining
	case s.pod.spec.Terminating && s.told != regions.PodGone:
		return regions.PodDraining
	default:
		return s.told
	}
}

// capacity is the seat's slots that count for new requests, zero if it takes
// none and positive if it does.
func (s *seat) capacity(now time.Time, o *Options) regions.MilliSlots {
	switch s.state() {
	case regions.PodReady:
		return regions.Slots(s.slots)
	case regions.PodWarming:
		return regions.MilliSlots(s.slots) * regions.MilliSlots(warmShare(now.Sub(s.since), o))
	default:
		return 0
	}
}

// warmShare is the part of a warming pod's slots that counts.
func warmShare(warm time.Duration, o *Options) regions.Permille {
	if warm >= o.SlowStart {
		return regions.Whole
	}
	rest := int64(regions.Whole - o.FirstShare)
	share := int64(o.FirstShare) + rest*max(0, warm.Microseconds())/max(1, o.SlowStart.Microseconds())
	return regions.Permille(max(1, min(share, int64(regions.Whole))))
}

// queued is the seat's requests beyond its slots, which wait inside the pod.
func (s *seat) queued() int { return max(0, s.inFlight-s.slots) }

// candidate describes the seat to a selector.
func (s *seat) candidate(now time.Time, o *Options, own regions.MilliSlots) Candidate {
	c := Candidate{
		Pod: s.pod.spec.ID, InFlight: s.pod.inFlight, LastClaim: s.pod.lastClaim,
		ModelInFlight: s.inFlight, ModelSlots: own,
	}
	for _, other := range s.pod.seats {
		c.Slots += other.capacity(now, o)
	}
	return c
}

// list makes the pod's seats those of spec and reports whether anything
// changed. Seats that are left out wait for their requests to end.
func (p *pod) list(now time.Time, spec regions.Pod, find func(regions.ModelName) *model) bool {
	changed := p.spec.Terminating != spec.Terminating
	p.spec = spec
	p.spec.Models = slices.Clone(spec.Models)
	for _, s := range p.seats {
		kept := slices.ContainsFunc(spec.Models, func(m regions.PodModel) bool { return m.Name == s.model.name })
		if s.listed && !kept {
			s.listed, changed = false, true
		}
	}
	for _, m := range p.spec.Models {
		s := p.seat(m.Name)
		if s == nil {
			s = &seat{pod: p, model: find(m.Name)}
			p.seats = append(p.seats, s)
			s.model.sit(s)
		}
		if !s.listed {
			// What was known of it ended when it left the set.
			s.listed, s.told, s.since, changed = true, regions.PodGone, now, true
		}
		if slots := max(1, m.Slots); s.slots != slots {
			s.slots, changed = slots, true
		}
	}
	return changed
}

// unlist takes the pod out of the set.
func (p *pod) unlist() {
	for _, s := range p.seats {
		s.listed = false
	}
}

// seat finds the pod's part in a model, listed or not.
func (p *pod) seat(name regions.ModelName) *seat {
	for _, s := range p.seats {
		if s.model.name == name {
			return s
		}
	}
	return nil
}

// sweep forgets the pod's seats that are neither listed nor in use, and reports
// whether any is left.
func (p *pod) sweep() bool {
	p.seats = slices.DeleteFunc(p.seats, func(s *seat) bool {
		ended := !s.listed && s.inFlight == 0
		if ended {
			s.model.rise(s)
		}
		return ended
	})
	return len(p.seats) > 0
}

// sit adds a seat in order of pod ID.
func (m *model) sit(s *seat) {
	i, _ := slices.BinarySearchFunc(m.seats, s, func(a, b *seat) int {
		return cmp.Compare(a.pod.spec.ID, b.pod.spec.ID)
	})
	m.seats = slices.Insert(m.seats, i, s)
}

// rise takes a seat away.
func (m *model) rise(s *seat) {
	if i := slices.Index(m.seats, s); i >= 0 {
		m.seats = slices.Delete(m.seats, i, i+1)
	}
}
