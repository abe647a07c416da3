package director

import (
	"cmp"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Plan makes the routing table, and the state that the next judgement and plan
// are made from.
func Plan(in Inputs, now time.Time) (*Table, Control) {
	p := planner{in: in, regions: in.Snapshot.Regions()}
	t := &Table{
		Made:     now,
		TTL:      in.TTL,
		Services: map[regions.ModelName]*Service{},
		cells:    make(map[regions.CellID]int, len(in.Cells)),
	}
	ids := make([]regions.ID, len(p.regions))
	for i := range p.regions {
		r := &p.regions[i]
		ids[i] = r.ID
		t.Regions = append(t.Regions, Place{ID: r.ID, Location: r.Location, Endpoints: r.Endpoints, Verdict: p.verdict(r.ID)})
	}
	for i, c := range in.Cells {
		t.cells[c.ID] = i
	}
	p.places, p.rows = t.Regions, newRowMaker(ids)
	if len(t.Regions) > 0 {
		p.measure()
		for _, m := range p.models() {
			t.Services[m] = p.service(m, p.supply(m))
		}
		t.Services[regions.Apex] = p.service(regions.Apex, p.apex(t))
	}
	t.Hash = t.hash()
	return t, Control{Verdicts: in.Verdicts}
}

// planner holds what the services of one plan share.
type planner struct {
	in      Inputs
	regions []regions.Region
	places  []Place
	rows    *rowMaker
	rtt     [][]regions.Micros // per cell and region
}

// verdict is a region's; one that nobody judged is lost.
func (p *planner) verdict(id regions.ID) Verdict {
	for _, v := range p.in.Verdicts {
		if v.Region == id {
			return v
		}
	}
	return Verdict{Region: id, State: Lost, Reason: "not judged"}
}

func (p *planner) measure() {
	p.rtt = make([][]regions.Micros, len(p.in.Cells))
	for c, cell := range p.in.Cells {
		p.rtt[c] = make([]regions.Micros, len(p.places))
		for r, place := range p.places {
			p.rtt[c][r], _ = p.in.Latency.RTT(cell, place.ID, place.Location)
		}
	}
}

func (p *planner) models() []regions.ModelName {
	var out []regions.ModelName
	for i := range p.regions {
		for _, m := range p.regions[i].Models {
			out = append(out, m.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// supply is each region's part in a model's service before the split.
func (p *planner) supply(m regions.ModelName) []Supply {
	out := make([]Supply, len(p.regions))
	for i := range p.regions {
		ms := p.regions[i].Model(m)
		if ms == nil {
			out[i] = Supply{Tier: Absent}
			continue
		}
		v := p.places[i].Verdict
		out[i] = Supply{
			Tier:     tier(v, ms.Pods.Taking() > 0),
			Capacity: ms.Slots * regions.MilliSlots(v.Confidence) / regions.MilliSlots(regions.Whole),
			Load:     regions.Slots(int(ms.InFlight) + int(ms.Queued)),
			Wait:     ms.Wait,
		}
	}
	return out
}

func tier(v Verdict, pods bool) Tier {
	switch {
	case v.State == Draining:
		return Closed
	case !pods || v.State == Lost:
		return Unfit
	case v.Confidence == 0:
		return Shaky
	default:
		return Fit
	}
}

// apex is each region's part in the service of the zone's apex: the sum of its
// models, in the best tier of any of them. Where another region has all common
// models, a region that lacks one steps back.
func (p *planner) apex(t *Table) []Supply {
	out := make([]Supply, len(p.regions))
	complete := make([]bool, len(p.regions))
	all := false // some region has all common models
	common := p.in.Demand.common()
	for i := range out {
		out[i] = Supply{Tier: Absent}
		complete[i] = true
		for m, s := range t.Services {
			have := s.Supply[i]
			out[i].Tier = min(out[i].Tier, have.Tier)
			out[i].Capacity += have.Capacity
			out[i].Load += have.Load
			out[i].Wait = max(out[i].Wait, have.Wait)
			if common[m] && have.Tier != Fit {
				complete[i] = false
			}
		}
		all = all || complete[i] && out[i].Tier == Fit
	}
	for i := range out {
		if all && !complete[i] && out[i].Tier == Fit {
			out[i].Tier = Shaky
		}
	}
	return out
}

// service splits a model's load over the regions and draws every cell's row.
func (p *planner) service(m regions.ModelName, supply []Supply) *Service {
	s := &Service{Model: m, Supply: supply}
	best := p.best(s)
	f := flow{cost: p.rtt, usable: make([]bool, len(supply)), cap: make([]microSlots, len(supply))}
	var total regions.MilliSlots
	for i, have := range supply {
		f.usable[i] = have.Tier == best
		f.cap[i] = micro(have.Capacity)
		if p.places[i].Verdict.State != Lost {
			total += have.Load
		}
	}
	f.demand = p.in.Demand.spread(m, p.in.Cells, total)
	f.solve()
	for i := range supply {
		supply[i].Home, supply[i].Planned = f.home[i].milli(), f.load[i].milli()
	}
	s.rows = make([]row, len(p.in.Cells))
	for c := range p.in.Cells {
		b := p.rows.row(shares(f.x[c]))
		s.rows[c] = row{buckets: b, ranked: p.rank(c, supply), rtt: p.rtt[c], pure: b.pure()}
	}
	return s
}

// best is the best tier that any region is in, and says in the service what it
// means when that is not a good one.
func (p *planner) best(s *Service) Tier {
	best := Absent
	for _, have := range s.Supply {
		best = min(best, have.Tier)
	}
	s.AllLost = best == Unfit
	s.Barred = best == Closed
	return best
}

// rank orders the regions that have the service for one cell: by tier, then by
// distance and expected wait. The measured wait is in the order of failover
// only. In the split it would make all cells of a busy region jump at once and
// back; there, what waits counts as demand, and just the excess moves.
func (p *planner) rank(c int, supply []Supply) []uint16 {
	out := make([]uint16, 0, len(supply))
	for i, have := range supply {
		if have.Tier != Absent {
			out = append(out, uint16(i))
		}
	}
	cost := func(i uint16) regions.Micros { return p.rtt[c][i] + supply[i].Wait }
	slices.SortFunc(out, func(a, b uint16) int {
		return cmp.Or(cmp.Compare(supply[a].Tier, supply[b].Tier), cmp.Compare(cost(a), cost(b)), cmp.Compare(a, b))
	})
	return out
}
