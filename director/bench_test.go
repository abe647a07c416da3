package director

import (
	"fmt"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
)

// BenchmarkPlan is one model in 100 regions for 2,500 cells, half of the regions
// over their target.
func BenchmarkPlan(b *testing.B) {
	w := newWorld()
	w.in.Cells = nil
	for c := range 2500 {
		w.in.Cells = append(w.in.Cells, regions.Cell{ID: regions.CellID(fmt.Sprintf("c%04d", c)), Location: at(int32(c)), Known: true, Weight: int64(c % 17)})
	}
	for r := range 100 {
		w.region(regions.ID(fmt.Sprintf("r%02d", r)), int32(r*25), model("llama", 80, uint32(r%2*120), 0))
	}
	in := w.inputs()
	b.ResetTimer()
	for b.Loop() {
		planned(in, epoch)
	}
}

func BenchmarkDecide(b *testing.B) {
	t := three().plan(epoch)
	c := client(3, 3)
	b.ReportAllocs()
	for b.Loop() {
		Decide(t, "llama", c)
	}
}
