// Package director decides which region answers which client. It is pure: it
// takes what is known and the time as arguments and returns values, so that the
// daemon and the simulator run the same code. It does no I/O, reads no clock
// and starts no goroutine.
//
// Data flows one way: [Judge] turns statuses and probes into a verdict per
// region, [Plan] turns verdicts, load and latency into a routing [Table], and
// [Decide] reads a client's answer from the table.
package director

import (
	"cmp"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Inputs is everything that a plan is made from. All directors that hold equal
// inputs make byte-equal tables.
type Inputs struct {
	Snapshot regions.Snapshot
	// Probes are this director's own probes of the regions' endpoints.
	Probes []Probe
	// Verdicts are what [Judge] makes of the inputs. [Plan] needs one for each
	// region of the snapshot.
	Verdicts []Verdict
	// Cells are sorted by ID and hold at least the unknown cell.
	Cells   []regions.Cell
	Latency Latency
	Demand  Demand
	Control Control
	// TTL is how long an answer may be kept by the asker.
	TTL time.Duration
}

// Latency tells how far clients are from regions.
type Latency interface {
	// RTT is the round-trip time between a cell's clients and a region, and how
	// much it is to be trusted. Where the cell's place is not known it is the
	// same for all regions.
	RTT(cell regions.Cell, region regions.ID, at regions.Location) (regions.Micros, regions.Permille)
}

// Demand is where requests come from, as measured of late. The numbers are
// weights: only their proportions matter, and a model's total load is taken
// from the snapshot.
type Demand struct {
	// Cells counts recent decisions per model and cell.
	Cells map[regions.ModelName]map[regions.CellID]int64
	// Mix counts recent arrivals per model over all regions. The apex follows
	// it.
	Mix map[regions.ModelName]int64
}

// Probe is what this director's own probes of one region's endpoint say. Any
// HTTP answer on a fresh connection counts as an answer.
type Probe struct {
	Region   regions.ID
	Failed   int  // in a row, 0 after an answer
	Answered int  // in a row, 0 after a failure
	Ever     bool // it has answered at least once
}

// Control is what is carried from one plan to the next and is not an input from
// outside: it holds the memory of judging and planning.
type Control struct {
	Verdicts []Verdict // of the previous plan, sorted by region
	// Known are the models that each region has had within [KnownFor], sorted by
	// region and model: a name does not vanish because an agent restarts.
	Known []Known
	// Common are the models that the apex followed in the previous plan, sorted.
	Common []regions.ModelName
	// Planned is the load that the previous plan gave each region, sorted by region
	// and model.
	Planned []Planned
}

// Planned is the load of one model that a plan gives one region.
type Planned struct {
	Region regions.ID
	Model  regions.ModelName
	Load   regions.MilliSlots
}

func (c Control) planned(id regions.ID, m regions.ModelName) regions.MilliSlots {
	i, ok := slices.BinarySearchFunc(c.Planned, Planned{Region: id, Model: m}, Planned.compare)
	if !ok {
		return 0
	}
	return c.Planned[i].Load
}

// compare is the order of region and model.
func (p Planned) compare(q Planned) int {
	return cmp.Or(cmp.Compare(p.Region, q.Region), cmp.Compare(p.Model, q.Model))
}

// compare is the order of region and model.
func (k Known) compare(l Known) int {
	return cmp.Or(cmp.Compare(k.Region, l.Region), cmp.Compare(k.Model, l.Model))
}

// Known is one model that one region has, or had until Listed.
type Known struct {
	Region regions.ID
	Model  regions.ModelName
	Listed time.Time
}

func (c Control) verdict(id regions.ID) *Verdict {
	for i := range c.Verdicts {
		if c.Verdicts[i].Region == id {
			return &c.Verdicts[i]
		}
	}
	return nil
}
