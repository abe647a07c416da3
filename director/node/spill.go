package node

import (
	"context"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// spillEvery is how often every region is sent its spill rows: often enough that
// a lost packet does not matter within a row's lifetime of 30 s.
const spillEvery = time.Second

// spill sends each region its rows of the current table, every spillEvery and
// when the table changed by more than load, which changed says.
func (n *Node) spill(ctx context.Context, changed <-chan struct{}) error {
	tick := time.NewTicker(spillEvery)
	defer tick.Stop()
	for {
		if w := n.mind.world.Load(); w != nil {
			for _, p := range w.table.Regions {
				n.spillTo(w.table, p.ID)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

func (n *Node) spillTo(t *director.Table, region regions.ID) {
	for _, row := range director.SpillRows(t, n.prior, region) {
		payload, err := wire.EncodeSpillRow(&row)
		if err == nil {
			err = n.gossip.Publish(gossip.Record{
				Kind: wire.Kind_SPILL, Key: string(region) + "/" + string(row.Model), Payload: payload,
				Audience: gossip.Audience{Role: gossip.RoleAgent, Region: region},
			})
		}
		if err != nil {
			n.log.Error("spill row not sent", "region", region, "model", row.Model, "error", err)
			continue
		}
		n.mind.metrics.spilling.Inc()
	}
}
