package pool

import (
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Selector chooses a pod for a request.
type Selector interface {
	// Select gives the index of the chosen candidate. There is at least one,
	// and all may serve the request. It is called under the pool's lock: it
	// must be quick, and must not keep the slice.
	Select(now time.Time, req regions.Request, among []Candidate) int
}

// Candidate is a pod that may serve a request, as it is before the request.
type Candidate struct {
	Pod regions.PodID
	// InFlight is the requests on the pod, of all models: they share its GPU.
	InFlight int
	// Slots is what the pod can run at a time, of all models that it takes
	// requests for; less while it is warming. Always positive.
	Slots regions.MilliSlots
	// ModelInFlight and ModelSlots are the requested model's part of it.
	ModelInFlight int
	ModelSlots    regions.MilliSlots
	// LastClaim is the number of the pool's claim that was last given this pod;
	// zero if none was.
	LastClaim uint64
}

// LeastConnections chooses the pod that is least loaded with the request added;
// of several that are equal the one that was left alone for longest, so that
// idle pods take turns.
//
// A pod's load is its in-flight requests by its slots, or those of the requested
// model if that is more: a pod with 8 slots for each of two models has no room
// for a ninth request of the one because the other is idle. Counting the
// request itself sends it to the larger of two idle pods, and keeps it from a
// warming pod of which less than a slot counts until the others are full.
type LeastConnections struct{}

// Select implements [Selector].
func (LeastConnections) Select(_ time.Time, _ regions.Request, among []Candidate) int {
	best := 0
	for i := 1; i < len(among); i++ {
		switch c := compareLoad(&among[i], &among[best]); {
		case c < 0, c == 0 && among[i].LastClaim < among[best].LastClaim:
			best = i
		}
	}
	return best
}

// compareLoad is negative if a would be less loaded than b with a request more.
func compareLoad(a, b *Candidate) int {
	an, ad := load(a)
	bn, bd := load(b)
	return compareFractions(an, ad, bn, bd)
}

// load is a candidate's load with a request more, as a fraction.
func load(c *Candidate) (requests, slots int64) {
	pn, pd := int64(c.InFlight)+1, int64(c.Slots)
	mn, md := int64(c.ModelInFlight)+1, int64(c.ModelSlots)
	if compareFractions(mn, md, pn, pd) > 0 {
		return mn, md
	}
	return pn, pd
}

// compareFractions compares by cross-multiplication. Requests and milli-slots of
// one pod are below 2^31 each, so the products fit.
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
