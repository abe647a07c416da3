package director

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/rhumb-lb/rhumb/regions"
)

// supplyTarget is the share of a region's capacity that the plan fills before it
// spills: below it queues are short whatever the arrivals' burstiness, and what
// is left takes the load that moves when a region fails.
const supplyTarget regions.Permille = 850

// microSlots are thousandths of a milli-slot: fine enough to split what a cell
// with hardly any demand has over many regions.
type microSlots int64

func micro(m regions.MilliSlots) microSlots    { return microSlots(m) * 1000 }
func (m microSlots) milli() regions.MilliSlots { return regions.MilliSlots(m / 1000) }
func (m microSlots) permille(p regions.Permille) microSlots {
	return m * microSlots(p) / microSlots(regions.Whole)
}

// mulDiv is a*b/c for non-negative a and b and positive c without overflow in
// between; a result beyond int64 saturates.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	const most = 1<<63 - 1
	if hi >= uint64(c) {
		return most
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, most))
}

// flow splits the demand of each cell over regions.
type flow struct {
	cost   [][]regions.Micros // per cell and region
	usable []bool             // per region: takes part at all
	cap    []microSlots       // per region
	demand []microSlots       // per cell
	x      [][]microSlots
	load   []microSlots // per region, the sum of x
	home   []microSlots // per region, what it would have if all had room
}

// solve sends every cell to its nearest regions and then moves what is over a
// region's target to where there is room, cheapest moves first, as Akamai does
// with its load feedback (those users move who lose least). What fits nowhere
// below the target goes up to full capacity, and the rest stays where it is.
//
// It works on absolute demand, not on what was moved before, so that it gives
// the same answer again once traffic has followed it. Demand is what is in flight
// and queued, though, so that a backlog inflates it while it lasts.
func (f *flow) solve() {
	f.start()
	f.home = slices.Clone(f.load)
	f.relieve(supplyTarget)
	f.relieve(regions.Whole)
}

// start gives each cell to its cheapest region; where several are equally cheap
// (a client of unknown place) they share by capacity.
func (f *flow) start() {
	f.x = make([][]microSlots, len(f.demand))
	f.load = make([]microSlots, len(f.cap))
	for c, d := range f.demand {
		f.x[c] = make([]microSlots, len(f.cap))
		near := f.nearest(c)
		var total microSlots
		for _, r := range near {
			total += max(1, f.cap[r])
		}
		rest := d
		for i, r := range near {
			part := microSlots(mulDiv(int64(d), max(1, int64(f.cap[r])), int64(total)))
			if i == len(near)-1 {
				part = rest
			}
			rest -= part
			f.x[c][r] = part
			f.load[r] += part
		}
	}
}

func (f *flow) nearest(c int) []int {
	var near []int
	for r, ok := range f.usable {
		switch {
		case !ok:
		case len(near) == 0 || f.cost[c][r] < f.cost[c][near[0]]:
			near = append(near[:0], r)
		case f.cost[c][r] == f.cost[c][near[0]]:
			near = append(near, r)
		}
	}
	return near
}

type move struct {
	loss       regions.Micros
	cell       int
	from, dest int
}

// relieve moves demand out of regions that are over the given share of their
// capacity into regions that are under it. One pass is enough: no region that
// takes gets over its limit.
func (f *flow) relieve(limit regions.Permille) {
	for _, m := range f.moves(limit) {
		amount := min(f.x[m.cell][m.from], f.over(m.from, limit), -f.over(m.dest, limit))
		if amount <= 0 {
			continue
		}
		f.x[m.cell][m.from] -= amount
		f.x[m.cell][m.dest] += amount
		f.load[m.from] -= amount
		f.load[m.dest] += amount
	}
}

// over is by how much a region's load exceeds the share of its capacity;
// negative where there is room.
func (f *flow) over(r int, limit regions.Permille) microSlots {
	return f.load[r] - f.cap[r].permille(limit)
}

func (f *flow) moves(limit regions.Permille) []move {
	var out []move
	for from := range f.cap {
		if !f.usable[from] || f.over(from, limit) <= 0 {
			continue
		}
		for dest := range f.cap {
			if !f.usable[dest] || f.over(dest, limit) >= 0 {
				continue
			}
			for c := range f.demand {
				if f.x[c][from] > 0 {
					out = append(out, move{f.cost[c][dest] - f.cost[c][from], c, from, dest})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b move) int {
		return cmp.Or(cmp.Compare(a.loss, b.loss), cmp.Compare(a.cell, b.cell),
			cmp.Compare(a.from, b.from), cmp.Compare(a.dest, b.dest))
	})
	return out
}
