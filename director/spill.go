package director

import (
	"cmp"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// SpillLifetime is how long a gateway may use a spill row: long enough to
	// outlive a restart of all directors, short enough that a row of a world
	// that is gone is not followed for long.
	SpillLifetime = 30 * time.Second

	// maxSpillTargets bounds a row to the regions that matter: a request is
	// forwarded one hop, so the fourth-best region is not worth a packet's bytes.
	maxSpillTargets = 4
)

// SpillRows cuts the rows for one source region out of the table: for each
// model, the other regions that can take it, nearest to the source first, each
// with its spare capacity divided among the regions that may spill there.
func SpillRows(t *Table, latency Latency, source regions.ID) []regions.SpillRow {
	from := slices.IndexFunc(t.Regions, func(p Place) bool { return p.ID == source })
	if from < 0 {
		return nil
	}
	cell := regions.Cell{ID: regions.CellID("region:" + string(source)), Location: t.Regions[from].Location, Known: true}
	rtt := make([]regions.Micros, len(t.Regions))
	for i, p := range t.Regions {
		rtt[i], _ = latency.RTT(cell, p.ID, p.Location)
	}
	var out []regions.SpillRow
	for _, m := range t.Models() {
		s := t.Services[m]
		row := regions.SpillRow{Source: source, Model: m, Lifetime: SpillLifetime, Table: t.Hash, Leave: leave(s, from)}
		type target struct {
			regions.SpillTarget
			cost regions.Micros
		}
		var targets []target
		for i, have := range s.Supply {
			p := &t.Regions[i]
			if have.Tier != Fit || i == from {
				continue
			}
			spare := max(0, have.Capacity-max(have.Load, have.Planned)) / regions.MilliSlots(max(1, len(t.Regions)-1))
			targets = append(targets, target{regions.SpillTarget{Region: p.ID, Endpoint: p.Endpoints[0], Budget: spare}, rtt[i] + have.Wait})
		}
		slices.SortFunc(targets, func(a, b target) int {
			return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(a.Region, b.Region))
		})
		for _, tg := range targets[:min(len(targets), maxSpillTargets)] {
			row.Targets = append(row.Targets, tg.SpillTarget)
		}
		out = append(out, row)
	}
	return out
}

// leave is the share of the clients at home in the source that the plan sends
// to others: all of them if others are fitter than it.
func leave(s *Service, source int) regions.Permille {
	have := s.Supply[source]
	switch {
	case have.Tier != s.best():
		return regions.Whole
	case have.Home <= have.Planned:
		return 0
	default:
		return regions.Permille(mulDiv(int64(have.Home-have.Planned), int64(regions.Whole), int64(have.Home)))
	}
}
