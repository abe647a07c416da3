package agent

import (
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/scale"
)

// count gathers what the demand is made from, out of the models' newest status.
// What clients want of models that the region does not have is for other
// regions to scale: no pods here would serve it.
func (a *Agent) count(now time.Time, models []regions.ModelStatus) *scale.Facts {
	in, out, refused := a.proxy.SpilledIn(), a.spill.out(), a.proxy.Refused()
	f := &scale.Facts{At: now, Complete: a.foundAll()}
	for _, m := range models {
		f.Models = append(f.Models, scale.Model{
			Name: m.Name, InFlight: m.InFlight, Queued: m.Queued,
			Refused: uint32(refused[m.Name]), SpilledOut: out[m.Name], SpilledIn: uint32(max(0, in[m.Name])),
		})
	}
	return f
}

// foundAll reports whether every source has told what it finds, be it nothing.
func (a *Agent) foundAll() bool {
	a.podsMu.Lock()
	defer a.podsMu.Unlock()
	return !slices.ContainsFunc(a.pods, func(pods []regions.Pod) bool { return pods == nil })
}
