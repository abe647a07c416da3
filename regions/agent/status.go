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
