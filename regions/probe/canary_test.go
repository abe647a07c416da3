package probe_test

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/probe"
)

// withCanary is the default policy with a canary each 30 s.
func withCanary() probe.Policy {
	p := probe.DefaultPolicy()
	p.Canary = 30 * time.Second
	return p
}

func TestStepCanary(t *testing.T) {
	const sec, gone, ready, warming = time.Second, regions.PodGone, regions.PodReady, regions.PodWarming
	type step struct {
		at     time.Duration
		canary bool
		sight  regions.Sight
		took   time.Duration
		want   regions.PodState
		due    time.Duration // of the next canary, if the newest began as this one did; -1 for none
	}
	first := step{0, false, regions.SawReady, 0, ready, 30 * sec}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"good ones change nothing", []step{first, {30 * sec, true, regions.SawReady, 1 * sec, ready, 59 * sec}, {60 * sec, true, regions.SawReady, 1 * sec, ready, 89 * sec}}},
		{"two in a row are out, whatever the probes say, until one is good", []step{
			first, {40 * sec, true, regions.SawTimeout, 10 * sec, ready, 35 * sec}, {41 * sec, false, regions.SawReady, 0, ready, 46 * sec},
			{50 * sec, true, regions.SawTimeout, 10 * sec, gone, 45 * sec}, {51 * sec, false, regions.SawReady, 0, gone, 56 * sec},
			{60 * sec, true, regions.SawNotReady, 1 * sec, gone, 64 * sec}, {3600 * sec, false, regions.SawReady, 0, gone, 3605 * sec},
			{3610 * sec, true, regions.SawReady, 1 * sec, warming, 3640 * sec},
		}},
		{"one that fails is forgiven", []step{
			first, {30 * sec, true, regions.SawNotReady, 1 * sec, ready, 34 * sec}, {35 * sec, true, regions.SawReady, 1 * sec, ready, 64 * sec},
			{65 * sec, true, regions.SawNotReady, 1 * sec, ready, 69 * sec}, {70 * sec, true, regions.SawNotReady, 1 * sec, gone, 74 * sec},
		}},
		{"and forgotten by a request that is served", []step{
			first, {30 * sec, true, regions.SawNotReady, 1 * sec, ready, 34 * sec}, {31 * sec, false, regions.SawServed, 0, ready, 61 * sec},
			{61 * sec, true, regions.SawNotReady, 0, ready, 66 * sec},
		}},
		{"a busy pod keeps them waiting, and none counts", []step{
			first, {35 * sec, false, regions.SawServed, 0, ready, 65 * sec}, {40 * sec, true, regions.SawTimeout, 10 * sec, ready, 65 * sec},
			{60 * sec, false, regions.SawServed, 0, ready, 90 * sec}, {61 * sec, true, regions.SawTimeout, 10 * sec, ready, 90 * sec},
		}},
		{"nothing learnt is no failure", []step{first, {30 * sec, true, 0, 0, ready, 60 * sec}, {60 * sec, true, 0, 0, ready, 90 * sec}}},
		{"a pod that is out for another reason is sent none, and back without", []step{
			first, {30 * sec, true, regions.SawNotReady, 0, ready, 35 * sec}, {31 * sec, false, regions.SawRefused, 0, gone, -1},
			{32 * sec, true, regions.SawRefused, 0, gone, -1}, {33 * sec, false, regions.SawReady, 0, warming, 63 * sec},
		}},
		{"a process that starts anew needs one too", []step{
			first, {30 * sec, true, regions.SawNotReady, 0, ready, 35 * sec}, {35 * sec, true, regions.SawNotReady, 0, gone, 40 * sec},
			{36 * sec, false, regions.SawRefused, 0, gone, 41 * sec}, {38 * sec, false, regions.SawReady, 0, gone, 43 * sec},
			{39 * sec, true, regions.SawReady, 4 * sec, gone, 40 * sec}, {41 * sec, true, regions.SawReady, 1 * sec, warming, 71 * sec},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy, state := withCanary(), probe.State{}
			for i, s := range c.steps {
				obs, now := regions.Observation{Sight: s.sight, Took: s.took}, epoch.Add(s.at)
				if s.canary {
					state = policy.StepCanary(state, obs, now)
				} else {
					state = policy.Step(state, obs, now)
				}
				asked := now.Add(-s.took)
				if i == 0 {
					asked = time.Time{}
				}
				due, wanted := policy.DueCanary(state, asked)
				if state.Pod() != s.want || wanted != (s.due >= 0) || wanted && due.Sub(epoch) != s.due {
					t.Fatalf("step %d: %v (%s), the next due at %v, %v; want %v, %v", i, state.Pod(), state.Why(), due.Sub(epoch), wanted, s.want, s.due)
				}
				if _, wanted := probe.DefaultPolicy().DueCanary(state, asked); wanted {
					t.Fatal("one is due where none is configured")
				}
			}
			if state.Pod() == gone && !strings.Contains(state.Why(), "canary") {
				t.Errorf("out, because %q", state.Why())
			}
		})
	}
}

// TestCanaryProperties checks over random histories: a canary brings in only by a
// good one, takes out only by a bad one, and only a good one brings back whom they
// took out.
func TestCanaryProperties(t *testing.T) {
	policy := withCanary()
	rapid.Check(t, func(t *rapid.T) {
		var state probe.State
		now, barred := epoch, false
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * ms)
			obs := regions.Observation{
				Sight: regions.Sight(rapid.IntRange(0, 8).Draw(t, "sight")),
				Took:  time.Duration(rapid.IntRange(0, 400).Draw(t, "took")) * ms,
			}
			before, canary := state, rapid.Bool().Draw(t, "canary")
			if !canary {
				state = policy.Step(before, obs, now)
				if barred && state.Pod().Takes() {
					t.Fatalf("%v brought in a pod that its canaries took out", obs.Sight)
				}
				continue
			}
			state = policy.StepCanary(before, obs, now)
			enters, leaves := state.Pod().Takes() && !before.Pod().Takes(), before.Pod().Takes() && !state.Pod().Takes()
			switch good := obs.Sight == regions.SawReady; {
			case good && leaves, !good && enters, obs.Sight == 0 && state != before:
				t.Fatalf("a canary that saw %v: from %v to %v", obs.Sight, before.Pod(), state.Pod())
			case good:
				barred = barred && !state.Pod().Takes() && state == before
			case leaves:
				barred = true
			}
		}
	})
}

// zombie is a canary that sees what it is told to; a timeout takes the whole
// timeout.
type zombie struct {
	sees  atomic.Uint32
	asked atomic.Int32
}

func (z *zombie) Probe(ctx context.Context, _ regions.Pod, _ regions.ModelName) regions.Observation {
	z.asked.Add(1)
	sight := regions.Sight(z.sees.Load())
	if sight == regions.SawTimeout {
		<-ctx.Done()
	}
	return regions.Observation{Sight: sight}
}

// TestZombieIsFoundByItsCanary: its probes say that it is ready all the time, and
// go on beside a canary that hangs.
func TestZombieIsFoundByItsCanary(t *testing.T) {
	for _, sight := range []regions.Sight{regions.SawTimeout, regions.SawNotReady} {
		synctest.Test(t, func(t *testing.T) {
			w, z := newWorld(), &zombie{}
			w.set("a", regions.SawReady)
			z.sees.Store(uint32(regions.SawReady))
			o := probe.DefaultOptions()
			o.Policy, o.Canary, o.Registry = withCanary(), z, prometheus.NewRegistry()
			r := run(t, w, o)
			r.SetPods(pods("a"))
			wait(2 * time.Minute)
			if got := w.told(); len(got) != 1 || got[0].to != regions.PodReady || z.asked.Load() < 3 || z.asked.Load() > 5 {
				t.Fatalf("told %v after %d canaries", got, z.asked.Load())
			}
			z.sees.Store(uint32(sight))
			died := time.Since(w.begin)
			// Its interval, two timeouts, the doubt between them, and a look.
			wait(30*time.Second + 2*o.CanaryTimeout + 5*time.Second + time.Second)
			got := w.told()
			if len(got) != 1 || got[0].to != regions.PodGone {
				t.Fatalf("%v: died at %v, told %v", sight, died, got)
			}
			probes := w.probed("a")
			for i := 1; i < len(probes); i++ {
				if gap := probes[i] - probes[i-1]; gap > o.Policy.EveryOut {
					t.Errorf("%v: %v between two probes", sight, gap)
				}
			}
			wait(10 * time.Minute)
			if got := w.told(); len(got) != 0 {
				t.Fatalf("%v: it does not generate, told %v", sight, got)
			}
			z.sees.Store(uint32(regions.SawReady))
			wait(o.CanaryTimeout + 10*time.Second)
			if got := w.told(); len(got) == 0 || got[0].to != regions.PodWarming {
				t.Fatalf("%v: it generates again, told %v", sight, got)
			}
			if n := testutil.ToFloat64(counter(t, o.Registry, "rhumb_probe_canaries_total", sight.String())); n < 2 {
				t.Errorf("%v: %v canaries are counted", sight, n)
			}
			r.SetPods(nil)
			if n := testutil.CollectAndCount(o.Registry, "rhumb_probe_canaries_total"); n != 0 {
				t.Errorf("%v: %d series of a pod that is gone", sight, n)
			}
		})
	}
}

// counter is one series of a registry as a collector.
func counter(t *testing.T, registry *prometheus.Registry, name, sight string) prometheus.Collector {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name})
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetName() == "sight" && l.GetValue() == sight {
					c.Add(m.GetCounter().GetValue())
				}
			}
		}
	}
	return c
}

// TestRequestsSpareTheCanary: a pod that serves a request now and then is asked for
// no tokens.
func TestRequestsSpareTheCanary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, z := newWorld(), &zombie{}
		w.set("a", regions.SawReady)
		z.sees.Store(uint32(regions.SawReady))
		o := probe.DefaultOptions()
		o.Policy, o.Canary = withCanary(), z
		r := run(t, w, o)
		r.SetPods(pods("a"))
		wait(2 * time.Minute)
		before := z.asked.Load()
		for range 30 {
			r.Observe(regions.Observation{Pod: "a", Model: "llama", Sight: regions.SawServed})
			wait(10 * time.Second)
		}
		if now := z.asked.Load(); before < 3 || now > before+1 { // one may have been under way
			t.Errorf("%d canaries on an idle pod, %d more while it served", before, now-before)
		}
	})
}

// TestModelsOfAPodAreJudgedEach: one model of a pod that is not ready is out within
// a second, and the other stays.
func TestModelsOfAPodAreJudgedEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		models := proberFunc(func(_ context.Context, _ regions.Pod, model regions.ModelName) regions.Observation {
			if model == "mistral" && broken.Load() {
				return regions.Observation{Sight: regions.SawNotReady}
			}
			return regions.Observation{Sight: regions.SawReady}
		})
		var mu sync.Mutex
		states := map[regions.ModelName]regions.PodState{} // guarded by mu
		o := probe.DefaultOptions()
		o.OnChange = func(_ regions.PodID, model regions.ModelName, _, to regions.PodState, _ string) {
			mu.Lock()
			defer mu.Unlock()
			states[model] = to
		}
		r := probe.NewRunner(o, models)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		r.SetPods([]regions.Pod{{
			ID: "a", HTTP: netip.MustParseAddrPort("192.0.2.1:8000"),
			Models: []regions.PodModel{{Name: "llama", Slots: 8}, {Name: "mistral", Slots: 8}},
		}})
		wait(3333 * ms)
		broken.Store(true)
		wait(time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if states["llama"] != regions.PodReady || states["mistral"] != regions.PodGone {
			t.Errorf("states %v", states)
		}
	})
}

type proberFunc func(context.Context, regions.Pod, regions.ModelName) regions.Observation

func (f proberFunc) Probe(ctx context.Context, pod regions.Pod, model regions.ModelName) regions.Observation {
	return f(ctx, pod, model)
}
