package probe_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/probe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a fake of pods that are probed, and the record of what was told.
// Times are since its beginning.
type world struct {
	mu      sync.Mutex
	begin   time.Time
	does    map[regions.PodID]regions.Sight // what a probe sees; a timeout takes the whole timeout
	took    time.Duration                   // how long an answer takes
	probes  map[regions.PodID][]time.Duration
	running int
	most    int // probes at a time
	changes []change
}

type change struct {
	at       time.Duration
	pod      regions.PodID
	from, to regions.PodState
}

func newWorld() *world {
	return &world{begin: time.Now(), does: map[regions.PodID]regions.Sight{}, probes: map[regions.PodID][]time.Duration{}}
}

func (w *world) Probe(ctx context.Context, pod regions.Pod, _ regions.ModelName) regions.Observation {
	w.mu.Lock()
	w.probes[pod.ID] = append(w.probes[pod.ID], time.Since(w.begin))
	w.running++
	w.most = max(w.most, w.running)
	sight, took := w.does[pod.ID], w.took
	w.mu.Unlock()
	if sight == regions.SawTimeout {
		<-ctx.Done()
	} else if took > 0 {
		wait(took)
	}
	w.mu.Lock()
	w.running--
	w.mu.Unlock()
	return regions.Observation{Sight: sight}
}

// wait lets virtual time pass.
func wait(d time.Duration) { <-time.After(d) }

func (w *world) set(id regions.PodID, sight regions.Sight) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.does[id] = sight
}

func (w *world) onChange(pod regions.PodID, _ regions.ModelName, from, to regions.PodState, _ string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, change{time.Since(w.begin), pod, from, to})
}

// told is what was told since the last call.
func (w *world) told() []change {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.changes
	w.changes = nil
	return out
}

func (w *world) probed(id regions.PodID) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.probes[id])
}

// run starts a runner in the bubble and stops it at the test's end.
func run(t *testing.T, w *world, o probe.Options) *probe.Runner {
	t.Helper()
	o.OnChange = w.onChange
	r := probe.NewRunner(o, w)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func pods(ids ...regions.PodID) []regions.Pod {
	out := make([]regions.Pod, len(ids))
	for i, id := range ids {
		out[i] = regions.Pod{
			ID: id, HTTP: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 8000),
			Models: []regions.PodModel{{Name: "llama", Slots: 8}},
		}
	}
	return out
}

func TestCrashIsOutWithinASecond(t *testing.T) {
	for _, c := range []struct {
		dies  regions.Sight
		bound time.Duration
	}{
		{regions.SawRefused, 500 * ms},
		{regions.SawNotReady, 500 * ms},
		{regions.SawClosed, 500 * ms},
		{regions.SawTimeout, 1300 * ms},
	} {
		t.Run(c.dies.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.set("a", regions.SawReady)
				r := run(t, w, probe.DefaultOptions())
				r.SetPods(pods("a"))
				wait(3333 * ms)
				if got := w.told(); len(got) != 1 || got[0].to != regions.PodReady || got[0].at != 0 {
					t.Fatalf("want ready at once, told %v", got)
				}
				w.set("a", c.dies)
				died := time.Since(w.begin)
				wait(2 * time.Second)
				got := w.told()
				if len(got) == 0 || got[0].to.Takes() || got[0].at-died > c.bound {
					t.Fatalf("died at %v, told %v", died, got)
				}
			})
		})
	}
}

// TestSuspicionIsTold: the first time that a pod does not answer, within a second of its
// loss, and when it answers again.
func TestSuspicionIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set("a", regions.SawReady)
		o := probe.DefaultOptions()
		o.Policy.Timeouts = 3 // the second probe begins with the first one's end
		var mu sync.Mutex
		var all []string
		told := func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}
		o.OnSuspect = func(pod regions.PodID, model regions.ModelName, suspect bool) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, fmt.Sprint(pod, " ", model, " ", suspect, " ", w.told()))
		}
		r := run(t, w, o)
		r.SetPods(pods("a"))
		wait(3333 * ms)
		w.told()
		w.set("a", regions.SawTimeout)
		lost := time.Now()
		for len(told()) == 0 {
			wait(5 * ms)
		}
		if took := time.Since(lost); took > 905*ms || told()[0] != "a llama true []" {
			t.Errorf("after %v: %q", took, told())
		}
		w.set("a", regions.SawReady)
		wait(time.Second)
		if len(told()) != 2 || told()[1] != "a llama false []" {
			t.Errorf("it has answered: %q", told())
		}
		w.set("a", regions.SawTimeout)
		wait(2 * time.Second)
		if all := told(); len(all) != 4 || !strings.HasPrefix(all[3], "a llama false [{") {
			t.Errorf("it is gone, and then no suspect: %q", all)
		}
	})
}

func TestLostRequestIsAskedAboutAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set("a", regions.SawReady)
		r := run(t, w, probe.DefaultOptions())
		r.SetPods(pods("a"))
		wait(1200 * ms)
		before := len(w.probed("a"))
		lost := regions.Observation{Pod: "a", Model: "llama", Sight: regions.SawLost}
		r.Observe(lost)
		synctest.Wait()
		if got := w.probed("a"); len(got) != before+1 || got[before] != 1200*ms {
			t.Fatalf("lost a request at 1.2 s, probes %v", got)
		}
		w.told()
		wait(ms)
		w.set("a", regions.SawRefused)
		r.Observe(lost)
		wait(20 * ms) // the least space between two probes
		synctest.Wait()
		if got := w.told(); len(got) != 1 || got[0].to != regions.PodGone {
			t.Fatalf("told %v", got)
		}
		r.Observe(regions.Observation{Pod: "stranger", Model: "llama", Sight: regions.SawLost})
		r.Observe(regions.Observation{Pod: "a", Model: "stranger", Sight: regions.SawLost})
		synctest.Wait()
		if got := w.told(); len(got) != 0 {
			t.Fatalf("told of pods that are not set: %v", got)
		}
	})
}

func TestTwoLostRequestsNeedNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set("a", regions.SawReady)
		w.took = 100 * ms // slow enough for both to come before an answer
		r := run(t, w, probe.DefaultOptions())
		r.SetPods(pods("a"))
		wait(time.Second)
		w.told()
		for range 2 {
			r.Observe(regions.Observation{Pod: "a", Model: "llama", Sight: regions.SawLost})
		}
		if got := w.told(); len(got) != 1 || got[0].to != regions.PodEjected {
			t.Fatalf("told %v", got)
		}
		wait(time.Second) // it answers after all
		if got := w.told(); len(got) != 1 || got[0].to != regions.PodWarming {
			t.Fatalf("told %v", got)
		}
	})
}

func TestSlowPodDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set("slow", regions.SawTimeout)
		w.set("quick", regions.SawReady)
		r := run(t, w, probe.DefaultOptions())
		r.SetPods(pods("slow", "quick"))
		wait(20 * time.Second)
		quick := w.probed("quick")
		if len(quick) < 40 {
			t.Fatalf("%d probes of the quick pod in 20 s, want 40 at least", len(quick))
		}
		for i := 1; i < len(quick); i++ {
			if gap := quick[i] - quick[i-1]; gap > 500*ms || gap < 450*ms {
				t.Fatalf("probes %v apart", gap)
			}
		}
		if n := len(w.probed("slow")); n > 25 {
			t.Errorf("%d probes of a pod that has been gone for 20 s", n)
		}
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var ids []regions.PodID
		for i := range 40 {
			ids = append(ids, regions.PodID(fmt.Sprint("pod-", i)))
			w.set(ids[i], regions.SawTimeout)
		}
		o := probe.DefaultOptions()
		o.Concurrency = 4
		r := run(t, w, o)
		r.SetPods(pods(ids...))
		wait(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.most != 4 {
			t.Errorf("%d probes at a time, want 4", w.most)
		}
		if len(w.probes) != len(ids) {
			t.Errorf("%d of %d pods were probed", len(w.probes), len(ids))
		}
	})
}

func TestSetPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set("a", regions.SawReady)
		w.set("b", regions.SawReady)
		r := run(t, w, probe.DefaultOptions())
		set := pods("a", "b")
		r.SetPods(set)
		wait(time.Second)
		w.told()

		// What stays keeps its state, whatever else changes of it.
		set[0].Terminating = true
		r.SetPods(set)
		wait(time.Second)
		if got := w.told(); len(got) != 0 {
			t.Fatalf("nothing changed, told %v", got)
		}

		// What is removed is neither probed nor told of.
		r.SetPods(set[:1])
		probes := len(w.probed("b"))
		w.set("b", regions.SawRefused)
		r.Observe(regions.Observation{Pod: "b", Model: "llama", Sight: regions.SawRefused})
		wait(time.Second)
		if got := w.told(); len(got) != 0 || len(w.probed("b")) != probes {
			t.Fatalf("told %v of a removed pod, %d probes more", got, len(w.probed("b"))-probes)
		}

		// Another address is another server: told of at its first sight, even
		// though gone is also what a pod is before.
		w.set("a", regions.SawRefused)
		set[0].HTTP = netip.MustParseAddrPort("[2001:db8::1]:8000")
		r.SetPods(set[:1])
		synctest.Wait()
		if got := w.told(); len(got) != 1 || got[0].from != regions.PodGone || got[0].to != regions.PodGone {
			t.Fatalf("told %v", got)
		}
	})
}

func TestProbeThatCouldNotBeMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set("a", regions.SawReady)
		r := run(t, w, probe.DefaultOptions())
		r.SetPods(pods("a"))
		wait(time.Second)
		w.told()
		w.set("a", 0)
		wait(5 * time.Second)
		if got := w.told(); len(got) != 0 {
			t.Fatalf("told %v", got)
		}
		if n := len(w.probed("a")); n > 20 {
			t.Fatalf("%d probes in 6 s", n)
		}
	})
}

func TestRunEndsWithItsProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set("a", regions.SawTimeout)
		o := probe.DefaultOptions()
		o.OnChange = w.onChange
		r := probe.NewRunner(o, w)
		r.SetPods(pods("a")) // before Run
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		wait(10 * ms)
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if w.running != 0 || len(w.probes) != 1 {
			t.Fatalf("%d probes are left running, %d pods probed", w.running, len(w.probes))
		}
		if got := w.told(); len(got) != 0 {
			t.Fatalf("the end of the runner is no sight of a pod, told %v", got)
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.set("a", regions.SawReady)
		w.set("b", regions.SawRefused)
		o := probe.DefaultOptions()
		o.Registry = prometheus.NewRegistry()
		r := run(t, w, o)
		r.SetPods(pods("a", "b"))
		wait(time.Second)
		r.SetPods(pods("a"))
		families, err := o.Registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, f := range families {
			fmt.Fprintln(&text, f.String())
		}
		for _, want := range []string{"rhumb_probe_sights_total", "rhumb_probe_state_changes_total", "rhumb_probe_duration_seconds", `value:"a"`} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("metrics lack %s:\n%s", want, text.String())
			}
		}
		if strings.Contains(text.String(), `value:"b"`) {
			t.Errorf("a removed pod is left in the metrics:\n%s", text.String())
		}
	})
}
