// Package scale says how many slots a region's own clients keep busy or wait
// for: the number that an autoscaler divides by the slots of a pod to find how
// many pods the region should have.
//
// It is absolute, not per pod: a region that has no pod yet has a demand, by what
// it sends on to others, by what waits where there is nobody to send it to, and by
// what was refused because too many wait. Dividing by the pods that there are would
// feed the autoscaler's answer back into its question. And it is an error where it is
// not known: a zero would take pods away from a region whose agent does not see.
package scale

import (
	"errors"
	"fmt"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// MaxAge is how old facts may be. They are renewed every [regions.StatusEvery],
// so that ten renewals in a row were missed: the agent is stuck, not slow. An
// autoscaler that asks every 15 s, as Kubernetes does, asks no second time before
// it is told.
const MaxAge = 10 * regions.StatusEvery

// The errors of [Demand].
var (
	ErrUnknown = errors.New("demand is not known yet")
	ErrStale   = errors.New("demand is out of date")
)

// Facts are what one agent counts at one moment.
type Facts struct {
	// At is when they were counted.
	At time.Time
	// Complete says that every source of pods has told what it finds. Before, an
	// agent that has just started would take what it does not know for nothing.
	Complete bool
	Models   []Model
}

// Model is one model's requests at one agent, each of which takes or wants one
// slot.
type Model struct {
	Name regions.ModelName
	// InFlight and Queued requests are on pods of this region, or wait for one,
	// wherever they came from.
	InFlight, Queued uint32
	// Refused is how many were lately refused that could not wait.
	Refused uint32
	// SpilledOut is what the agent has sent on to other regions that is there now.
	SpilledOut regions.MilliSlots
	// SpilledIn is how many of InFlight and Queued came from another region's
	// gateway.
	SpilledIn uint32
}

// Slots is what one model demands.
type Slots struct {
	Model  regions.ModelName
	Demand regions.MilliSlots
}

// Demand is what the region's own clients demand of each model, wherever they
// are served at the moment: on its pods, waiting, or in the regions to which
// they were sent for want of pods; and of those that were lately refused. Requests taken over from other regions do not
// count: their own regions count them, and if both did, a shortage in one place
// would raise pods in two.
//
// Several agents of a region each tell their own part, which add up.
func Demand(f *Facts, now time.Time) ([]Slots, error) {
	if f == nil || !f.Complete {
		return nil, ErrUnknown
	}
	// A clock that was set back makes an age as unknown as one that was set ahead.
	if age := now.Sub(f.At).Abs(); age > MaxAge {
		return nil, fmt.Errorf("%w: counted %v ago, at most %v are good", ErrStale, age, MaxAge)
	}
	out := make([]Slots, 0, len(f.Models))
	for _, m := range f.Models {
		out = append(out, Slots{m.Name, m.demand()})
	}
	return out, nil
}

// demand counts a model's requests. The counts are not of one instant, so that
// a request which has just ended may still be among those from elsewhere.
func (m *Model) demand() regions.MilliSlots {
	here := int(m.InFlight) + int(m.Queued)
	own := here - min(here, int(m.SpilledIn))
	return regions.Slots(own+int(m.Refused)) + max(0, m.SpilledOut)
}
