package outlier_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/outlier"
)

// epoch is where the tests' time begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// step is what happens at a time, and how the pod is then: "warming 3".
type step struct {
	at     time.Duration
	kind   outlier.Kind
	waited bool
	want   string
}

const slots = 8

func show(s *outlier.State) string {
	text := s.Pod().String()
	if s.Pod() == regions.PodWarming {
		text += fmt.Sprint(" ", s.Open(slots))
	}
	if s.Trial() {
		text += " on trial"
	}
	return text
}

func TestSteps(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"an idle pod opens by time", []step{
			{0, outlier.Up, false, "warming 1"},
			{1400 * ms, outlier.Tick, false, "warming 1"},
			{1500 * ms, outlier.Tick, false, "warming 2"},
			{5 * s, outlier.Tick, false, "warming 4"},
			{9900 * ms, outlier.Tick, false, "warming 7"},
			{10 * s, outlier.Tick, false, "ready"},
		}},
		{"one look after the whole time is enough", []step{
			{0, outlier.Up, false, "warming 1"},
			{time.Hour, outlier.Tick, false, "ready"},
		}},
		{"results double it", []step{
			{0, outlier.Up, true, "warming 1"},
			{100 * ms, outlier.Answered, true, "warming 2"},
			{200 * ms, outlier.Answered, true, "warming 3"},
			{200 * ms, outlier.Answered, true, "warming 4"},
			{300 * ms, outlier.Answered, true, "warming 5"},
			{300 * ms, outlier.Answered, true, "warming 6"},
			{300 * ms, outlier.Answered, true, "warming 7"},
			{300 * ms, outlier.Answered, true, "ready"},
		}},
		{"who lets its first request wait gets no more for waiting", []step{
			{0, outlier.Up, false, "warming 1"},
			{0, outlier.Tick, true, "warming 1"},
			{time.Hour, outlier.Tick, true, "warming 1"},
			{time.Hour, outlier.Answered, false, "warming 2"},
			{time.Hour + 5*s, outlier.Tick, false, "warming 5"},
		}},
		{"a failure halves", []step{
			{0, outlier.Up, false, "warming 1"},
			{8600 * ms, outlier.Tick, true, "warming 7"},
			{9 * s, outlier.Failed, true, "warming 3"},
			{9 * s, outlier.Failed, true, "warming 1"},
			{9 * s, outlier.Failed, true, "warming 1"},
			{9 * s, outlier.Answered, true, "warming 2"},
		}},
		{"a pod that was never seen down is ready at once", []step{
			{0, outlier.Known, false, "ready"},
			{s, outlier.Up, false, "warming 1"}, // the probes thought better of it
			{2 * s, outlier.Known, false, "warming 1"},
		}},
		{"evidence begins anew", []step{
			{0, outlier.Known, false, "ready"},
			{s, outlier.Ejected, false, "ejected"},
			{2 * s, outlier.Known, false, "ejected"}, // a probe is answered: that was not the question
			{2 * s, outlier.Up, false, "ejected"},
			{3 * s, outlier.Down, false, "gone"},
			{4 * s, outlier.Up, false, "warming 1"},
		}},
		{"each ejection is twice as long", []step{
			{0, outlier.Known, false, "ready"},
			{0, outlier.Ejected, false, "ejected"},
			{5*s - ms, outlier.Tick, false, "ejected"},
			{5 * s, outlier.Tick, false, "warming 1 on trial"},
			{5 * s, outlier.Ejected, false, "ejected"},
			{15*s - ms, outlier.Tick, false, "ejected"},
			{15 * s, outlier.Tick, false, "warming 1 on trial"},
			{15 * s, outlier.Ejected, false, "ejected"},
			{35*s - ms, outlier.Tick, false, "ejected"},
			{35 * s, outlier.Tick, false, "warming 1 on trial"},
		}},
		{"good minutes are forgotten ejections", []step{
			{0, outlier.Known, false, "ready"},
			{0, outlier.Ejected, false, "ejected"},
			{5 * s, outlier.Tick, false, "warming 1 on trial"},
			{5 * s, outlier.Ejected, false, "ejected"},
			{15 * s, outlier.Tick, true, "warming 1 on trial"},
			{15 * s, outlier.Answered, false, "warming 2 on trial"},
			{15 * s, outlier.Served, false, "warming 2"},
			{30 * s, outlier.Tick, false, "ready"},
			{135 * s, outlier.Ejected, false, "ejected"}, // two minutes after its return: both are forgotten
			{140*s - ms, outlier.Tick, false, "ejected"},
			{140 * s, outlier.Tick, false, "warming 1 on trial"},
		}},
		{"a pardon is a return before time", []step{
			{0, outlier.Known, false, "ready"},
			{0, outlier.Pardoned, false, "ready"},
			{0, outlier.Ejected, false, "ejected"},
			{s, outlier.Pardoned, false, "warming 1 on trial"},
		}},
		{"an ejected pod's last requests change nothing", []step{
			{0, outlier.Known, true, "ready"},
			{0, outlier.Ejected, true, "ejected"},
			{s, outlier.Answered, true, "ejected"},
			{s, outlier.Served, true, "ejected"},
			{s, outlier.Failed, true, "ejected"},
			{5 * s, outlier.Tick, false, "warming 1 on trial"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, state := outlier.DefaultPolicy(), outlier.State{}
			for i, x := range c.steps {
				state = p.Step(state, outlier.Event{Kind: x.kind, Slots: slots, Waited: x.waited}, epoch.Add(x.at))
				if got := show(&state); got != x.want {
					t.Fatalf("step %d at %v: %s, want %s", i+1, x.at, got, x.want)
				}
			}
		})
	}
}

func TestHoldIsBounded(t *testing.T) {
	p, s, now := outlier.DefaultPolicy(), outlier.State{}, epoch
	s = p.Step(s, outlier.Event{Kind: outlier.Known, Slots: slots}, now)
	var holds []string
	for range 9 {
		s = p.Step(s, outlier.Event{Kind: outlier.Ejected, Slots: slots}, now)
		holds = append(holds, s.Until().Sub(now).String())
		now = s.Until()
		s = p.Step(s, outlier.Event{Kind: outlier.Tick, Slots: slots}, now)
	}
	if got, want := strings.Join(holds, " "), "5s 10s 20s 40s 1m20s 2m40s 5m0s 5m0s 5m0s"; got != want {
		t.Errorf("held for %s, want %s", got, want)
	}
}

// TestErrs: five failures in a row, with nothing served between them; one while
// the pod is on trial.
func TestErrs(t *testing.T) {
	p := outlier.DefaultPolicy()
	for _, c := range []struct {
		history string // F: failed, S: served, A: answered, E: ejected and back
		want    bool
	}{
		{"", false},
		{"FFFF", false},
		{"FFFFF", true},
		{"FFFFSF", false},
		{"FFFFAF", true}, // streams that begin and break
		{"FFFFE", false},
		{"EF", true},
		{"EAF", true},
		{"ESF", false},
		{"ESFFFFF", true},
	} {
		s, now := outlier.State{}, epoch
		do := func(k outlier.Kind) { s = p.Step(s, outlier.Event{Kind: k, Slots: slots}, now) }
		do(outlier.Known)
		for _, x := range c.history {
			switch x {
			case 'F':
				do(outlier.Failed)
			case 'S':
				do(outlier.Served)
			case 'A':
				do(outlier.Answered)
			case 'E':
				do(outlier.Ejected)
				now = s.Until()
				do(outlier.Tick)
			}
		}
		if got := p.Errs(&s); got != c.want {
			t.Errorf("%q: %v, want %v", c.history, got, c.want)
		}
	}
}

func TestSlow(t *testing.T) {
	p := outlier.DefaultPolicy()
	ready := p.Step(outlier.State{}, outlier.Event{Kind: outlier.Known, Slots: slots}, epoch)
	out := p.Step(ready, outlier.Event{Kind: outlier.Ejected, Slots: slots}, epoch)
	trial := p.Step(out, outlier.Event{Kind: outlier.Tick, Slots: slots}, out.Until())
	const half = regions.Micros(500_000)
	for _, c := range []struct {
		name    string
		state   outlier.State
		pace    regions.Permille
		samples int
		median  regions.Permille
		pods    int
		typical regions.Micros
		want    bool
	}{
		{"four times as slow", ready, 4000, 8, 1000, 16, half, true},
		{"three times", ready, 3000, 8, 1000, 16, half, false},
		{"in a pool whose others are slow too", ready, 4000, 8, 1500, 16, half, false},
		{"by seven requests", ready, 4000, 7, 1000, 16, half, false},
		{"seven times as slow by three", ready, 7000, 3, 1000, 16, half, true},
		{"seven times as slow by two", ready, 7000, 2, 1000, 16, half, false},
		{"on trial by one", trial, 4000, 1, 1000, 16, half, true},
		{"on trial and fast", trial, 2000, 8, 1000, 16, half, false},
		{"of two pods", ready, 4000, 8, 1000, 2, half, false},
		{"of three", ready, 4000, 8, 1000, 3, half, true},
		{"by milliseconds", ready, 4000, 8, 1000, 16, 80_000, false},
		{"nothing known of the pool", ready, 4000, 8, 0, 16, half, false},
		{"already out", out, 4000, 8, 1000, 16, half, false},
	} {
		if got := p.Slow(&c.state, c.pace, c.samples, c.median, c.pods, c.typical); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestHalfStays(t *testing.T) {
	for taking := range 20 {
		ejected := 0
		for outlier.MayEject(taking, ejected) {
			ejected++
		}
		if ejected != taking/2 || outlier.Excessive(taking, ejected) {
			t.Errorf("of %d, %d may be out", taking, ejected)
		}
		if !outlier.Excessive(taking, ejected+1) {
			t.Errorf("%d of %d out is too much", ejected+1, taking)
		}
	}
}

func TestPaces(t *testing.T) {
	for _, c := range []struct {
		own     regions.Permille
		samples int
		median  regions.Permille
		want    regions.Permille
	}{
		{2000, 4, 1000, 2000}, {2000, 3, 1000, 1000}, {1499, 16, 1000, 1000}, {1500, 16, 1000, 1500},
		{500, 16, 1000, 1000}, {2000, 16, 0, 1000}, {1_000_000, 16, 100, 100_000},
	} {
		if got := outlier.Pace(c.own, c.samples, c.median); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if got := outlier.ResidencePace(1_900_000, 8, 1_000_000); got != regions.Whole {
		t.Errorf("1.9 times the residence is %d", got)
	}
	if got := outlier.ResidencePace(3_000_000, 8, 1_000_000); got != 3000 {
		t.Errorf("three times the residence is %d", got)
	}
	if got := outlier.ResidencePace(3_000_000, 7, 1_000_000); got != regions.Whole {
		t.Errorf("seven samples say %d", got)
	}
	if got := outlier.Median([]int{4, 1, 3, 2}); got != 2 {
		t.Errorf("median %d, want the lower of the two in the middle", got)
	}
}

// TestOpenIsBounded: whatever happens, a pod that takes requests has between one
// slot and all of them open, and one that does not has none.
func TestOpenIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, s, now := outlier.DefaultPolicy(), outlier.State{}, epoch
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "passed")))
			n := rapid.IntRange(1, 64).Draw(t, "slots")
			kind := outlier.Kind(rapid.IntRange(int(outlier.Tick), int(outlier.Pardoned)).Draw(t, "kind"))
			s = p.Step(s, outlier.Event{Kind: kind, Slots: n, Waited: rapid.Bool().Draw(t, "waited")}, now)
			open := s.Open(n)
			if s.Pod().Takes() != (open > 0) || open > n || s.Pod() == regions.PodReady && open != n {
				t.Fatalf("%v with %d of %d open", s.Pod(), open, n)
			}
			if s.Pod() == regions.PodEjected && !s.Until().After(now) {
				t.Fatalf("ejected until %v, at %v", s.Until(), now)
			}
		}
	})
}

// TestSmallSteps: how often time is looked at makes no difference.
func TestSmallSteps(t *testing.T) {
	p := outlier.DefaultPolicy()
	for _, every := range []time.Duration{700 * time.Nanosecond, 333 * time.Microsecond, 7 * time.Millisecond} {
		s := p.Step(outlier.State{}, outlier.Event{Kind: outlier.Up, Slots: slots}, epoch)
		until := epoch.Add(min(5*time.Second, 100_000*every))
		for now := epoch; !now.After(until); now = now.Add(every) {
			s = p.Step(s, outlier.Event{Kind: outlier.Tick, Slots: slots}, now)
		}
		once := p.Step(p.Step(outlier.State{}, outlier.Event{Kind: outlier.Up, Slots: slots}, epoch), outlier.Event{Kind: outlier.Tick, Slots: slots}, until)
		if s.Open(slots) != once.Open(slots) {
			t.Errorf("every %v: %d open, by one step %d", every, s.Open(slots), once.Open(slots))
		}
	}
}
