package node

import (
	"maps"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
)

// near allows for what integers lose when they fade.
func near(got, want int64) bool { return got >= want-1-want/50 && got <= want+want/50 }

func TestDemandFades(t *testing.T) {
	d := newDemand()
	now := epoch
	for range 800 {
		d.decided("llama", "GB")
	}
	for range 100 {
		d.decided("llama", "JP")
	}
	d.decided("mistral", "GB")
	for _, step := range []struct {
		after  time.Duration
		gb, jp int64
	}{
		{0, 800, 100},
		{demandHalfLife, 400, 50},
		{demandHalfLife, 200, 25},
		{0, 200, 25},
		{-time.Hour, 200, 25}, // a clock that went back brings nothing back
		{3 * demandHalfLife, 25, 3},
	} {
		now = now.Add(step.after)
		cells := d.now(now).Cells["llama"]
		if !near(cells["GB"], step.gb) || !near(cells["JP"], step.jp) {
			t.Errorf("%v later: GB %d, JP %d, want %d and %d", step.after, cells["GB"], cells["JP"], step.gb, step.jp)
		}
		if step.after < 0 {
			now = now.Add(-step.after)
		}
	}
	if left := d.now(now.Add(time.Hour)); len(left.Cells) != 0 || len(d.counts) != 0 {
		t.Errorf("an hour later there are still %v", left.Cells)
	}
}

// TestDemandFadesInSmallSteps asks as often as judgements can make plans: what
// integers lose each time must not add up to a shorter memory.
func TestDemandFadesInSmallSteps(t *testing.T) {
	d := newDemand()
	for range 100 {
		d.decided("llama", "GB")
	}
	now := epoch
	d.now(now)
	for range demandHalfLife / (100 * time.Millisecond) {
		now = now.Add(100 * time.Millisecond)
		d.now(now)
	}
	if got := d.now(now).Cells["llama"]["GB"]; !near(got, 50) {
		t.Errorf("%d of 100 decisions count after a half-life, want 50", got)
	}
}

func arrivals(agent regions.AgentID, epoch uint64, counts map[regions.ModelName]uint64) regions.Report {
	s := &regions.Status{Agent: agent, Region: regions.ID(agent), Epoch: epoch}
	for m, n := range counts {
		s.Models = append(s.Models, regions.ModelStatus{Name: m, Arrivals: n})
	}
	return regions.Report{Status: s}
}

func TestArrivalsByEpoch(t *testing.T) {
	type counts = map[regions.ModelName]uint64
	d := newDemand()
	for i, step := range []struct {
		heard []regions.Report
		want  map[regions.ModelName]int64 // so far; nothing fades here
	}{
		{[]regions.Report{arrivals("eu", 1, counts{"llama": 1000})}, nil}, // since when is not known
		{[]regions.Report{arrivals("eu", 1, counts{"llama": 1010})}, map[regions.ModelName]int64{"llama": 10}},
		{[]regions.Report{arrivals("eu", 1, counts{"llama": 1010})}, map[regions.ModelName]int64{"llama": 10}},
		{[]regions.Report{arrivals("eu", 1, counts{"llama": 1015}), arrivals("us", 7, counts{"llama": 3, "mistral": 2})}, map[regions.ModelName]int64{"llama": 15}},
		{[]regions.Report{arrivals("eu", 1, counts{"llama": 1015}), arrivals("us", 7, counts{"llama": 4, "mistral": 9})}, map[regions.ModelName]int64{"llama": 16, "mistral": 7}},
		// The agent starts again and counts from nothing.
		{[]regions.Report{arrivals("eu", 2, counts{"llama": 4}), arrivals("us", 7, counts{"llama": 4, "mistral": 9})}, map[regions.ModelName]int64{"llama": 16, "mistral": 7}},
		{[]regions.Report{arrivals("eu", 2, counts{"llama": 6}), arrivals("us", 7, counts{"llama": 4, "mistral": 9})}, map[regions.ModelName]int64{"llama": 18, "mistral": 7}},
		// It is forgotten, and its first word after that counts for nothing.
		{[]regions.Report{arrivals("us", 7, counts{"llama": 4, "mistral": 9})}, map[regions.ModelName]int64{"llama": 18, "mistral": 7}},
		{[]regions.Report{arrivals("eu", 2, counts{"llama": 600}), arrivals("us", 7, counts{"llama": 4, "mistral": 9})}, map[regions.ModelName]int64{"llama": 18, "mistral": 7}},
		// A count that goes back is no demand.
		{[]regions.Report{arrivals("eu", 2, counts{"llama": 5}), arrivals("us", 7, counts{"llama": 4, "mistral": 9})}, map[regions.ModelName]int64{"llama": 18, "mistral": 7}},
	} {
		d.arrived(regions.NewSnapshot(step.heard))
		got := d.now(epoch).Mix
		if !maps.Equal(got, step.want) {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	if got := d.now(epoch.Add(demandHalfLife)).Mix["llama"]; !near(got, 9) {
		t.Errorf("%d arrivals count after a half-life, want 9", got)
	}
}

// TestHostileArrivals has a count jump as far as it can.
func TestHostileArrivals(t *testing.T) {
	d := newDemand()
	now := epoch
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 20).Draw(t, "reports") {
			n := rapid.Uint64().Draw(t, "arrivals")
			d.arrived(regions.NewSnapshot([]regions.Report{arrivals("eu", 1, map[regions.ModelName]uint64{"llama": n})}))
			now = now.Add(time.Second)
			if got := d.now(now).Mix["llama"]; got < 0 {
				t.Fatalf("%d arrivals", got)
			}
		}
	})
}

func TestDemandIsCountedByMany(t *testing.T) {
	d := newDemand()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				d.decided("llama", "GB")
			}
		})
	}
	wg.Go(func() {
		for range 100 {
			d.now(epoch)
		}
	})
	wg.Wait()
	if got := d.now(epoch).Cells["llama"]["GB"]; got != 4000 {
		t.Errorf("%d decisions, want 4000", got)
	}
}
