package agent

import (
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// status is what the agent says of its region now. Agent, epoch and version are
// gossip's to add.
func (a *Agent) status(now time.Time) regions.Status {
	models := a.pool.Models(now, a.proxy.Waiting())
	for i := range models {
		m := &models[i]
		if j := slices.IndexFunc(a.opts.Models, func(c Model) bool { return c.Name == m.Name }); j >= 0 {
			m.Host = a.opts.Models[j].Host
		}
	}
	return regions.Status{
		Region: a.opts.Region, Location: a.opts.Location, Endpoints: a.opts.Endpoints, Models: models,
		Draining: a.drain.Load().Draining, Stopping: a.stopped.Load() != 0,
	}
}

// drain is why the region takes no new clients, if it does not.
type drain struct {
	Draining bool      `json:"draining"`
	Reason   string    `json:"reason,omitempty"`
	Since    time.Time `json:"since,omitzero"`
}

// drains reports whether the region takes no new clients. An agent that stops
// takes none whatever an operator says.
func (a *Agent) drains() bool { return a.drain.Load().Draining || a.stopped.Load() != 0 }

// Drain takes the region out of the plan, or puts it back. Requests that still
// come are served: the clients have not heard yet.
func (a *Agent) Drain(draining bool, reason string) {
	old := a.drain.Load()
	if old.Draining == draining {
		return
	}
	d := &drain{Draining: draining, Reason: reason}
	if draining {
		d.Since = a.opts.Now()
	}
	a.drain.Store(d)
	a.log.Info("drain", "from", old.Draining, "to", draining, "reason", reason)
	a.nudge()
}
