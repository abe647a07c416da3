// Package probe finds out which pods serve which models. [Policy.Step] judges:
// a pure function of what was known of a pod and model, one more observation
// and the time. [Runner] asks: it probes every pod and model when
// [Policy.Due] says so, takes in what requests saw meanwhile, and tells of each
// change of state.
package probe

import (
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Policy holds the thresholds by which pods are judged. It is a value and does
// no I/O; the live agent and the simulator step the same one.
type Policy struct {
	// Every is the time between the starts of two probes of a pod that takes
	// requests.
	Every time.Duration
	// EveryOut is the longest time between two probes of a pod that does not.
	EveryOut time.Duration
	// Spacing is the least time between the starts of two probes, however
	// urgent the second is.
	Spacing time.Duration
	// Timeouts is how many timeouts in a row take a pod out.
	Timeouts int
	// LostWithin is how soon after a lost request a second one takes the pod
	// out without waiting for a probe.
	LostWithin time.Duration
	// SlowStart is how long a pod that comes back is warming. Zero means that
	// it is ready at once.
	SlowStart time.Duration
	// Hold is how long a pod stays out at least after it fell out of rotation
	// for the second time within FallMemory; each further fall doubles it up to
	// HoldMax. The first fall has no hold.
	Hold, HoldMax, FallMemory time.Duration
	// Canary is the time between two generations of one token that are made on a
	// pod whose requests don't show that it serves; 0 makes none.
	Canary time.Duration
	// Canaries is how many of them must fail in a row to take a pod out.
	Canaries int
}

// DefaultPolicy is made for a crashed pod to be out of rotation within 1 s.
//
// A crash between two probes is met by the next one, at most Every = 500 ms
// later, which is refused at once. A pod that hangs silently is met after 500 ms
// too, but believed only after a second timeout, since one of 400 ms is within
// the reach of a loaded server: 1.3 s, unless a request is refused or lost
// before. From the first on, after 0.9 s, it is suspect, and given requests only
// when the others are full. A pod that lost one request is asked at once; two
// within a second are not chance, as a crash breaks all of a pod's connections at
// the same time.
//
// A pod that is out is asked each eighth of the time that it has been out, at
// most every 5 s, so that finding it back adds an eighth to any outage while a
// pod that loads for minutes, or is no more, costs little. Ten seconds of slow
// start cover what a fresh Triton does on its first requests (kernel tuning,
// graph capture, an empty KV cache). The hold is for pods that answer probes
// and break requests: without it they would be back after each probe. A pod
// that crashed once comes back at once; the fifth fall within a minute of
// another costs 8 s, all later ones 10 s.
func DefaultPolicy() Policy {
	return Policy{
		Every:      500 * time.Millisecond,
		EveryOut:   5 * time.Second,
		Spacing:    20 * time.Millisecond,
		Timeouts:   2,
		LostWithin: time.Second,
		SlowStart:  10 * time.Second,
		Hold:       time.Second,
		HoldMax:    10 * time.Second,
		FallMemory: time.Minute,
		Canaries:   2, // one may have met a hiccup, of which readiness says nothing
	}
}

// outFraction is the part of its time out after which a pod is asked again.
const outFraction = 8

// State is what is known of one pod and model. The zero value is a pod of which
// nothing was seen.
type State struct {
	pod      regions.PodState
	since    time.Time // when pod was entered, or the first sight
	why      string    // what led to pod
	down     bool      // was seen not to serve, ever
	failed   time.Time // the newest sight that speaks against the pod
	doubted  time.Time // since when an answer is wanted at once; zero if not
	lost     time.Time // the newest lost request that no probe has explained
	timeouts int       // in a row
	falls    int       // out of rotation, each within FallMemory of the one before
	fell     time.Time // the newest fall
	served   time.Time // the newest request that was served
	canaries int       // failed in a row, with no request served meanwhile
	barred   bool      // out by its canaries, until one of them is good
}

// Pod is the state by which requests are given to the pod.
func (s State) Pod() regions.PodState { return s.pod }

// Since is when the pod entered its state, zero if nothing was seen of it.
func (s State) Since() time.Time { return s.since }

// Why is what led to the pod's state, in words; empty if nothing was seen.
func (s State) Why() string { return s.why }

// Suspect reports whether the pod lost a request or timed out and has not
// answered a probe since. A suspect pod still takes requests, after the others.
func (s State) Suspect() bool { return s.pod.Takes() && (s.timeouts > 0 || !s.lost.IsZero()) }

// Step is what is known of a pod and model after one more observation, made at
// now. An observation of a probe carries in Took how long ago it began.
//
//	sight              pod takes requests               pod is out
//	ready              doubts end; warming may end      ready if never seen down, else warming after its hold
//	not ready, refused gone                             gone
//	closed             draining: may finish streams     as it was
//	timeout            suspect; gone at the second      gone, after the second
//	lost               suspect; ejected at the second   as it was
//	served             as it was                        as it was
//
// A ready answer is void if its probe began before the newest sight that speaks
// against the pod: it may have been given before the crash. It also brings back no
// pod that its canaries took out; see [Policy.StepCanary]. A served request
// says nothing of readiness, because a server that no longer takes new connections
// still finishes those it has; it does speak against a canary that failed.
func (p Policy) Step(s State, obs regions.Observation, now time.Time) State {
	if s.since.IsZero() {
		s.since = now
	}
	switch obs.Sight {
	case regions.SawReady:
		return p.ready(s, now.Add(-obs.Took), now)
	case regions.SawNotReady:
		return p.leave(s, regions.PodGone, "the model is not ready", now)
	case regions.SawRefused:
		return p.leave(s, regions.PodGone, "it refused a connection", now)
	case regions.SawClosed:
		return p.closed(s, now)
	case regions.SawTimeout:
		return p.timeout(s, now)
	case regions.SawLost:
		return p.loses(s, now)
	case regions.SawServed:
		s.served, s.canaries = now, 0
		return s
	default:
		return s
	}
}

// ready takes in a probe's good answer.
func (p Policy) ready(s State, began, now time.Time) State {
	if began.Before(s.failed) {
		return s
	}
	s.timeouts, s.lost, s.doubted = 0, time.Time{}, time.Time{}
	switch {
	case s.pod == regions.PodReady:
		return s
	case s.pod == regions.PodWarming:
		if now.Sub(s.since) < p.SlowStart {
			return s
		}
		return s.enter(regions.PodReady, "its slow start is over", now)
	case s.barred:
		return s
	case !s.down:
		// An agent that restarts finds pods that have long been warm. Were they
		// all warming, the region would report a fraction of its slots and its
		// clients would be sent away.
		return s.enter(regions.PodReady, "it was ready when first seen", now)
	case now.Before(s.fell.Add(p.hold(s.falls))):
		return s
	case p.SlowStart <= 0:
		return s.enter(regions.PodReady, "it is ready again", now)
	default:
		return s.enter(regions.PodWarming, "it is ready again", now)
	}
}

// closed takes in a fresh connection that was closed without a byte.
func (p Policy) closed(s State, now time.Time) State {
	if !s.pod.Takes() && s.pod != regions.PodEjected {
		s.down, s.failed, s.timeouts = true, now, 0
		if s.why == "" {
			s.why = "it closed a connection without an answer"
		}
		return s
	}
	return p.leave(s, regions.PodDraining, "it closed a connection without an answer: draining or dead", now)
}

// timeout takes in an answer that did not come.
func (p Policy) timeout(s State, now time.Time) State {
	s.timeouts++
	switch {
	case !s.lost.IsZero():
		return p.leave(s, regions.PodGone, "it lost a request, then did not answer", now)
	case s.timeouts >= p.Timeouts:
		return p.leave(s, regions.PodGone, "it did not answer, repeatedly", now)
	}
	s.failed = now
	if s.pod.Takes() {
		s.doubted = now
	}
	if s.why == "" {
		s.why = "it did not answer"
	}
	return s
}

// loses takes in a request that lost its connection.
func (p Policy) loses(s State, now time.Time) State {
	switch {
	case !s.pod.Takes():
		return s
	case s.timeouts > 0:
		return p.leave(s, regions.PodEjected, "it did not answer, then lost a request", now)
	case !s.lost.IsZero() && now.Sub(s.lost) <= p.LostWithin:
		return p.leave(s, regions.PodEjected, "it lost two requests in short order", now)
	}
	s.lost, s.failed, s.doubted = now, now, now
	return s
}

// leave takes the pod out of rotation, or notes that it is still out.
func (p Policy) leave(s State, to regions.PodState, why string, now time.Time) State {
	if s.pod.Takes() {
		if now.Sub(s.fell) > p.FallMemory {
			s.falls = 0
		}
		s.falls++
		s.fell = now
	}
	s.down, s.failed = true, now
	s.timeouts, s.canaries, s.lost, s.doubted = 0, 0, time.Time{}, time.Time{}
	if to == regions.PodEjected {
		s.doubted = now // dead, or only rude? The answer decides what it is next.
	}
	if s.pod == to {
		if s.why == "" {
			s.why = why
		}
		return s
	}
	return s.enter(to, why, now)
}

// enter changes the pod's state.
func (s State) enter(to regions.PodState, why string, now time.Time) State {
	s.pod, s.since, s.why = to, now, why
	return s
}

// hold is how long a pod stays out after its latest fall.
func (p Policy) hold(falls int) time.Duration {
	if falls < 2 || p.Hold <= 0 {
		return 0
	}
	hold := p.Hold
	for range falls - 2 {
		if hold *= 2; hold >= p.HoldMax {
			return p.HoldMax
		}
	}
	return hold
}

// Due is when the next probe should begin, given when the newest one did; zero
// for none. The result may be in the past, which means at once.
func (p Policy) Due(s State, probed time.Time) time.Time {
	if probed.IsZero() {
		return time.Time{}
	}
	if s.doubted.After(probed) {
		if soonest := probed.Add(p.Spacing); soonest.After(s.doubted) {
			return soonest
		}
		return s.doubted
	}
	every := p.Every
	if !s.pod.Takes() {
		every = max(every, min(probed.Sub(s.since)/outFraction, p.EveryOut))
	}
	return probed.Add(every)
}
