package geo

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/rhumb-lb/rhumb/regions"
)

// table is a step function from units to cells: each step reaches to the start
// of the next. Neighbouring steps differ, and the first starts at 0, so that the
// block around a unit that is all one cell can be read off the two ends of its
// step.
type table struct {
	bits   int // of a unit
	min    int // bits of the shortest scope
	starts []uint64
	cells  []uint16
}

func newTable(family int) table {
	if family == 4 {
		return table{bits: regions.UnitBits4, min: minScope4}
	}
	return table{bits: regions.UnitBits6, min: minScope6}
}

// end is the first number behind the last unit.
func (t *table) end() uint64 { return 1 << t.bits }

// find gives the cell of a unit and the length of its scope.
//
// Scopes are equal or disjoint: each is the largest aligned block around its
// unit within one step, or the block of the shortest length. Of two aligned
// blocks that meet, one holds the other; both lie in one step, so neither could
// be the smaller one and the largest.
func (t *table) find(unit uint64) (cell uint16, scope int) {
	i, exact := slices.BinarySearch(t.starts, unit)
	if !exact {
		i--
	}
	// A block of 2^k units excludes a unit if the two differ above the last k bits.
	k := t.bits - t.min
	if start := t.starts[i]; start > 0 {
		k = min(k, bits.Len64(unit^(start-1))-1)
	}
	if i+1 < len(t.starts) {
		k = min(k, bits.Len64(unit^t.starts[i+1])-1)
	}
	return t.cells[i], t.bits - k
}

// step appends a step. Starts must rise; one that starts where the last does
// replaces it.
func (t *table) step(start uint64, cell uint16) {
	if n := len(t.starts); n > 0 && t.starts[n-1] == start {
		t.starts, t.cells = t.starts[:n-1], t.cells[:n-1]
	}
	if n := len(t.cells); n == 0 || t.cells[n-1] != cell {
		t.starts, t.cells = append(t.starts, start), append(t.cells, cell)
	}
}

// filler builds a table from the networks of a database, which come in order of
// address and leave gaps.
type filler struct {
	table
	next uint64 // the first unit that nothing was said of yet
}

// add says that a network is in a cell. Of a network that is finer than a unit,
// only the unit's first address counts.
func (f *filler) add(p netip.Prefix, cell uint16) error {
	start, size := number(p.Addr()), uint64(1)
	if p.Bits() < f.bits {
		size <<= f.bits - p.Bits()
	}
	if p.Bits() > f.bits && regions.Unit(p.Addr()).Addr() != p.Addr() {
		return nil
	}
	if start < f.next {
		return fmt.Errorf("network %s is out of order", p)
	}
	if start > f.next || len(f.starts) == 0 {
		f.step(f.next, unknown)
	}
	f.step(start, cell)
	f.next = start + size
	return nil
}

// done closes the last gap.
func (f *filler) done() table {
	if f.next < f.end() || len(f.starts) == 0 {
		f.step(f.next, unknown)
	}
	return f.table
}

// span is a stretch of units that an override puts into a cell.
type span struct {
	start, end uint64
	cell       uint16
}

// overlay lays spans over the table. Any two spans are disjoint or one holds the
// other, as prefixes do; the inner one wins.
func (t *table) overlay(spans []span) table {
	slices.SortFunc(spans, func(a, b span) int { // an outer one before its inner ones
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end))
	})
	edges := slices.Clone(t.starts)
	for _, s := range spans {
		edges = append(edges, s.start)
		if s.end < t.end() {
			edges = append(edges, s.end)
		}
	}
	slices.Sort(edges)
	out := table{bits: t.bits, min: t.min}
	var open []span // those that hold the edge, the innermost last
	below := 0
	for _, edge := range slices.Compact(edges) {
		for below+1 < len(t.starts) && t.starts[below+1] <= edge {
			below++
		}
		for len(open) > 0 && open[len(open)-1].end <= edge {
			open = open[:len(open)-1]
		}
		for len(spans) > 0 && spans[0].start == edge {
			open, spans = append(open, spans[0]), spans[1:]
		}
		cell := t.cells[below]
		if len(open) > 0 {
			cell = open[len(open)-1].cell
		}
		out.step(edge, cell)
	}
	return out
}
