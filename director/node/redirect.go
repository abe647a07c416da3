package node

import (
	"net/netip"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/regions"
)

// Redirect implements redirect.Decider from the same table as DNS.
func (a *answerer) Redirect(model regions.ModelName, _ bool, client netip.Addr) (redirect.Choice, error) {
	w := a.world.Load()
	if !w.synced {
		return redirect.Choice{}, redirect.ErrNotReady
	}
	d, ok := director.Decide(w.table, model, w.geo.Locate(client))
	switch {
	case !ok:
		return redirect.Choice{}, redirect.ErrUnknownModel
	case d.Barred:
		return redirect.Choice{}, redirect.ErrBarred
	}
	a.decided(model, d.Client.Cell)
	c := d.Candidates[0]
	choice := redirect.Choice{Region: c.Region, ID: d.ID, Degraded: d.AllLost}
	if len(c.Endpoints) > 0 {
		choice.Endpoint = c.Endpoints[0]
	}
	return choice, nil
}

// label finds the model that is served under a label.
func (a *answerer) label(label string) (regions.ModelName, bool) {
	m, ok := a.world.Load().labels[label]
	return m, ok
}
