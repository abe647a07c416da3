package budget_test

import (
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions/proxy/budget"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

// spend takes as much as there is, up to most.
func spend(most int, take func() bool) int {
	for n := range most {
		if !take() {
			return n
		}
	}
	return most
}

func TestDeathsAreBoundedByWhatRuns(t *testing.T) {
	for _, tt := range []struct{ running, want int }{{0, 3}, {1, 3}, {10, 3}, {11, 3}, {14, 4}, {300, 90}} {
		var b budget.Budget
		if got := spend(1000, func() bool { return b.Death(at(0), tt.running) }); got != tt.want {
			t.Errorf("%d of %d running may be repeated, want %d", got, tt.running, tt.want)
		}
	}
}

func TestErrorsAreBoundedByWhatComes(t *testing.T) {
	for _, tt := range []struct{ requests, want int }{{0, 3}, {30, 3}, {39, 3}, {40, 4}, {1000, 100}} {
		var b budget.Budget
		for i := range tt.requests {
			b.Request(at(i % 1000))
		}
		if got := spend(1000, func() bool { return b.Error(at(1000)) }); got != tt.want {
			t.Errorf("%d of %d requests may be repeated, want %d", got, tt.requests, tt.want)
		}
	}
}

func TestTheBudgetsAreApart(t *testing.T) {
	var b budget.Budget
	if got := spend(1000, func() bool { return b.Doubt(at(0)) }); got != 3 {
		t.Errorf("%d of no requests may be repeated in doubt", got)
	}
	if got := spend(1000, func() bool { return b.Error(at(0)) }); got != 3 {
		t.Errorf("%d errors may be repeated after doubts, want 3", got)
	}
	if !b.Death(at(0), 0) {
		t.Error("errors have used up what is for deaths")
	}
}

// TestBudgetsComeBack: what was spent comes back a span later, and not before.
func TestBudgetsComeBack(t *testing.T) {
	var b budget.Budget
	for _, step := range []struct {
		ms   int
		want int // of deaths that may be repeated then
	}{{0, 3}, {5000, 0}, {9999, 0}, {11000, 3}, {11001, 0}, {20999, 0}, {22000, 3}, {100000, 3}} {
		if got := spend(10, func() bool { return b.Death(at(step.ms), 0) }); got != step.want {
			t.Errorf("at %d ms %d, want %d", step.ms, got, step.want)
		}
	}
}
