// Package outlier judges pods by the results of their own requests: how many
// slots of a pod that is new are open, when a pod is ejected for errors or for
// being slow, and when it may try again. It is pure: a policy, a state that is
// stepped by what happened, and the time.
//
// A judgement here is an opinion, formed from a few requests. Evidence is the
// probes' business and comes in as [Down] and [Up].
package outlier

import (
	"cmp"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Policy holds the thresholds by which pods are judged.
type Policy struct {
	// SlowStart is how long a warming pod without requests takes to open all of
	// its slots. Zero opens them at once.
	SlowStart time.Duration
	// FirstShare is the part of its slots that is open at first, at least one slot.
	FirstShare regions.Permille
	// Errors is how many requests in a row must fail to eject a pod; 0 never does.
	Errors int
	// Hold is how long the first ejection lasts; each further one twice as long, up
	// to HoldMax. One is forgotten for each Forget that the pod has served since.
	Hold, HoldMax, Forget time.Duration
	// Slower is how many times the pool's time to first byte a pod's must be to be
	// ejected, and Excess by how much it must be longer in any case. 0 never ejects
	// for it.
	Slower regions.Permille
	Excess regions.Micros
	// Samples is how many recent requests must say so, and Pods how many pods the
	// pool must have with as many, this one included.
	Samples, Pods int
}

// DefaultPolicy ejects a pod after five errors in a row. Of a pod that fails one
// request in ten, which others may be worse than, one in 100,000 begins such a
// row; a pod that fails all is out after five, each of which another pod has
// served since.
//
// A pod is slow if the median of eight requests is three times that of the pool and
// a quarter of a second more: less is chance, or nothing that a person notices in
// a text that begins. Two times are within what one long prompt beside it does to a
// pod. Of two pods nobody can say which is the odd one, hence three.
//
// The first ejection lasts 5 s, as long as a restart of a server's worker takes.
// A pod is then tried by one request; if that fails or is slow, it is out for 10 s,
// and so on up to five minutes, when a pod that stays bad spoils one request of
// thousands. A minute of good service forgets one ejection, so that a pod which
// fails once an hour is a fresh case each time.
func DefaultPolicy() Policy {
	return Policy{
		SlowStart: 10 * time.Second, FirstShare: 100,
		Errors: 5,
		Hold:   5 * time.Second, HoldMax: 5 * time.Minute, Forget: time.Minute,
		Slower: 3000, Excess: regions.MicrosOf(250 * time.Millisecond),
		Samples: 8, Pods: 3,
	}
}

// hold is how long the n-th ejection lasts.
func (p Policy) hold(n int) time.Duration {
	hold := p.Hold
	for range n - 1 {
		if hold *= 2; hold >= p.HoldMax {
			return p.HoldMax
		}
	}
	return hold
}

// MayEject reports whether one more pod of a pool may be ejected by opinion, of
// which taking pods take requests by all evidence and ejected of these are out:
// never more than half, so that the last stands.
func MayEject(taking, ejected int) bool { return 2*(ejected+1) <= taking }

// Excessive reports whether more are ejected than may be, because others have
// gone since.
func Excessive(taking, ejected int) bool { return 2*ejected > taking }

// Slow reports whether a pod is too slow for its pool. Its pace is its recent time
// to first byte in proportion to what is expected of a request like each, median
// the pool's, of as many pods; typical is the pool's time to first byte. A pod on
// trial needs one request to be found as slow as before.
//
// Since it is compared with the median, a pool that is slow as a whole has no slow
// pod.
func (p Policy) Slow(s *State, pace regions.Permille, samples int, median regions.Permille, pods int, typical regions.Micros) bool {
	if p.Slower <= 0 || !s.pod.Takes() || pods < p.Pods || median <= 0 {
		return false
	}
	ratio := int64(pace) * int64(regions.Whole) / int64(median)
	needed := p.Samples
	switch {
	case s.trial:
		needed = 1
	case ratio > int64(p.Slower)*clearly:
		needed = min(p.Samples, clearSamples)
	}
	excess := regions.Micros(pace-median) * typical / regions.Micros(regions.Whole)
	return samples >= needed && ratio > int64(p.Slower) && excess > p.Excess
}

// A pod counts as slower than its pool, where requests are shared out, from one and
// a half times its time to first byte, or twice its residence, which depends on the
// lengths of answers: the mean of eight exponential ones is twice what it should be
// once in a hundred times.
const (
	paceSamples      = 4
	slowPace         = regions.Permille(1500)
	residenceSamples = 8
	slowResidence    = regions.Permille(2000)
	slowest          = 100 * regions.Whole // so that products stay small
)

// Pace is how long a pod takes in proportion to its pool, for sharing requests
// out: [regions.Whole] unless it is clearly slower. Own and median are its and the
// pool's paces by time to first byte.
func Pace(own regions.Permille, samples int, median regions.Permille) regions.Permille {
	if samples < paceSamples {
		return regions.Whole
	}
	return proportion(int64(own), int64(median), slowPace)
}

// ResidencePace is the same by how long requests hold a slot.
func ResidencePace(own regions.Micros, samples int, median regions.Micros) regions.Permille {
	if samples < residenceSamples {
		return regions.Whole
	}
	return proportion(int64(own), int64(median), slowResidence)
}

func proportion(own, median int64, from regions.Permille) regions.Permille {
	if median <= 0 || own*int64(regions.Whole) < median*int64(from) {
		return regions.Whole
	}
	return regions.Permille(min(own*int64(regions.Whole)/median, int64(slowest)))
}

// A pod that is slower by twice what it takes is found by the median of three: it
// may be so slow that it answers no more than three requests in two minutes.
const (
	clearly      = 2
	clearSamples = 3
)

// Median is the lower median of what a pool's pods have each, zero for none. It
// sorts them.
func Median[T cmp.Ordered](paces []T) T {
	if len(paces) == 0 {
		var none T
		return none
	}
	slices.Sort(paces)
	return paces[(len(paces)-1)/2]
}
