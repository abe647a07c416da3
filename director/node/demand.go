package node

import (
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

// demandHalfLife is how long it takes for a decision to count half. A minute
// follows a flash crowd within the time that cached answers take to turn over,
// and holds enough decisions to split a country by.
const demandHalfLife = time.Minute

// demandScale keeps the decayed counts as integers with three digits below one.
const demandScale = 1000

// demand counts from where, and for which model, this director is asked, with
// old decisions fading away; and which models the regions' arrivals are for.
//
// Queries and requests count without a lock, by decided. All else is the mind's
// alone. Its size is bounded by models × cells, both of which the director knows.
type demand struct {
	fresh sync.Map // decision → *atomic.Int64: since the last call of now

	counts map[regions.ModelName]map[regions.CellID]int64
	mix    map[regions.ModelName]int64
	seen   map[arrivalKey]uint64
	faded  time.Time
}

type decision struct {
	model regions.ModelName
	cell  regions.CellID
}

type arrivalKey struct {
	agent regions.AgentID
	epoch uint64
	model regions.ModelName
}

func newDemand() *demand {
	return &demand{
		counts: map[regions.ModelName]map[regions.CellID]int64{},
		mix:    map[regions.ModelName]int64{},
		seen:   map[arrivalKey]uint64{},
	}
}

// retired is the value of a counter that is not used any more: so low that no
// count makes it positive.
const retired = math.MinInt64 / 2

// decided counts one decision.
func (d *demand) decided(m regions.ModelName, c regions.CellID) {
	key := decision{m, c}
	for {
		n, ok := d.fresh.Load(key)
		if !ok {
			n, _ = d.fresh.LoadOrStore(key, new(atomic.Int64))
		}
		if n.(*atomic.Int64).Add(1) > 0 {
			return
		}
		d.fresh.CompareAndDelete(key, n) // retired in between: count on another
	}
}

// arrived takes the arrivals that the snapshot's reports count since the last
// call.
func (d *demand) arrived(s regions.Snapshot) {
	seen := make(map[arrivalKey]uint64, len(d.seen))
	for _, r := range s.Reports {
		for _, m := range r.Status.Models {
			key := arrivalKey{r.Status.Agent, r.Status.Epoch, m.Name}
			if last, ok := d.seen[key]; ok && m.Arrivals > last {
				d.mix[m.Name] += int64(min(m.Arrivals-last, math.MaxInt32)) * demandScale
			}
			seen[key] = m.Arrivals
		}
	}
	d.seen = seen
}

// now is the demand as a plan takes it, faded to the given time.
func (d *demand) now(now time.Time) director.Demand {
	if passed := now.Sub(d.faded); passed > 0 {
		if !d.faded.IsZero() {
			d.fade(math.Exp2(-passed.Seconds() / demandHalfLife.Seconds()))
		}
		d.faded = now
	}
	d.gather()
	out := director.Demand{Cells: map[regions.ModelName]map[regions.CellID]int64{}, Mix: map[regions.ModelName]int64{}}
	for m, cells := range d.counts {
		out.Cells[m] = make(map[regions.CellID]int64, len(cells))
		for c, n := range cells {
			out.Cells[m][c] = n / demandScale
		}
	}
	for m, n := range d.mix {
		out.Mix[m] = n / demandScale
	}
	return out
}

// gather takes over what was counted since the last time.
func (d *demand) gather() {
	d.fresh.Range(func(k, v any) bool {
		counter := v.(*atomic.Int64)
		if counter.CompareAndSwap(0, retired) { // nobody asked since the last time
			d.fresh.CompareAndDelete(k, v)
			return true
		}
		n := counter.Swap(0)
		key := k.(decision)
		cells := d.counts[key.model]
		if cells == nil {
			cells = map[regions.CellID]int64{}
			d.counts[key.model] = cells
		}
		cells[key.cell] += n * demandScale
		return true
	})
}

func (d *demand) fade(by float64) {
	fade := func(n int64) int64 { return int64(float64(n) * by) }
	for m, cells := range d.counts {
		for c, n := range cells {
			cells[c] = fade(n)
		}
		maps.DeleteFunc(cells, func(_ regions.CellID, n int64) bool { return n == 0 })
		if len(cells) == 0 {
			delete(d.counts, m)
		}
	}
	for m, n := range d.mix {
		d.mix[m] = fade(n)
	}
	maps.DeleteFunc(d.mix, func(_ regions.ModelName, n int64) bool { return n == 0 })
}
