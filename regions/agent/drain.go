package agent

import "time"

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
