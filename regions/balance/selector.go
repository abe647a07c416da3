// Package balance chooses among the pods that may serve a request. The pool
// hands a [Selector] the candidates as they are at that moment, under its lock;
// what the selectors know of a pod's past is in its [Record].
package balance

import (
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Selector chooses a pod for a request. It belongs to one model's pool.
type Selector interface {
	// Select gives the index of the chosen candidate. There is at least one,
	// and all may serve the request. It is called under the pool's lock: it
	// must be quick, and must not keep the slice.
	Select(now time.Time, req regions.Request, among []Candidate) int
}

// Candidate is a pod that may serve a request, as it is before the request.
type Candidate struct {
	Pod regions.PodID
	// InFlight is the requests on the pod, of all models and all agents: they
	// share its GPU.
	InFlight int
	// Slots is what the pod can run at a time, of all models that it takes
	// requests for; less while it is warming. Always positive.
	Slots regions.MilliSlots
	// ModelInFlight and ModelSlots are the requested model's part of it.
	ModelInFlight int
	ModelSlots    regions.MilliSlots
	// Pace is how long the pod takes for a request, in proportion to its
	// neighbours: [regions.Whole] as they do, twice that if twice as long. Zero is
	// as they do.
	Pace regions.Permille
	// LastClaim is the number of the pool's claim that was last given this pod;
	// zero if none was.
	LastClaim uint64
	// Draw decides between candidates that are equal in all else. It is drawn by
	// each agent for itself, so that two of them don't begin with the same pods.
	Draw uint32
	// Record is what requests found on the pod, nil if nothing is kept.
	Record *Record
}

// older reports whether a was left alone for longer than b.
func older(a, b *Candidate) bool {
	if a.LastClaim != b.LastClaim {
		return a.LastClaim < b.LastClaim
	}
	return a.Draw < b.Draw
}
