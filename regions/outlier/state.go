package outlier

import (
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Kind is what happened to a pod.
type Kind uint8

// What can happen to a pod.
const (
	Tick     Kind = iota // nothing but time passed
	Down                 // by all evidence it takes no requests
	Up                   // by all evidence it takes requests again
	Known                // it takes requests, and was never seen not to
	Answered             // the first byte of an answer came
	Served               // a request was answered in full
	Failed               // a request ended by the pod's doing
	Ejected              // the pool takes it out, by opinion
	Pardoned             // the pool wants it back, since too few others are left
)

// Event is what happened, and how the pod is after it.
type Event struct {
	Kind Kind
	// Slots is how many the pod has, open or not.
	Slots int
	// Waited is whether the first byte of some request is waited for.
	Waited bool
}

// State is what is thought of one pod and model. The zero value takes no
// requests.
type State struct {
	pod    regions.PodState // gone, warming, ready or ejected
	opened int64            // millionths of a slot
	at     time.Time        // until when time was counted
	waited bool             // since then

	errors    int // in a row
	trial     bool
	ejections int
	until     time.Time // the end of the newest ejection
}

// slot is one in the unit of opened, fine enough for the part that opens between
// two events of a busy pod.
const slot = 1_000_000

// Pod is the pod's state, as far as its own results say: gone, warming, ready or
// ejected.
func (s *State) Pod() regions.PodState { return s.pod }

// Trial reports whether the pod was ejected, is back and has served nothing yet.
func (s *State) Trial() bool { return s.trial }

// Until is when the newest ejection ends.
func (s *State) Until() time.Time { return s.until }

// Open is how many of a pod's slots are open to requests.
func (s *State) Open(slots int) int {
	switch s.pod {
	case regions.PodReady:
		return slots
	case regions.PodWarming:
		return max(1, min(int(s.opened/slot), slots))
	default:
		return 0
	}
}

// Errs reports whether the pod should be ejected for errors: too many in a row,
// or any while it is on trial.
func (p Policy) Errs(s *State) bool {
	return p.Errors > 0 && s.pod.Takes() && (s.errors >= p.Errors || s.trial && s.errors > 0)
}

// Step is what is thought of a pod after an event.
//
// A warming pod opens a slot with each first byte of an answer, so that what it
// has doubles with each generation of requests; a failed request halves it. While
// no first byte is waited for it opens by time as well, so that a pod without
// requests becomes ready, and one whose answers stream for minutes. A pod that
// lets its first requests wait gets no more of them for waiting.
func (p Policy) Step(s State, e Event, now time.Time) State {
	s = p.passTime(s, e.Slots, now)
	s.waited = e.Waited
	switch e.Kind {
	case Tick:
	case Down:
		s = State{at: now} // whoever comes back is somebody else
	case Known:
		if s.pod == regions.PodGone {
			s = State{pod: regions.PodReady, at: now, waited: e.Waited}
		}
	case Up:
		if s.pod == regions.PodGone || s.pod == regions.PodReady {
			s = State{pod: regions.PodWarming, opened: p.first(e.Slots), at: now, waited: e.Waited}
		}
	case Answered:
		s.opened += slot
	case Served:
		s.errors, s.trial = 0, false
	case Failed:
		s.errors++
		s.opened = max(slot, s.opened/2)
	case Ejected:
		s = p.eject(s, now)
	case Pardoned:
		if s.pod == regions.PodEjected {
			s = s.readmit(now)
		}
	}
	if s.pod == regions.PodWarming && s.opened >= int64(e.Slots)*slot {
		s.pod = regions.PodReady
	}
	return s
}

// first is what is open of a pod that comes up.
func (p Policy) first(slots int) int64 {
	if p.SlowStart <= 0 {
		return int64(slots) * slot
	}
	return max(slot, int64(slots)*slot*int64(p.FirstShare)/int64(regions.Whole))
}

// passTime does what time alone brings since the newest event.
func (p Policy) passTime(s State, slots int, now time.Time) State {
	passed := now.Sub(s.at).Truncate(time.Microsecond)
	if passed <= 0 {
		return s
	}
	s.at = s.at.Add(passed)
	switch {
	case s.pod == regions.PodEjected && !now.Before(s.until):
		return s.readmit(now)
	case s.pod != regions.PodWarming || s.waited:
	case passed >= p.SlowStart:
		s.opened = int64(slots) * slot
	default:
		rest := int64(slots)*slot - p.first(slots)
		s.opened += rest * passed.Microseconds() / p.SlowStart.Microseconds()
	}
	return s
}

// readmit lets an ejected pod try with one slot.
func (s State) readmit(now time.Time) State {
	s.pod, s.opened, s.trial, s.errors, s.until, s.at = regions.PodWarming, slot, true, 0, now, now
	return s
}

// eject takes the pod out, for longer each time.
func (p Policy) eject(s State, now time.Time) State {
	if !s.pod.Takes() {
		return s
	}
	if !s.until.IsZero() && p.Forget > 0 {
		s.ejections = max(0, s.ejections-int(now.Sub(s.until)/p.Forget))
	}
	s.ejections++
	s.pod, s.opened, s.trial, s.errors = regions.PodEjected, 0, false, 0
	s.until = now.Add(p.hold(s.ejections))
	return s
}
