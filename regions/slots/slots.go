// Package slots learns how many sequences of a model a pod runs at once from how
// soon its requests are answered, where neither the pod nor the operator says so.
// [Policy.Step] is a pure function of what was known, one more request and the
// time.
//
// It is a limit by latency, like TCP Vegas (Brakmo and Peterson, 1994) and the
// gradient limits of Netflix's concurrency-limits: what is compared is the time to
// the first token with a full pod and with a pod that has little to do. Unlike
// those it moves by one and only on windows of requests, since a sequence holds its
// slot for seconds, and it never learns from failures, which additive increase and
// multiplicative decrease would: a pod that fails is the probes' business.
package slots

import (
	"math/bits"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Policy holds the thresholds of learning. It is a value and does no I/O.
type Policy struct {
	// Window is how many requests are looked at for one step.
	Window int
	// Baseline is how many requests of a size make the baseline with which others of
	// that size are compared.
	Baseline int
	// Flat and Slack: a first token came as soon as without load if it took at
	// most Flat times that and Slack.
	Flat  int
	Slack time.Duration
	// Far and Wait: it waited for a slot if it took at least Far times that and
	// Wait.
	Far  int
	Wait time.Duration
	// Hold is how long a limit that proved too high is not tried again.
	Hold time.Duration
	// Most is the largest limit of a pod of which nobody said anything.
	Most int
}

// DefaultPolicy is made for generations of 1 to 60 s on pods of 4 to 256 slots.
//
// Eight requests to a step, of which six must agree: by chance they seldom do. What
// a request teaches is known when it is over, so that a step takes a generation at
// least; 64 slots are found from 8 in six minutes of queueing with generations of
// 10 s. Three requests make a baseline, and one that met a cold cache is mended by
// those that are faster.
//
// In a full batch a prompt is read beside the others' decoding, and waits for at
// least one step of it, 20 to 50 ms: twice the time and 50 ms are as soon as
// without load. Without a free slot it waits for the first of n sequences to end, a
// generation's length divided by n: 300 ms with 32 slots and 10 s. Two prompts that
// are read before one's own triple the time, and 200 ms beyond that are no reading.
// Generations so short that n of them end in 200 ms hide the wait, and the limit
// may come out some higher; then it matters little too.
//
// To try a limit that proved too high costs a window of requests that wait inside
// of the pod instead of at the gateway: once a minute is affordable. 1024 is what
// vLLM takes at most by default on the largest GPUs.
func DefaultPolicy() Policy {
	return Policy{
		Window: 8, Baseline: 3,
		Flat: 2, Slack: 50 * time.Millisecond,
		Far: 3, Wait: 200 * time.Millisecond,
		Hold: time.Minute, Most: 1024,
	}
}

// Prior is what is believed before anything was learnt.
type Prior struct {
	Slots int // at least 1
	// Assumed is true if nobody said so.
	Assumed bool
}

// State is what was learnt of one pod and model. Make it with [Start].
type State struct {
	prior Prior
	limit int
	moved bool
	base  [sizes]baseline
	// full are requests that took about the last slot while others waited, and
	// flat those of them that did not wait on the pod.
	full, flat int
	// within are requests that came with a slot to be had, and far those of them
	// that waited all the same.
	within, far int
	ceiling     int // not reached before held; 0 for none
	held        time.Time
}

// sizes are the classes of prompts: powers of two of bytes, the last from 8 MiB
// on. The time to read a prompt grows with its length, so only those of about one
// length are compared.
const sizes = 25

// baseline is how soon a pod with little to do answers prompts of one size.
type baseline struct {
	mean  time.Duration
	count int
}

// baselineWeight is how many requests a baseline remembers: long enough to average
// over lengths within a factor of two, short enough to follow a pod that has
// warmed up.
const baselineWeight = 8

func (b *baseline) add(ttft time.Duration, settled int) {
	if b.count >= settled {
		ttft = min(ttft, 2*b.mean) // one outlier must not make all others look fast
	}
	b.count = min(b.count+1, baselineWeight)
	b.mean += (ttft - b.mean) / time.Duration(b.count)
}

// Start is a state in which nothing was learnt.
func Start(prior Prior) State {
	prior.Slots = max(1, prior.Slots)
	return State{prior: prior, limit: prior.Slots}
}

// Slots is the estimate. It is the prior's until something was learnt.
func (s State) Slots() int { return s.limit }

// Learned reports whether the estimate is more than the prior.
func (s State) Learned() bool { return s.moved }

// Prior is what was believed before.
func (s State) Prior() Prior { return s.prior }

// Observation is one request that ended.
type Observation struct {
	// InFlight is how many requests of the model were on the pod when this one
	// was given to it, this one included, and Ahead how many more wanted a slot
	// then: in the gateway's queue, or on the pod beyond its slots.
	InFlight, Ahead int
	Outcome         regions.Outcome
}

// Step is what is known after one more request, which ended at now.
//
//	in flight              first token    evidence
//	up to half the limit   any            the baseline of its size
//	up to the limit        far            there are fewer slots
//	about the limit or     flat           there are more slots
//	more, others waiting
//
// The first of a size make its baseline with up to the limit in flight, since a pod
// that is busy from the start has no others. About the limit is within a sixteenth, since the limit may have moved while a
// request ran. When three of four requests of a window say that there are more, the limit rises
// by one. When half of one say that there are fewer, it falls by a sixteenth, and
// does not come back to where it was for a while. It stays between half of the
// prior and, if that was assumed, [Policy.Most], else twice the prior.
func (p Policy) Step(s State, obs Observation, now time.Time) State {
	ttft := obs.Outcome.TTFT
	if ttft <= 0 || obs.InFlight < 1 || obs.Outcome.End != regions.EndServed && obs.Outcome.End != regions.EndClientGone {
		return s
	}
	usual := &s.base[min(bits.Len(uint(max(0, obs.Outcome.Prompt))), sizes-1)]
	switch settled := usual.count >= p.Baseline; {
	case obs.InFlight <= max(1, s.limit/2), !settled && obs.InFlight <= s.limit:
		usual.add(ttft, p.Baseline)
		return s
	case !settled:
		return s
	}
	if obs.InFlight <= s.limit {
		s.within++
		if ttft >= time.Duration(p.Far)*usual.mean+p.Wait {
			s.far++
		}
	}
	if obs.InFlight+s.limit/fallPart >= s.limit && obs.Ahead > 0 {
		s.full++
		if ttft <= time.Duration(p.Flat)*usual.mean+p.Slack {
			s.flat++
		}
	}
	if 2*ttft < usual.mean {
		usual.add(ttft, p.Baseline) // so fast in spite of the load: the baseline is no good one
	}
	return p.decide(s, now)
}

// fallPart is the part of a limit by which it falls, by one up to 31 slots, where
// one more sequence is felt, and by more where one is noise; and within which a
// request counts as one at the limit.
const fallPart = 16

// decide moves the limit when a window is full.
func (p Policy) decide(s State, now time.Time) State {
	low, high := p.bounds(s.prior)
	if s.within >= p.Window {
		if 2*s.far >= s.within {
			s.ceiling, s.held = s.limit, now.Add(p.Hold)
			s.moveTo(max(low, s.limit-max(1, s.limit/fallPart)))
			return s
		}
		s.within, s.far = 0, 0
	}
	if s.full >= p.Window {
		next := min(high, s.limit+1)
		if s.ceiling > 0 && now.Before(s.held) {
			next = min(next, max(s.limit, s.ceiling-1))
		}
		if 4*s.flat >= 3*s.full && next > s.limit {
			s.moveTo(next)
			return s
		}
		s.full, s.flat = 0, 0
	}
	return s
}

func (s *State) moveTo(limit int) {
	s.moved = s.moved || limit != s.limit
	s.limit = limit
	s.full, s.flat, s.within, s.far = 0, 0, 0, 0
}

// bounds are the least and the most that can be learnt. What can be wrong with a
// time to the first token for other reasons than slots, it is no more wrong than
// that.
func (p Policy) bounds(prior Prior) (low, high int) {
	low, high = max(1, prior.Slots/2), 2*prior.Slots
	if prior.Assumed {
		high = max(prior.Slots, p.Most)
	}
	return low, high
}
