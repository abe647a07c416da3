package scale_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/scale"
)

// epoch is when these tests happen; nothing in them reads a clock.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// demand is that of one model, fresh.
func demand(t interface{ Fatalf(string, ...any) }, m scale.Model) regions.MilliSlots {
	all, err := scale.Demand(&scale.Facts{At: epoch, Complete: true, Models: []scale.Model{m}}, epoch)
	if err != nil || len(all) != 1 || all[0].Model != m.Name {
		t.Fatalf("demand of %+v: %v, %v", m, all, err)
	}
	return all[0].Demand
}

func TestDemand(t *testing.T) {
	for _, c := range []struct {
		what string
		m    scale.Model
		want regions.MilliSlots
	}{
		{"idle", scale.Model{}, 0},
		{"on pods and waiting", scale.Model{InFlight: 5, Queued: 3}, regions.Slots(8)},
		{"no pods, and no room to wait", scale.Model{Queued: 3, Refused: 4}, regions.Slots(7)},
		{"refused beside what is from elsewhere", scale.Model{InFlight: 2, SpilledIn: 3, Refused: 4}, regions.Slots(4)},
		{"no pods, so that all were sent on", scale.Model{SpilledOut: regions.Slots(7)}, regions.Slots(7)},
		{"full, some sent on", scale.Model{InFlight: 8, Queued: 1, SpilledOut: regions.Slots(4)}, regions.Slots(13)},
		{"idle but for another region's", scale.Model{InFlight: 6, SpilledIn: 6}, 0},
		{"full with another region's", scale.Model{InFlight: 8, Queued: 4, SpilledIn: 10}, regions.Slots(2)},
		{"takes over and sends on, as around a rollout", scale.Model{InFlight: 8, SpilledIn: 3, SpilledOut: regions.Slots(2)}, regions.Slots(7)},
		{"one from elsewhere has just ended", scale.Model{InFlight: 1, SpilledIn: 2, SpilledOut: regions.Slots(3)}, regions.Slots(3)},
		{"parts of a slot", scale.Model{InFlight: 1, SpilledOut: 250}, 1250},
		{"a count below nothing", scale.Model{InFlight: 2, SpilledOut: -1000}, regions.Slots(2)},
	} {
		if got := demand(t, c.m); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
}

func TestUnknownIsAnError(t *testing.T) {
	fresh := scale.Facts{At: epoch, Complete: true, Models: []scale.Model{{Name: "llama"}}}
	for _, c := range []struct {
		what  string
		facts *scale.Facts
		now   time.Time
		want  error
	}{
		{"nothing counted yet", nil, epoch, scale.ErrUnknown},
		{"a source has not told", &scale.Facts{At: epoch, Models: fresh.Models}, epoch, scale.ErrUnknown},
		{"fresh", &fresh, epoch.Add(500 * time.Millisecond), nil},
		{"as old as may be", &fresh, epoch.Add(5 * time.Second), nil},
		{"too old", &fresh, epoch.Add(5*time.Second + 1), scale.ErrStale},
		{"hours old", &fresh, epoch.Add(9 * time.Hour), scale.ErrStale},
		{"a clock that was set back a little", &fresh, epoch.Add(-time.Second), nil},
		{"a clock that was set back", &fresh, epoch.Add(-time.Hour), scale.ErrStale},
		{"no model at all is known", &scale.Facts{At: epoch, Complete: true}, epoch, nil},
	} {
		got, err := scale.Demand(c.facts, c.now)
		if !errors.Is(err, c.want) || (err != nil) != (got == nil) {
			t.Errorf("%s: %v, %v, want %v", c.what, got, err, c.want)
		}
	}
}

// drawn is a model's counts such as can be: of those on pods or waiting, some are
// from elsewhere.
func drawn(t *rapid.T) scale.Model {
	count := rapid.Uint32Range(0, 10_000)
	m := scale.Model{InFlight: count.Draw(t, "in flight"), Queued: count.Draw(t, "queued")}
	m.SpilledIn = rapid.Uint32Range(0, m.InFlight+m.Queued).Draw(t, "spilled in")
	m.SpilledOut = regions.Slots(int(count.Draw(t, "spilled out")))
	return m
}

// TestWhereAClientIsServedDoesNotMatter: one more client of this region is one
// more slot, on a pod, waiting or elsewhere; one of another region's is none.
func TestWhereAClientIsServedDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawn(t)
		before := demand(t, m)
		for what, more := range map[string]func(*scale.Model){
			"on a pod":  func(m *scale.Model) { m.InFlight++ },
			"waiting":   func(m *scale.Model) { m.Queued++ },
			"elsewhere": func(m *scale.Model) { m.SpilledOut += regions.Slots(1) },
		} {
			with := m
			more(&with)
			if got := demand(t, with); got != before+regions.Slots(1) {
				t.Errorf("one more %s: %d after %d", what, got, before)
			}
		}
		with := m
		with.InFlight, with.SpilledIn = m.InFlight+1, m.SpilledIn+1
		if got := demand(t, with); got != before {
			t.Errorf("one more from another region: %d after %d", got, before)
		}
	})
}

// TestFleetCountsEachClientOnce lets regions send requests to each other at
// random: all demands together are all the clients.
func TestFleetCountsEachClientOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fleet := make([]scale.Model, rapid.IntRange(1, 5).Draw(t, "regions"))
		region := rapid.IntRange(0, len(fleet)-1)
		clients := rapid.IntRange(0, 200).Draw(t, "clients")
		own := make([]int, len(fleet))
		for range clients {
			from, to := region.Draw(t, "from"), region.Draw(t, "to")
			own[from]++
			if rapid.Bool().Draw(t, "waits") {
				fleet[to].Queued++
			} else {
				fleet[to].InFlight++
			}
			if from != to {
				fleet[from].SpilledOut += regions.Slots(1)
				fleet[to].SpilledIn++
			}
		}
		for i, m := range fleet {
			if got := demand(t, m); got != regions.Slots(own[i]) {
				t.Errorf("region %d: %d, want its own %d clients", i, got, own[i])
			}
		}
	})
}

// TestDemandHasBounds: whatever the counts, it is never negative, never below
// what was sent on and never above all that was counted.
func TestDemandHasBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawn(t)
		m.SpilledIn = rapid.Uint32().Draw(t, "any spilled in")
		got := demand(t, m)
		if most := regions.Slots(int(m.InFlight)+int(m.Queued)) + m.SpilledOut; got < m.SpilledOut || got > most {
			t.Errorf("%d for %+v", got, m)
		}
	})
}
