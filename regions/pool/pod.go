package pool

import (
	"cmp"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/outlier"
)

// pod is one server, of the current set or with requests left from an earlier
// one.
type pod struct {
	spec      *regions.Pod // replaced, never changed
	seats     []*seat
	lastClaim uint64
	lastAside uint64
	draw      uint32
}

// seat is one pod's part in one model's pool.
type seat struct {
	pod   *pod
	model *model
	// listed is whether the current set has this model on this pod. A seat that
	// is not listed is kept only until its last request ends.
	listed  bool
	told    regions.PodState // by SetState
	suspect bool             // by SetSuspect
	own     outlier.State    // by the results of its requests
	why     string           // it was ejected the last time
	slow    bool             // that was for being slow
	pace    regions.Permille // by which its load counts; zero before it is known

	configured int // slots by discovery's word; 0 if it does not say
	slots      int // that are believed
	source     regions.SlotsSource
	facts      regions.Facts
	said       report
	foreign    []foreign

	inFlight int
	aside    int // requests that take no slot
	claimed  uint64
	ended    uint64
	served   uint64
	failed   uint64
	record   balance.Record
}

// model is one model's pool.
type model struct {
	name        regions.ModelName
	selector    balance.Selector
	seats       []*seat // by pod ID
	arrivals    uint64
	completions uint64
	residence   balance.Mean
	ttft        balance.Mean
	expected    [promptSizes]balance.Mean // TTFT by the prompt's size
	median      regions.Permille          // of its pods' paces when they were last judged
	judged      int                       // of how many pods
	full        time.Time                 // since when no pod had a free slot; zero if one has
}

// state is what the seat is by all that is known: its probes' finding, unless
// discovery says that the pod ends, and where that would take requests what their
// results say.
func (s *seat) state() regions.PodState {
	switch {
	case !s.listed:
		return regions.PodDraining
	case s.pod.spec.Terminating && s.told != regions.PodGone:
		return regions.PodDraining
	case s.told.Takes():
		return s.own.Pod()
	default:
		return s.told
	}
}

// open is how many of the seat's slots new requests may take, zero if it takes
// none and positive if it does.
func (s *seat) open() int {
	if !s.state().Takes() {
		return 0
	}
	return s.own.Open(s.slots)
}

// candidate describes the seat to a selector, and says whether it has a free
// slot of the open ones.
func (s *seat) candidate(now time.Time, open int) (c balance.Candidate, room bool) {
	c = balance.Candidate{
		Pod: s.pod.spec.ID, LastClaim: s.pod.lastClaim, Draw: s.pod.draw,
		ModelInFlight: s.load(now) + s.unheard(now), ModelSlots: regions.Slots(open), Pace: s.pace, Record: &s.record,
	}
	all := open
	c.InFlight = c.ModelInFlight
	for _, other := range s.pod.seats {
		if other != s {
			all += other.open()
			c.InFlight += other.load(now) + other.unheard(now)
		}
	}
	c.Slots = regions.Slots(all)
	return c, c.ModelInFlight < open && c.InFlight < all
}

// claim counts a request that takes a slot.
func (s *seat) claim(now time.Time, o *Options) {
	s.inFlight++
	s.claimed++
	s.record.Claimed()
	s.step(now, outlier.Tick, o)
}

// release counts that it ended.
func (s *seat) release() {
	s.inFlight--
	s.ended++
}

// idle reports whether nothing is on the seat.
func (s *seat) idle() bool { return s.inFlight == 0 && s.aside == 0 }

// list makes the pod's seats those of spec and reports whether anything
// changed. Seats that are left out wait for their requests to end.
func (p *pod) list(spec regions.Pod, o *Options, find func(regions.ModelName) *model) bool {
	changed := p.spec != nil && p.spec.Terminating != spec.Terminating
	spec.Models = slices.Clone(spec.Models)
	p.spec = &spec
	for _, s := range p.seats {
		kept := slices.ContainsFunc(spec.Models, func(m regions.PodModel) bool { return m.Name == s.model.name })
		if s.listed && !kept {
			s.listed, changed = false, true
		}
	}
	for _, m := range spec.Models {
		s := p.seat(m.Name)
		if s == nil {
			s = &seat{pod: p, model: find(m.Name)}
			p.seats = append(p.seats, s)
			s.model.sit(s)
		}
		if !s.listed {
			// What was known of it ended when it left the set.
			s.listed, s.told, s.suspect, s.own, s.pace, changed = true, regions.PodGone, false, outlier.State{}, 0, true
			s.facts, s.said, s.foreign = regions.Facts{}, report{}, nil
			s.record.Forget()
		}
		s.configured = m.Slots
		changed = s.count(o) || changed
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
		ended := !s.listed && s.idle()
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
