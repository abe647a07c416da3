package latency

import "github.com/rhumb-lb/rhumb/regions"

// Place is where a region is.
type Place struct {
	ID       regions.ID
	Location regions.Location
}

// Matrix is the round-trip time between every cell and every region, with the
// confidence in each. It is immutable: a plan reads it while the next one is
// made. [Estimates] fills one from distances.
type Matrix struct {
	cells  map[regions.CellID]int
	places map[regions.ID]int
	at     []regions.Location // by index of the place
	pairs  []pair             // by index of the cell, then of the place
}

type pair struct {
	rtt        regions.Micros
	confidence regions.Permille
}

// Estimates is the matrix of nothing but estimates. A cell that has no place
// gets [Nowhere] for every region. If an ID is given twice the last one counts.
func Estimates(cells []regions.Cell, places []Place) *Matrix {
	m := &Matrix{
		cells:  make(map[regions.CellID]int, len(cells)),
		places: make(map[regions.ID]int, len(places)),
		at:     make([]regions.Location, len(places)),
		pairs:  make([]pair, 0, len(cells)*len(places)),
	}
	points := make([]vector, len(places))
	for j, p := range places {
		m.places[p.ID], m.at[j], points[j] = j, p.Location, vectorOf(p.Location)
	}
	for i, c := range cells {
		m.cells[c.ID] = i
		from := vectorOf(c.Location)
		for _, to := range points {
			p := pair{Nowhere, OfNothing}
			if c.Known {
				p = pair{estimate(distance(from, to)), OfEstimate}
			}
			m.pairs = append(m.pairs, p)
		}
	}
	return m
}

// RTT is the round-trip time between a cell's clients and a region, with its
// confidence. For a cell or region that the matrix does not hold, and for a
// region that has moved since, it is the [Prior]'s answer.
func (m *Matrix) RTT(cell regions.Cell, region regions.ID, at regions.Location) (regions.Micros, regions.Permille) {
	i, known := m.cells[cell.ID]
	j, placed := m.places[region]
	if !known || !placed || m.at[j] != at {
		return Prior{}.RTT(cell, region, at)
	}
	p := m.pairs[i*len(m.at)+j]
	return p.rtt, p.confidence
}
