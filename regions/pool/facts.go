package pool

import (
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// What others say of a pod's load counts in full for freshFor: four of an agent's
// reports, of which 10 % loss takes all four once in two hours. From there it fades
// in a straight line until goneAfter, when the agent is taken for dead, and its
// requests with it, whose slots should not stay empty: a cliff would hand all of
// them out at one moment.
const (
	freshFor  = 2 * time.Second
	goneAfter = 3 * time.Second
)

// fading is the part of a report that still counts at an age.
func fading(age time.Duration) regions.Permille {
	switch {
	case age <= freshFor:
		return regions.Whole
	case age >= goneAfter:
		return 0
	default:
		return regions.Permille((goneAfter - age) * time.Duration(regions.Whole) / (goneAfter - freshFor))
	}
}

// report is a pod's own word on its load, and what of ours has changed since.
type report struct {
	at      time.Time
	load    int // waiting and active
	waiting int
	claims  uint64 // of the seat when it said so
	ends    uint64
}

// Learn takes in what is known of a pod and model; it replaces what was known
// before. A pod or model that is not in the set is ignored.
//
// Slots that the pod itself reports are believed before those that discovery was
// told, and those before what was estimated.
func (p *Pool) Learn(_ time.Time, id regions.PodID, name regions.ModelName, f regions.Facts) {
	p.mu.Lock()
	s := p.seatLocked(id, name)
	if s == nil {
		p.mu.Unlock()
		return
	}
	changed := s.facts.Fingerprint != f.Fingerprint
	s.facts = f
	if f.At.After(s.said.at) && (f.Active >= 0 || f.Waiting >= 0) {
		waiting := max(0, f.Waiting)
		s.said = report{at: f.At, load: max(0, f.Active) + waiting, waiting: waiting, claims: s.claimed, ends: s.ended}
	}
	changed = s.count(&p.options) || changed
	if changed {
		p.notify()
	}
	p.mu.Unlock()
	p.freed(name)
}

// seatLocked finds a pod's listed part in a model, nil if there is none.
func (p *Pool) seatLocked(id regions.PodID, name regions.ModelName) *seat {
	current := p.pods[id]
	if current == nil {
		return nil
	}
	if s := current.seat(name); s != nil && s.listed {
		return s
	}
	return nil
}

// count decides how many slots the seat has, and reports whether that changed.
func (s *seat) count(o *Options) bool {
	slots, source := max(1, o.DefaultSlots), regions.SlotsLearned
	switch f := &s.facts; {
	case f.Slots > 0 && f.Source == regions.SlotsReported:
		slots, source = f.Slots, f.Source
	case s.configured > 0:
		slots, source = s.configured, regions.SlotsConfigured
	case f.Slots > 0:
		slots, source = f.Slots, f.Source
	}
	changed := slots != s.slots || source != s.source
	s.slots, s.source = slots, source
	return changed
}

// load is the model's requests on the pod, of all agents as far as known: our own
// and what the other agents say of theirs, or what the pod says if that is more.
// What we sent and what ended since the pod said so is taken into account, so
// that a row of claims between two of its reports does not all go there.
func (s *seat) load(now time.Time) int {
	known := s.inFlight + s.others(now)
	if s.said.at.IsZero() || now.Sub(s.said.at) > freshFor {
		return known
	}
	said := s.said.load + int(s.claimed-s.said.claims) - int(s.ended-s.said.ends)
	return max(known, said)
}

// waiting is how many requests the pod said wait inside of it, zero if it did
// not say so lately.
func (s *seat) waiting(now time.Time) int {
	if s.said.at.IsZero() || now.Sub(s.said.at) > freshFor {
		return 0
	}
	return s.said.waiting
}
