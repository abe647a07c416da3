package probe_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/probe"
)

// epoch is where the tables' time begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const ms = time.Millisecond

// step is one sight at a time after the epoch, and the state that it leads to.
type step struct {
	at      time.Duration
	sight   regions.Sight
	took    time.Duration
	want    regions.PodState
	suspect bool
}

func TestStep(t *testing.T) {
	const (
		gone, warming, ready = regions.PodGone, regions.PodWarming, regions.PodReady
		ejected, draining    = regions.PodEjected, regions.PodDraining
	)
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"ready at first sight is ready", []step{
			{0, regions.SawReady, 0, ready, false},
		}},
		{"one timeout before the first answer is no outage", []step{
			{400 * ms, regions.SawTimeout, 400 * ms, gone, false},
			{500 * ms, regions.SawReady, 0, ready, false},
		}},
		{"loads, then starts slowly", []step{
			{0, regions.SawNotReady, 0, gone, false},
			{500 * ms, regions.SawReady, 0, warming, false},
			{10000 * ms, regions.SawReady, 0, warming, false},
			{10500 * ms, regions.SawReady, 0, ready, false},
		}},
		{"refused is out at once", []step{
			{0, regions.SawReady, 0, ready, false},
			{500 * ms, regions.SawRefused, 0, gone, false},
			{1000 * ms, regions.SawRefused, 0, gone, false},
			{1500 * ms, regions.SawReady, 0, warming, false},
		}},
		{"not ready is out at once", []step{
			{0, regions.SawReady, 0, ready, false},
			{500 * ms, regions.SawNotReady, 0, gone, false},
		}},
		{"closed without a byte drains, then dies", []step{
			{0, regions.SawReady, 0, ready, false},
			{500 * ms, regions.SawClosed, 0, draining, false},
			{600 * ms, regions.SawLost, 0, draining, false},
			{1000 * ms, regions.SawClosed, 0, draining, false},
			{1500 * ms, regions.SawRefused, 0, gone, false},
		}},
		{"what never served does not drain", []step{
			{0, regions.SawClosed, 0, gone, false},
			{500 * ms, regions.SawReady, 0, warming, false},
		}},
		{"a single timeout is forgiven", []step{
			{0, regions.SawReady, 0, ready, false},
			{900 * ms, regions.SawTimeout, 400 * ms, ready, true},
			{910 * ms, regions.SawReady, 0, ready, false},
			{1800 * ms, regions.SawTimeout, 400 * ms, ready, true},
		}},
		{"two timeouts in a row are not", []step{
			{0, regions.SawReady, 0, ready, false},
			{900 * ms, regions.SawTimeout, 400 * ms, ready, true},
			{1300 * ms, regions.SawTimeout, 400 * ms, gone, false},
		}},
		{"a served request between two timeouts proves nothing", []step{
			{0, regions.SawReady, 0, ready, false},
			{900 * ms, regions.SawTimeout, 400 * ms, ready, true},
			{950 * ms, regions.SawServed, 0, ready, true},
			{1300 * ms, regions.SawTimeout, 400 * ms, gone, false},
		}},
		{"a draining pod that falls silent is gone", []step{
			{0, regions.SawReady, 0, ready, false},
			{500 * ms, regions.SawClosed, 0, draining, false},
			{1400 * ms, regions.SawTimeout, 400 * ms, draining, false},
			{1900 * ms, regions.SawTimeout, 400 * ms, gone, false},
		}},
		{"one lost request makes suspect, a probe clears", []step{
			{0, regions.SawReady, 0, ready, false},
			{100 * ms, regions.SawLost, 0, ready, true},
			{101 * ms, regions.SawReady, 1 * ms, ready, false},
			{102 * ms, regions.SawLost, 0, ready, true},
		}},
		{"two lost requests at once eject", []step{
			{0, regions.SawReady, 0, ready, false},
			{100 * ms, regions.SawLost, 0, ready, true},
			{100 * ms, regions.SawLost, 0, ejected, false},
			{100 * ms, regions.SawLost, 0, ejected, false},
			{101 * ms, regions.SawRefused, 1 * ms, gone, false},
		}},
		{"two lost requests far apart do not", []step{
			{0, regions.SawReady, 0, ready, false},
			{100 * ms, regions.SawLost, 0, ready, true},
			{1101 * ms, regions.SawLost, 0, ready, true},
			{1500 * ms, regions.SawLost, 0, ejected, false},
		}},
		{"lost, then refused to a request", []step{
			{0, regions.SawReady, 0, ready, false},
			{100 * ms, regions.SawLost, 0, ready, true},
			{110 * ms, regions.SawRefused, 0, gone, false},
		}},
		{"lost, then one timeout", []step{
			{0, regions.SawReady, 0, ready, false},
			{100 * ms, regions.SawLost, 0, ready, true},
			{500 * ms, regions.SawTimeout, 400 * ms, gone, false},
		}},
		{"one timeout, then lost", []step{
			{0, regions.SawReady, 0, ready, false},
			{900 * ms, regions.SawTimeout, 400 * ms, ready, true},
			{1000 * ms, regions.SawLost, 0, ejected, false},
		}},
		{"an answer from before the crash is void", []step{
			{0, regions.SawReady, 0, ready, false},
			{500 * ms, regions.SawLost, 0, ready, true},
			{501 * ms, regions.SawReady, 2 * ms, ready, true},
			{502 * ms, regions.SawRefused, 0, gone, false},
			{503 * ms, regions.SawReady, 10 * ms, gone, false},
		}},
		{"a warming pod falls as a ready one does", []step{
			{0, regions.SawNotReady, 0, gone, false},
			{500 * ms, regions.SawReady, 0, warming, false},
			{600 * ms, regions.SawLost, 0, warming, true},
			{601 * ms, regions.SawTimeout, 0, gone, false},
		}},
		{"each further fall is held for longer", []step{
			{0, regions.SawReady, 0, ready, false},
			{100 * ms, regions.SawRefused, 0, gone, false}, // first: no hold
			{200 * ms, regions.SawReady, 0, warming, false},
			{300 * ms, regions.SawRefused, 0, gone, false}, // second: 1 s
			{1299 * ms, regions.SawReady, 0, gone, false},
			{1300 * ms, regions.SawReady, 0, warming, false},
			{1400 * ms, regions.SawRefused, 0, gone, false}, // third: 2 s
			{3399 * ms, regions.SawReady, 0, gone, false},
			{3400 * ms, regions.SawReady, 0, warming, false},
			{63500 * ms, regions.SawReady, 0, ready, false}, // a minute later all is forgotten
			{63600 * ms, regions.SawRefused, 0, gone, false},
			{63700 * ms, regions.SawReady, 0, warming, false},
		}},
		{"unknown sights and served requests change nothing", []step{
			{0, 0, 0, gone, false},
			{1 * ms, regions.SawServed, 0, gone, false},
			{2 * ms, regions.SawLost, 0, gone, false},
			{3 * ms, regions.SawReady, 0, ready, false},
			{4 * ms, regions.SawServed, 0, ready, false},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy, state := probe.DefaultPolicy(), probe.State{}
			for i, s := range c.steps {
				obs := regions.Observation{Pod: "a", Model: "llama", Sight: s.sight, Took: s.took}
				before := state
				state = policy.Step(state, obs, epoch.Add(s.at))
				if state.Pod() != s.want || state.Suspect() != s.suspect {
					t.Fatalf("step %d, at %v after %v: %v (suspect %v), want %v (suspect %v)",
						i+1, s.at, s.sight, state.Pod(), state.Suspect(), s.want, s.suspect)
				}
				if changed := state.Pod() != before.Pod(); changed && (state.Why() == "" || !state.Since().Equal(epoch.Add(s.at))) {
					t.Fatalf("step %d: changed without a reason or since %v: %q", i+1, state.Since(), state.Why())
				}
			}
		})
	}
}

func TestNoSlowStart(t *testing.T) {
	policy := probe.DefaultPolicy()
	policy.SlowStart = 0
	var state probe.State
	for i, sight := range []regions.Sight{regions.SawNotReady, regions.SawReady} {
		state = policy.Step(state, regions.Observation{Sight: sight}, epoch.Add(time.Duration(i)*time.Second))
	}
	if state.Pod() != regions.PodReady {
		t.Fatalf("without slow start a pod that is back is ready, got %v", state.Pod())
	}
}

func TestHoldIsBounded(t *testing.T) {
	policy, now := probe.DefaultPolicy(), epoch
	state := policy.Step(probe.State{}, regions.Observation{Sight: regions.SawReady}, now)
	for fall := range 40 {
		now = now.Add(time.Second)
		state = policy.Step(state, regions.Observation{Sight: regions.SawRefused}, now)
		now = now.Add(policy.HoldMax)
		state = policy.Step(state, regions.Observation{Sight: regions.SawReady}, now)
		if !state.Pod().Takes() {
			t.Fatalf("fall %d: still held after %v", fall+1, policy.HoldMax)
		}
	}
}

func TestDue(t *testing.T) {
	policy := probe.DefaultPolicy()
	type sights []struct {
		at    time.Duration
		sight regions.Sight
	}
	for _, c := range []struct {
		name   string
		sights sights
		probed time.Duration // of the newest probe
		want   time.Duration // after the epoch
	}{
		{"ready", sights{{1 * ms, regions.SawReady}}, 0, 500 * ms},
		{"suspect after a lost request", sights{{1 * ms, regions.SawReady}, {100 * ms, regions.SawLost}}, 0, 100 * ms},
		{"suspect, but just probed", sights{{1 * ms, regions.SawReady}, {2 * ms, regions.SawLost}}, 0, 20 * ms},
		{"suspect, probe in flight is newer", sights{{1 * ms, regions.SawReady}, {2 * ms, regions.SawLost}}, 5 * ms, 505 * ms},
		{"after the first timeout", sights{{1 * ms, regions.SawReady}, {900 * ms, regions.SawTimeout}}, 500 * ms, 900 * ms},
		{"just ejected", sights{{1 * ms, regions.SawReady}, {100 * ms, regions.SawLost}, {101 * ms, regions.SawLost}}, 0, 101 * ms},
		{"just refused", sights{{1 * ms, regions.SawReady}, {500 * ms, regions.SawRefused}}, 500 * ms, 1000 * ms},
		{"gone for 8 s", sights{{0, regions.SawRefused}, {8000 * ms, regions.SawRefused}}, 8000 * ms, 9000 * ms},
		{"gone for long", sights{{0, regions.SawRefused}}, 3600 * time.Second, 3605 * time.Second},
		{"never answered", sights{{0, regions.SawTimeout}}, 0, 500 * ms},
	} {
		t.Run(c.name, func(t *testing.T) {
			var state probe.State
			for _, s := range c.sights {
				state = policy.Step(state, regions.Observation{Sight: s.sight}, epoch.Add(s.at))
			}
			if got := policy.Due(state, epoch.Add(c.probed)).Sub(epoch); got != c.want {
				t.Fatalf("due at %v, want %v", got, c.want)
			}
		})
	}
	if got := policy.Due(probe.State{}, time.Time{}); !got.IsZero() {
		t.Fatalf("a pod that was never probed is due at once, not at %v", got)
	}
}

// TestStepProperties checks over random histories what must hold of every one.
func TestStepProperties(t *testing.T) {
	policy := probe.DefaultPolicy()
	rapid.Check(t, func(t *rapid.T) {
		var state probe.State
		now := epoch
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * ms)
			obs := regions.Observation{
				Sight: regions.Sight(rapid.IntRange(0, 8).Draw(t, "sight")),
				Took:  time.Duration(rapid.IntRange(0, 400).Draw(t, "took")) * ms,
			}
			before := state
			state = policy.Step(before, obs, now)
			if err := checkStep(policy, before, state, obs.Sight, now); err != nil {
				t.Fatalf("%v, then %v: %v", before, obs.Sight, err)
			}
		}
	})
}

func checkStep(policy probe.Policy, before, after probe.State, sight regions.Sight, now time.Time) error {
	enters := after.Pod().Takes() && !before.Pod().Takes()
	switch sight {
	case regions.SawReady:
		if before.Pod().Takes() && !after.Pod().Takes() {
			return fmt.Errorf("a ready answer took it out")
		}
	case regions.SawRefused, regions.SawNotReady, regions.SawClosed:
		if after.Pod().Takes() {
			return fmt.Errorf("it still takes requests")
		}
	case regions.SawServed:
		if after.Pod() != before.Pod() || after.Suspect() != before.Suspect() {
			return fmt.Errorf("a served request changed it to %v", after.Pod())
		}
	}
	if enters && sight != regions.SawReady {
		return fmt.Errorf("it came in by something else than a ready answer")
	}
	if wait := policy.Due(after, now).Sub(now); wait < policy.Spacing || wait > policy.EveryOut {
		return fmt.Errorf("probed now, it is due in %v", wait)
	}
	return nil
}
