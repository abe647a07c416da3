package director

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
)

func drawAmounts(t *rapid.T, n int) []microSlots {
	out := make([]microSlots, n)
	for i := range out {
		out[i] = microSlots(rapid.IntRange(0, 100_000).Draw(t, "amount"))
	}
	out[rapid.IntRange(0, n-1).Draw(t, "some")]++
	return out
}

func TestSharesAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amounts := drawAmounts(t, rapid.IntRange(1, 12).Draw(t, "regions"))
		var total microSlots
		for _, a := range amounts {
			total += a
		}
		sum := 0
		for i, n := range shares(amounts) {
			sum += n
			exact := float64(amounts[i]) / float64(total) * rowEntries
			if float64(n) < exact-1 || float64(n) > exact+1 {
				t.Fatalf("region %d: %d buckets for %.2f", i, n, exact)
			}
		}
		if sum != rowEntries {
			t.Fatalf("%d buckets", sum)
		}
	})
}

func TestRowsHoldTheirCountsAndMoveLittle(t *testing.T) {
	ids := []regions.ID{"ap", "eu", "sa", "us", "za"}
	rapid.Check(t, func(t *rapid.T) {
		n := shares(drawAmounts(t, len(ids)))
		m := newRowMaker(ids)
		before := m.row(n)
		got := make(counts, len(ids))
		for _, r := range before {
			got[r]++
		}
		for i := range n {
			if got[i] != n[i] {
				t.Fatalf("region %d has %d buckets, want %d", i, got[i], n[i])
			}
		}
		from, to := rapid.IntRange(0, len(ids)-1).Draw(t, "from"), rapid.IntRange(0, len(ids)-1).Draw(t, "to")
		if from == to || n[from] == 0 {
			return
		}
		changed := append(counts(nil), n...)
		changed[from]--
		changed[to]++
		after := m.row(changed)
		moved := 0
		for b := range before {
			if before[b] != after[b] {
				moved++
			}
		}
		if moved > len(ids) {
			t.Fatalf("one bucket changed hands, %d moved", moved)
		}
	})
}

func TestUnitsFillBucketsEvenly(t *testing.T) {
	var seen [rowEntries]int
	const each = 100
	for n := range rowEntries * each {
		seen[bucketOf("llama", client(0, n).Unit)]++
	}
	for b, n := range seen {
		if n < each/2 || n > each*2 {
			t.Errorf("bucket %d has %d of about %d units", b, n, each)
		}
	}
}
