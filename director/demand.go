package director

import (
	"slices"

	"github.com/rhumb-lb/rhumb/regions"
)

// priorDecisions is how many measured decisions the prior (where the world's
// internet users live) is worth. After a few hundred decisions the measurement
// rules; with none the prior keeps the split defined.
const priorDecisions = 20

// spread gives each cell its part of a model's total load, in proportion to
// where it was decided from of late and, while that is little, to where people
// live. Amounts are at least a milli-slot so that every cell has fractions.
func (d Demand) spread(model regions.ModelName, cells []regions.Cell, total regions.MilliSlots) []microSlots {
	var people int64
	for _, c := range cells {
		people += c.Weight
	}
	people = max(1, people)
	measured := d.Cells[model]
	// Weights are in millionths of a decision, so that small countries round to
	// something.
	const unit = 1_000_000
	weights := make([]int64, len(cells))
	var sum int64
	for i, c := range cells {
		weights[i] = measured[c.ID]*unit + mulDiv(c.Weight, priorDecisions*unit, people)
		sum += weights[i]
	}
	out := make([]microSlots, len(cells))
	for i, w := range weights {
		out[i] = max(micro(1), microSlots(mulDiv(int64(micro(total)), w, max(1, sum))))
	}
	return out
}

// leastMix is how many arrivals there must be before the apex follows their
// mix. Below a hundred the share of a model with 10 % is known to within 6
// points at best, and a single request would move the whole zone.
const leastMix = 100

// A region must have the common models to stand for the apex, while another
// region has them all. A model becomes common above commonAbove and stays so
// until it is below commonBelow: about a tenth, with a band that a share which
// wavers there does not cross at every plan, since each crossing moves whole
// continents.
const (
	commonAbove regions.Permille = 120
	commonBelow regions.Permille = 80
)

// common lists the models that the apex follows, in order, given those that it
// followed before; while too little was measured these stay.
func (d Demand) common(before []regions.ModelName) []regions.ModelName {
	var total int64
	for _, n := range d.Mix {
		total += n
	}
	if total < leastMix {
		return before
	}
	var out []regions.ModelName
	for m, n := range d.Mix {
		bar := commonAbove
		if slices.Contains(before, m) {
			bar = commonBelow
		}
		if mulDiv(n, int64(regions.Whole), total) >= int64(bar) {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return out
}
