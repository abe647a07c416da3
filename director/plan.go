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
	p := planner{in: in, now: now, regions: in.Snapshot.Regions()}
	p.control = Control{
		Verdicts: in.Verdicts,
		Known:    remember(in.Control.Known, p.regions, now),
		Common:   in.Demand.common(in.Control.Common),
	}
	t := &Table{
		Made: now, TTL: in.TTL, Services: map[regions.ModelName]*Service{},
		cells: make(map[regions.CellID]int, len(in.Cells)),
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
	p.measure()
	for _, m := range p.models() {
		t.Services[m] = p.service(m, p.supply(m))
	}
	if len(t.Services) > 0 {
		t.Services[regions.Apex] = p.service(regions.Apex, p.apex(t))
	}
	t.Hash = t.hash()
	slices.SortFunc(p.control.Planned, Planned.compare)
	return t, p.control
}

// planner holds what the services of one plan share.
type planner struct {
	in      Inputs
	now     time.Time
	control Control // the next one
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
	for _, k := range p.control.Known {
		if k.Model != regions.Apex {
			out = append(out, k.Model)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// supply is each region's part in a model's service before the split.
func (p *planner) supply(m regions.ModelName) []Supply {
	out := make([]Supply, len(p.regions))
	for i := range p.regions {
		out[i].Tier = Absent
		if p.places[i].addressable() {
			out[i] = p.supplyOf(i, m)
		}
	}
	return out
}

// maxWait is the longest wait that is told apart from longer ones.
const maxWait regions.Micros = 3600 * 1e6

// maxSequences bounds what is believed of a model's load in one region, so that
// no sum over a table's models, regions and cells can overflow: 256 models of 100
// regions stay below 10^17 micro-slots. No pool runs a million sequences.
const maxSequences = 1_000_000

func (p *planner) supplyOf(i int, m regions.ModelName) Supply {
	v := p.places[i].Verdict
	ms := p.regions[i].Model(m)
	if ms == nil {
		if !p.knows(p.regions[i].ID, m) {
			return Supply{Tier: Absent}
		}
		return Supply{Tier: tier(v, false)}
	}
	slots := min(ms.Slots, regions.Slots(maxSequences))
	return Supply{
		Tier:     tier(v, ms.Pods.Taking() > 0),
		Capacity: slots * regions.MilliSlots(v.Confidence) / regions.MilliSlots(regions.Whole),
		Load:     regions.Slots(int(min(ms.InFlight, maxSequences)) + int(min(ms.Queued, maxSequences))),
		Wait:     min(ms.Wait, maxWait),
	}
}

func (p *planner) knows(id regions.ID, m regions.ModelName) bool {
	_, ok := slices.BinarySearchFunc(p.control.Known, Known{Region: id, Model: m}, Known.compare)
	return ok
}

func tier(v Verdict, pods bool) Tier {
	switch {
	case v.State == Draining:
		return Closed
	case v.State == Lost:
		return Silent
	case !pods:
		return Empty
	case v.State == Leaving || v.Confidence == 0:
		return Shaky
	default:
		return Fit
	}
}

// apex is each region's part in the service of the zone's apex: all its models
// together, in the best tier of any of them. Where another region has all common
// models, a region that lacks one steps back.
func (p *planner) apex(t *Table) []Supply {
	out := make([]Supply, len(p.regions))
	lacks := make([]bool, len(p.regions))
	all := false // some region has all common models
	for i := range out {
		out[i] = p.apexOf(t, i)
		for _, m := range p.control.Common {
			s := t.Services[m]
			lacks[i] = lacks[i] || s != nil && s.Supply[i].Tier != Fit
		}
		all = all || !lacks[i] && out[i].Tier == Fit
	}
	for i := range out {
		if all && lacks[i] && out[i].Tier == Fit {
			out[i].Tier = Shaky
		}
	}
	return out
}

// apexOf adds up a region's models. Models that share their pods share the slots
// too: those count once.
func (p *planner) apexOf(t *Table, i int) Supply {
	out := Supply{Tier: Absent}
	pools := map[uint64]regions.MilliSlots{}
	for _, m := range t.Models() {
		have := t.Services[m].Supply[i]
		out.Tier = min(out.Tier, have.Tier)
		out.Load += have.Load
		out.Wait = max(out.Wait, have.Wait)
		if ms := p.regions[i].Model(m); ms != nil && have.Capacity > pools[ms.PoolID] {
			out.Capacity += have.Capacity - pools[ms.PoolID]
			pools[ms.PoolID] = have.Capacity
		}
	}
	return out
}

// service splits a model's load over the regions and draws every cell's row.
func (p *planner) service(m regions.ModelName, supply []Supply) *Service {
	s := &Service{Model: m, Supply: supply}
	best := s.best()
	s.AllLost = best == Empty || best == Silent
	s.Barred = best == Closed
	s.rows = make([]row, len(p.in.Cells))
	if best == Absent {
		return s
	}
	f := p.flow(s, best, make([]regions.MilliSlots, len(supply)))
	if strays := p.strays(s, f); strays != nil {
		f = p.flow(s, best, strays)
	}
	for i := range supply {
		supply[i].Home, supply[i].Planned = f.home[i].milli(), f.load[i].milli()
		p.control.Planned = append(p.control.Planned, Planned{p.places[i].ID, m, supply[i].Planned})
	}
	for c := range p.in.Cells {
		b := p.rows.row(shares(f.x[c]))
		s.rows[c] = row{buckets: b, ranked: p.rank(c, supply), rtt: p.rtt[c], pure: b.pure()}
	}
	return s
}

// flow splits a service's load over the regions of a tier. Strays stay where they
// are and take their place first.
func (p *planner) flow(s *Service, best Tier, strays []regions.MilliSlots) flow {
	f := flow{cost: p.rtt, usable: make([]bool, len(s.Supply)), cap: make([]microSlots, len(s.Supply))}
	var total regions.MilliSlots
	for i, have := range s.Supply {
		f.usable[i] = have.Tier == best
		f.cap[i] = micro(max(0, have.Capacity-strays[i]))
		if p.counts(i) {
			total += have.Load - strays[i]
		}
	}
	f.demand = p.in.Demand.spread(s.Model, p.in.Cells, total)
	f.solve()
	return f
}

// strayMargin is the share of a region's capacity by which its load may be off
// the plan without being taken for stray: loads come in whole requests, and the
// plan is followed with a delay.
const strayMargin regions.Permille = 100

// strays is the load of each region that neither its own clients nor the previous
// plan explain: of clients who came without asking, or whom demand puts in the
// wrong cell. nil if there is none worth speaking of.
func (p *planner) strays(s *Service, f flow) []regions.MilliSlots {
	var out []regions.MilliSlots
	for i, have := range s.Supply {
		explained := max(f.home[i].milli(), p.in.Control.planned(p.places[i].ID, s.Model))
		margin := have.Capacity * regions.MilliSlots(strayMargin) / regions.MilliSlots(regions.Whole)
		if stray := have.Load - explained - margin; f.usable[i] && stray > 0 {
			if out == nil {
				out = make([]regions.MilliSlots, len(s.Supply))
			}
			out[i] = stray
		}
	}
	return out
}

// counts reports whether a region's load counts as demand. A lost region's does
// for one TTL: its clients are on their way to the others, and what they had in
// flight there is the best estimate of what they bring.
func (p *planner) counts(i int) bool {
	return p.places[i].Verdict.State != Lost || p.now.Sub(p.regions[i].Heard) < StaleAfter+p.in.TTL
}

// best is the best tier that any region is in.
func (s *Service) best() Tier {
	best := Absent
	for _, have := range s.Supply {
		best = min(best, have.Tier)
	}
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
