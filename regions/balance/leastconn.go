package balance

import (
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// LeastConnections chooses the pod that is least loaded with the request added;
// of several that are equal the one that was left alone for longest, so that
// idle pods take turns.
//
// A pod's load is its in-flight requests by its slots, or those of the requested
// model if that is more: a pod with 8 slots for each of two models has no room
// for a ninth request of the one because the other is idle. Counting the
// request itself sends it to the larger of two idle pods, and keeps it from a
// warming pod of which less than a slot counts until the others are full.
//
// The load counts by the pod's pace: a pod that takes three times as long as its
// neighbours is filled to a third of what they are.
type LeastConnections struct{}

// Select implements [Selector].
func (LeastConnections) Select(_ time.Time, _ regions.Request, among []Candidate) int {
	best := 0
	bn, bd := load(&among[0])
	for i := 1; i < len(among); i++ {
		n, d := load(&among[i])
		switch c := compareFractions(n, d, bn, bd); {
		case c < 0, c == 0 && older(&among[i], &among[best]):
			best, bn, bd = i, n, d
		}
	}
	return best
}

// load is a candidate's load with a request more, as a fraction.
func load(c *Candidate) (requests, slots int64) {
	requests, slots = int64(c.InFlight)+1, int64(c.Slots)
	if n, d := int64(c.ModelInFlight)+1, int64(c.ModelSlots); compareFractions(n, d, requests, slots) > 0 {
		requests, slots = n, d
	}
	if c.Pace > 0 {
		requests *= int64(c.Pace)
	} else {
		requests *= int64(regions.Whole)
	}
	return requests, slots
}

// compareFractions compares by cross-multiplication. Requests by pace and
// milli-slots of one pod are below 2^31 each, so the products fit.
func compareFractions(an, ad, bn, bd int64) int {
	switch l, r := an*bd, bn*ad; {
	case l < r:
		return -1
	case l > r:
		return 1
	default:
		return 0
	}
}
