package geo

import (
	"testing"

	"pgregory.net/rapid"
)

// Small tables, in which every unit can be looked at.
const (
	fewBits = 9
	fewMin  = 3
)

var smallTable = rapid.Custom(func(t *rapid.T) table {
	out := table{bits: fewBits, min: fewMin}
	out.step(0, rapid.Uint16Range(0, 3).Draw(t, "first"))
	for start := uint64(0); ; {
		start += rapid.Uint64Range(1, 200).Draw(t, "width")
		if start >= out.end() {
			return out
		}
		out.step(start, rapid.Uint16Range(0, 3).Draw(t, "cell"))
	}
})

// smallSpans are as prefixes are: disjoint or one in the other, none twice.
var smallSpans = rapid.Custom(func(t *rapid.T) []span {
	var out []span
	seen := map[[2]uint64]bool{}
	for range rapid.IntRange(0, 20).Draw(t, "spans") {
		size := uint64(1) << rapid.IntRange(0, fewBits).Draw(t, "size")
		start := rapid.Uint64Range(0, 1<<fewBits-1).Draw(t, "start") &^ (size - 1)
		if key := [2]uint64{start, size}; !seen[key] {
			seen[key] = true
			out = append(out, span{start, start + size, rapid.Uint16Range(0, 5).Draw(t, "cell")})
		}
	}
	return out
})

// plain is the table written out unit by unit.
func plain(t table) []uint16 {
	out := make([]uint16, t.end())
	for i, cell := range t.cells {
		for unit := t.starts[i]; unit < t.end() && (i+1 == len(t.starts) || unit < t.starts[i+1]); unit++ {
			out[unit] = cell
		}
	}
	return out
}

func TestScopeIsTheLargestBlockOfOneCell(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tab := smallTable.Draw(rt, "table")
		units := plain(tab)
		uniform := func(unit uint64, scope int) bool {
			size := uint64(1) << (fewBits - scope)
			for u := unit &^ (size - 1); u < unit&^(size-1)+size; u++ {
				if units[u] != units[unit] {
					return false
				}
			}
			return true
		}
		for unit := range tab.end() {
			cell, scope := tab.find(unit)
			if cell != units[unit] {
				rt.Fatalf("unit %d is in cell %d, want %d", unit, cell, units[unit])
			}
			if scope < fewMin || scope > fewBits || !uniform(unit, scope) {
				rt.Fatalf("the scope of unit %d, /%d, is not all in its cell", unit, scope)
			}
			if scope > fewMin && uniform(unit, scope-1) {
				rt.Fatalf("the scope of unit %d is /%d, and /%d would do", unit, scope, scope-1)
			}
		}
	})
}

func TestOverlayPutsTheInnermostSpanOnTop(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tab, spans := smallTable.Draw(rt, "table"), smallSpans.Draw(rt, "spans")
		want := plain(tab)
		for unit := range want {
			width := tab.end() + 1
			for _, s := range spans {
				if s.start <= uint64(unit) && uint64(unit) < s.end && s.end-s.start < width {
					want[unit], width = s.cell, s.end-s.start
				}
			}
		}
		got := tab.overlay(spans)
		for unit, cell := range plain(got) {
			if cell != want[unit] {
				rt.Fatalf("unit %d is in cell %d, want %d", unit, cell, want[unit])
			}
		}
		for i := 1; i < len(got.starts); i++ {
			if got.starts[i] <= got.starts[i-1] || got.cells[i] == got.cells[i-1] {
				rt.Fatalf("step %d is not a step: %v %v", i, got.starts, got.cells)
			}
		}
	})
}
