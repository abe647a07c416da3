package balancing

import (
	"flag"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

var seeds = flag.Int("seeds", 0, "print the whole comparison over so many seeds")

// TestTable is what make balance prints.
func TestTable(t *testing.T) {
	if *seeds == 0 {
		t.Skip("the table is printed by make balance")
	}
	if err := Table(os.Stdout, Scenarios(40*time.Minute), *seeds); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, s Scenario, name string, seed uint64, o pool.Options) Result {
	t.Helper()
	r, err := Run(s, name, seed, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const standard = "least-connections"

// TestDefaultIsNearTheBest: with two of sixteen pods far slower than they look,
// the default's tail is within 1.3 times the best's.
func TestDefaultIsNearTheBest(t *testing.T) {
	with, without := Opinions()
	for _, s := range Scenarios(10 * time.Minute)[:2] {
		all, err := Compare(s, 2, with)
		if err != nil {
			t.Fatal(err)
		}
		p99, p999 := all[standard].P99, all[standard].P999
		for name, m := range all {
			if p99 > m.P99*13/10 || p999 > m.P999*13/10 {
				t.Errorf("%s: the default's p99 and p99.9 are %v and %v, those of %s %v and %v", s.Name, p99, p999, name, m.P99, m.P999)
			}
		}
		if share := all[standard].SlowShare; share > 0.003 {
			t.Errorf("%s: %.2f %% of the requests went to slow pods", s.Name, 100*share)
		}
		// The judgement is what makes the difference: without it the tail is the slow
		// pods'.
		blind := Merge([]Result{run(t, s, "round-robin", 1, without), run(t, s, "round-robin", 2, without)})
		if blind.P999 < p999*3/2 {
			t.Errorf("%s: p99.9 is %v by turns and without judgement, %v by default", s.Name, blind.P999, p999)
		}
	}
}

// TestFirstOfThirtyIsNotRunOver: a region scales from zero, and the pod that is
// ready first has all of the clients. It never gets more than its slots.
func TestFirstOfThirtyIsNotRunOver(t *testing.T) {
	for _, name := range balance.Names() {
		s := FromZero(8 * time.Minute)
		r := run(t, s, name, 1, pool.DefaultOptions())
		for i, most := range r.Most {
			if most > s.Servers[i].Slots {
				t.Errorf("%s: pod %d had %d requests at a time on %d slots", name, i, most, s.Servers[i].Slots)
			}
			if most == 0 {
				t.Errorf("%s: pod %d had no request", name, i)
			}
		}
		if r.Starve > 0 {
			t.Errorf("%s: %d requests wait still", name, r.Starve)
		}
	}
}

// TestBurstAtTwoAgents: five hundred requests come at two agents between two of
// their reports, and no pod has more than one and a half times the mean of it.
func TestBurstAtTwoAgents(t *testing.T) {
	for seed := range uint64(10) {
		r := run(t, Burst(), standard, seed, pool.DefaultOptions())
		sum := 0
		for _, n := range r.Peak {
			sum += n
		}
		if sum < 500 {
			t.Fatalf("only %d requests were in flight after the burst", sum)
		}
		if most := slices.Max(r.Peak); most*2*len(r.Peak) > 3*sum {
			t.Errorf("seed %d: %d on one pod of %v", seed, most, r.Peak)
		}
	}
}

// TestPeersKeepAgentsOffFullPods: on pods that are nearly full, two agents that
// hear of each other overfill them by what comes between two reports, and two that
// don't by all of their slots.
func TestPeersKeepAgentsOffFullPods(t *testing.T) {
	s := Scenarios(4 * time.Minute)[4]
	if s.Agents != 2 {
		t.Fatal(s.Name)
	}
	s.Rate *= 1.2 // 96 %
	over := func(deaf bool) int {
		s.Deaf = deaf
		n := 0
		for i, most := range run(t, s, standard, 1, pool.DefaultOptions()).Most {
			n += max(0, most-s.Servers[i].Slots)
		}
		return n
	}
	if heard, deaf := over(false), over(true); heard*3 > deaf || deaf == 0 {
		t.Errorf("%d requests over the slots with reports, %d without", heard, deaf)
	}
}

// TestSameSeedSameRun: the table can be made again.
func TestSameSeedSameRun(t *testing.T) {
	for _, name := range balance.Names() {
		s := Scenarios(2 * time.Minute)[0]
		if !reflect.DeepEqual(run(t, s, name, 3, pool.DefaultOptions()), run(t, s, name, 3, pool.DefaultOptions())) {
			t.Errorf("%s: two runs of one seed differ", name)
		}
	}
}
