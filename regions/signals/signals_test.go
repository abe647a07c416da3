package signals_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/signals"
	"github.com/rhumb-lb/rhumb/regions/triton"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world are pods that say what they are told to, by their addresses, and the record
// of what was asked and told. Times are since its beginning.
type world struct {
	begin time.Time

	mu       sync.Mutex // guards what follows
	pages    map[string]string
	hangs    map[string]bool
	marks    map[string]regions.Fingerprint
	slow     time.Duration // what a fingerprint takes
	scrapes  map[string][]time.Duration
	asked    map[string]int // for fingerprints
	running  int
	most     int // readings at a time
	inFlight map[regions.PodID]int
	facts    map[string]regions.Facts // the newest, by pod and model
	told     int
}

func newWorld() *world {
	return &world{
		begin: time.Now(), pages: map[string]string{}, hangs: map[string]bool{}, marks: map[string]regions.Fingerprint{},
		scrapes: map[string][]time.Duration{}, asked: map[string]int{}, inFlight: map[regions.PodID]int{}, facts: map[string]regions.Facts{},
	}
}

func (w *world) with(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

func (w *world) Metrics(ctx context.Context, at netip.AddrPort) (triton.Metrics, error) {
	var page string
	var hangs bool
	w.with(func() {
		w.scrapes[at.String()] = append(w.scrapes[at.String()], time.Since(w.begin))
		w.running++
		w.most = max(w.most, w.running)
		page, hangs = w.pages[at.String()], w.hangs[at.String()]
	})
	defer w.with(func() { w.running-- })
	if hangs {
		<-ctx.Done()
		return triton.Metrics{}, ctx.Err()
	}
	if page == "" {
		return triton.Metrics{}, errors.New("the answer is empty")
	}
	return triton.DecodeMetrics([]byte(page))
}

func (w *world) Fingerprint(_ context.Context, at netip.AddrPort, model regions.ModelName) (regions.Fingerprint, error) {
	w.mu.Lock()
	key := at.String() + " " + string(model)
	w.asked[key]++
	mark, slow := w.marks[key], w.slow
	w.mu.Unlock()
	<-time.After(slow)
	if mark == (regions.Fingerprint{}) {
		return mark, errors.New("no such model")
	}
	return mark, nil
}

func (w *world) learn(pod regions.PodID, model regions.ModelName, f regions.Facts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.facts[string(pod)+" "+string(model)] = f
	w.told++
}

// knows is what was told last of a pod's llama, without the time.
func (w *world) knows(pod regions.PodID) regions.Facts {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.facts[string(pod)+" llama"]
	f.At = time.Time{}
	return f
}

func (w *world) scraped(at string) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Duration{}, w.scrapes[at]...)
}

// wait lets virtual time pass.
func wait(d time.Duration) { <-time.After(d); synctest.Wait() }

// run starts signals in the bubble and stops them at the test's end.
func run(t *testing.T, w *world, o signals.Options) *signals.Signals {
	t.Helper()
	o.OnFacts = w.learn
	o.InFlight = func() map[regions.PodID]int {
		w.mu.Lock()
		defer w.mu.Unlock()
		out := map[regions.PodID]int{}
		for id, n := range w.inFlight {
			out[id] = n
		}
		return out
	}
	s := signals.New(o, w)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// pod is one at 192.0.2.n, with its metrics at port 8002.
func pod(id regions.PodID, n byte, models ...regions.PodModel) regions.Pod {
	at := netip.AddrFrom4([4]byte{192, 0, 2, n})
	if models == nil {
		models = []regions.PodModel{{Name: "llama"}, {Name: "mistral", Slots: 4}}
	}
	return regions.Pod{ID: id, HTTP: netip.AddrPortFrom(at, 8000), Metrics: netip.AddrPortFrom(at, 8002), Models: models}
}

const (
	oneAt, twoAt, movedAt = "192.0.2.1:8002", "192.0.2.2:8002", "192.0.2.3:8002"
	second                = time.Second
)

// busyPage is a page with the utilisation of two GPUs and some requests that wait.
func busyPage(busy float64, pending int) string {
	return fmt.Sprintf(`nv_gpu_utilization{gpu_uuid="a"} %v
nv_gpu_utilization{gpu_uuid="b"} %v
nv_inference_pending_request_count{model="llama",version="1"} %d
nv_inference_pending_request_count{model="stranger",version="1"} 9
`, busy, busy, pending)
}

// TestPodsMetrics follows what is shown of two pods over time: readings that fail,
// pages that grow old, pods that go, move and come back.
func TestPodsMetrics(t *testing.T) {
	const busy, pending, failures = "rhumb_pod_gpu_utilization_ratio", "rhumb_pod_pending_requests", "rhumb_pod_scrape_failures_total"
	oneBusy, onePending := busy+`{pod="one"} 0.5`, pending+`{model="llama",pod="one"} 3`
	twoBusy, twoPending := busy+`{pod="two"} 0.25`, pending+`{model="llama",pod="two"} 0`
	failed := func(n int) string { return fmt.Sprintf("%s %d", failures, n) }
	without := pod("without", 9)
	without.Metrics = netip.AddrPort{}
	one, two, moved, strange := pod("one", 1), pod("two", 2), pod("two", 3), pod("\xff", 2)
	mended := two
	mended.Metrics = netip.MustParseAddrPort(movedAt)
	other := moved
	other.Models = moved.Models[1:]
	synctest.Test(t, func(t *testing.T) {
		w, registry := newWorld(), prometheus.NewRegistry()
		says := func(at, page string) func(*signals.Signals) {
			return func(*signals.Signals) { w.with(func() { w.pages[at] = page }) }
		}
		set := func(pods ...regions.Pod) func(*signals.Signals) {
			return func(s *signals.Signals) { s.SetPods(pods) }
		}
		w.pages = map[string]string{oneAt: busyPage(.5, 3), twoAt: busyPage(.25, 0), movedAt: busyPage(1, 7)}
		s := run(t, w, signals.Options{Registry: registry})
		const mistral = pending + `{model="mistral",pod="one"} 2`
		for _, step := range []struct {
			what  string
			do    func(*signals.Signals)
			after time.Duration
			want  []string
		}{
			{"no pods yet", nil, 0, []string{failed(0)}},
			{"both are read at once", set(one, two, without), 0, []string{oneBusy, twoBusy, onePending, twoPending, failed(0)}},
			{"one can't be read", says(oneAt, "nv_gpu_utilization x\n"), 2 * second, []string{oneBusy, twoBusy, onePending, twoPending, failed(1)}},
			{"nor 14 s after its page", nil, 12 * second, []string{oneBusy, twoBusy, onePending, twoPending, failed(3)}},
			{"then it is stale", nil, 3 * second, []string{twoBusy, twoPending, failed(4)}},
			{"it is back, without a GPU", says(oneAt, `nv_inference_pending_request_count{model="mistral"} 2`+"\n"), 6 * second,
				[]string{twoBusy, twoPending, mistral, failed(4)}},
			{"an empty answer is none", says(oneAt, ""), 2 * second, []string{twoBusy, twoPending, mistral, failed(5)}},
			{"a set with the same pods changes nothing", set(one, two, without), 0, []string{twoBusy, twoPending, mistral, failed(5)}},
			{"one is gone", set(two, without), 0, []string{twoBusy, twoPending, failed(5)}},
			{"two has its metrics elsewhere", set(mended), 2 * second, []string{busy + `{pod="two"} 1`, pending + `{model="llama",pod="two"} 7`, failed(5)}},
			{"two is another server now", set(moved), 0, []string{busy + `{pod="two"} 1`, pending + `{model="llama",pod="two"} 7`, failed(5)}},
			{"which serves other models now", set(other), 0, []string{busy + `{pod="two"} 1`, failed(5)}},
			{"a name that can't be shown", set(strange), 0, []string{failed(5)}},
			{"all are gone", set(), 2 * second, []string{failed(5)}},
		} {
			if step.do != nil {
				step.do(s)
			}
			wait(step.after)
			expect(t, step.what, registry, step.want, busy, pending, failures)
		}
		if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
	})
}

// expect compares the samples of some metrics with lines.
func expect(t *testing.T, what string, registry *prometheus.Registry, want []string, names ...string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Error(err)
	}
	got := map[string]bool{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			line := f.GetName()
			if labels != nil {
				line += "{" + strings.Join(labels, ",") + "}"
			}
			for _, name := range names {
				if f.GetName() == name {
					got[fmt.Sprint(line, " ", m.GetGauge().GetValue()+m.GetCounter().GetValue())] = true
				}
			}
		}
	}
	for _, line := range want {
		if !got[line] {
			t.Errorf("%s: no %s", what, line)
		}
		delete(got, line)
	}
	for line := range got {
		t.Errorf("%s: there is %s", what, line)
	}
}

// enginePage is of a TensorRT-LLM ensemble, whose engine has another name.
const enginePage = `nv_inference_pending_request_count{model="llama",version="1"} 0
nv_gpu_memory_used_bytes{gpu_uuid="a"} 30
nv_gpu_memory_total_bytes{gpu_uuid="a"} 40
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 66
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 300
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 1000
`

// TestFacts follows what is known of a pod that has an engine, and what is shown.
func TestFacts(t *testing.T) {
	names := []string{
		"rhumb_pod_slots", "rhumb_pod_waiting_requests", "rhumb_pod_active_requests", "rhumb_pod_kv_cache_utilization_ratio", "rhumb_pod_model_info",
		"rhumb_pod_metrics_age_seconds", "rhumb_pod_gpu_memory_used_ratio", "rhumb_pod_load_report_failures_total",
	}
	synctest.Test(t, func(t *testing.T) {
		w, registry := newWorld(), prometheus.NewRegistry()
		w.pages[oneAt], w.marks["192.0.2.1:8000 llama"] = enginePage, regions.Fingerprint{Version: 1, ConfigHash: 0xabc}
		s := run(t, w, signals.Options{Registry: registry})
		s.SetPods([]regions.Pod{pod("one", 1, regions.PodModel{Name: "llama", Slots: 8})})
		wait(0)
		want := regions.Facts{Slots: 64, Source: regions.SlotsReported, Waiting: 2, Active: 66, KV: 300}
		if got := w.knows("one"); got != want {
			t.Errorf("by its page: %+v", got)
		}
		s.Changed("one", "llama", regions.PodReady)
		wait(0)
		want.Fingerprint = regions.Fingerprint{Version: 1, ConfigHash: 0xabc}
		if got := w.knows("one"); got != want {
			t.Errorf("ready: %+v", got)
		}
		const slots, waiting, active = `rhumb_pod_slots{model="llama",pod="one",source="reported"} 64`, `rhumb_pod_waiting_requests{model="llama",pod="one"} 2`,
			`rhumb_pod_active_requests{model="llama",pod="one"} 66`
		const info = `rhumb_pod_model_info{config="0000000000000abc",model="llama",pod="one",version="1"} 1`
		expect(t, "at first", registry, []string{
			slots, waiting, active, info, `rhumb_pod_kv_cache_utilization_ratio{model="llama",pod="one"} 0.3`,
			`rhumb_pod_gpu_memory_used_ratio{pod="one"} 0.75`, `rhumb_pod_metrics_age_seconds{pod="one"} 0`, `rhumb_pod_load_report_failures_total 0`,
		}, names...)

		w.with(func() { w.pages[oneAt] = "" })
		wait(20 * second)
		s.Heard("one", "llama", "TEXT named_metrics.kv_cache_utilization=0.9", time.Now())
		s.Heard("one", "llama", "nonsense", time.Now())
		s.Heard("one", "stranger", "TEXT kv_cache_utilization=0.9", time.Now())
		s.Heard("stranger", "llama", "TEXT kv_cache_utilization=0.9", time.Now())
		want.Waiting, want.Active, want.KV = -1, -1, 900
		if got := w.knows("one"); got != want {
			t.Errorf("by its answers, with a page of long ago: %+v", got)
		}
		r, known := s.Reading("one", "llama")
		if !known || r.Age < 20*second || r.Age > 21*second || r.Full != 900 || r.Pending != -1 || r.SlotsSource() != "reported" {
			t.Errorf("%+v, %v", r, known)
		}
		expect(t, "stale", registry, []string{
			slots, info, `rhumb_pod_kv_cache_utilization_ratio{model="llama",pod="one"} 0.9`,
			fmt.Sprint(`rhumb_pod_metrics_age_seconds{pod="one"} `, r.Age.Seconds()), `rhumb_pod_load_report_failures_total 1`,
		}, names...)
		wait(16 * second)
		if r, _ := s.Reading("one", "llama"); r.Full != -1 {
			t.Errorf("its answers are of long ago too: %+v", r)
		}

		// Another load of the model has slots of its own.
		w.with(func() { w.marks["192.0.2.1:8000 llama"] = regions.Fingerprint{Version: 2, ConfigHash: 0xabc} })
		s.Changed("one", "llama", regions.PodGone)
		s.Changed("one", "llama", regions.PodWarming)
		wait(0)
		if got := w.knows("one"); got.Fingerprint.Version != 2 || got.Slots != 8 || got.Source != regions.SlotsConfigured {
			t.Errorf("loaded anew: %+v", got)
		}
		if _, known := s.Reading("one", "stranger"); known {
			t.Error("a model that is not set is known")
		}
		if _, known := s.Reading("stranger", "llama"); known {
			t.Error("a pod that is not set is known")
		}
	})
}

// TestWhoseEngine: of two engines, or on a pod of two models, it is not guessed.
func TestWhoseEngine(t *testing.T) {
	second := `nv_trt_llm_request_metrics{model="other",request_type="max",version="1"} 16` + "\n"
	own := `nv_trt_llm_request_metrics{model="llama",request_type="max",version="1"} 32` + "\n"
	llama := regions.PodModel{Name: "llama", Slots: 8}
	synctest.Test(t, func(t *testing.T) {
		for i, c := range []struct {
			page   string
			models []regions.PodModel
			want   int
		}{
			{enginePage, []regions.PodModel{llama}, 64},
			{enginePage, []regions.PodModel{llama, {Name: "mistral"}}, 8},
			{enginePage + second, []regions.PodModel{llama}, 8},
			{enginePage + second + own, []regions.PodModel{llama, {Name: "mistral"}}, 32},
		} {
			w := newWorld()
			w.pages[oneAt] = c.page
			s := run(t, w, signals.Options{})
			s.SetPods([]regions.Pod{pod("one", 1, c.models...)})
			wait(0)
			if got := w.knows("one"); got.Slots != c.want {
				t.Errorf("case %d: %+v, want %d slots", i, got, c.want)
			}
		}
	})
}

// TestTritonsQueue: that it is empty says something of a model that was seen in it,
// and how long others waited is shown.
func TestTritonsQueue(t *testing.T) {
	page := func(pending, served, queued int) string {
		return busyPage(0, pending) + fmt.Sprintf("nv_inference_request_success{model=\"llama\"} %d\nnv_inference_queue_duration_us{model=\"llama\"} %d\n", served, queued)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := run(t, w, signals.Options{})
		w.pages[oneAt] = page(0, 10, 5_000_000)
		s.SetPods([]regions.Pod{pod("one", 1)})
		wait(0)
		waits := func(what string, waiting int, wait regions.Micros) {
			t.Helper()
			r, _ := s.Reading("one", "llama")
			if got := w.knows("one"); got.Waiting != waiting || r.Wait != wait {
				t.Errorf("%s: %+v, waited %d", what, got, r.Wait)
			}
		}
		waits("never seen in the queue", -1, -1)
		w.with(func() { w.pages[oneAt] = page(3, 14, 5_400_000) })
		wait(6 * second)
		waits("three wait", 3, 100_000)
		w.with(func() { w.pages[oneAt] = page(0, 14, 5_400_000) })
		wait(6 * second)
		waits("none does any more", 0, 100_000)
	})
}

// TestPeriods: a pod with requests is read each second, be they another's, an idle
// one and one that can't be read each 5 s, and one that hangs delays nobody.
func TestPeriods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		const idlePage = "nv_gpu_utilization 0.5\n"
		w.pages = map[string]string{oneAt: idlePage, twoAt: idlePage, movedAt: enginePage}
		w.inFlight["one"] = 3
		o := signals.DefaultOptions()
		o.Concurrency = 6
		s := run(t, w, o)
		set := []regions.Pod{pod("one", 1), pod("two", 2), pod("others", 3, regions.PodModel{Name: "llama"}), pod("failing", 4)}
		w.inFlight["failing"] = 1
		for n := range byte(5) {
			w.hangs[fmt.Sprintf("192.0.2.%d:8002", 10+n)] = true
			set = append(set, pod(regions.PodID(fmt.Sprint("hung-", n)), 10+n))
		}
		s.SetPods(set)
		wait(100 * second)
		for at, want := range map[string][2]int{oneAt: {100, 112}, movedAt: {100, 112}, twoAt: {18, 26}, "192.0.2.4:8002": {18, 26}, "192.0.2.10:8002": {12, 26}} {
			if n := len(w.scraped(at)); n < want[0] || n > want[1] {
				t.Errorf("%s: read %d times in 100 s, want %v", at, n, want)
			}
		}
		if w.most > o.Concurrency {
			t.Errorf("%d readings at a time", w.most)
		}
		before := len(w.scraped(oneAt))
		for range 50 {
			s.Changed("one", "llama", regions.PodGone)
			s.Changed("one", "llama", regions.PodReady)
			wait(10 * time.Millisecond)
		}
		if n := len(w.scraped(oneAt)) - before; n > 1 {
			t.Errorf("changes of state made %d readings in half a second", n)
		}
	})
}

// TestFingerprintsAreAskedFor when a model begins to take requests and each 30 s
// from then on, and not of one that does not.
func TestFingerprintsAreAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		const llama, mistral = "192.0.2.1:8000 llama", "192.0.2.1:8000 mistral"
		w.pages[oneAt], w.marks[llama] = busyPage(0, 0), regions.Fingerprint{Version: 1, ConfigHash: 5}
		s := run(t, w, signals.Options{})
		s.SetPods([]regions.Pod{pod("one", 1)})
		wait(100 * second)
		if len(w.asked) != 0 {
			t.Errorf("asked %v of a pod that does not serve", w.asked)
		}
		s.Changed("one", "llama", regions.PodReady)
		s.Changed("one", "mistral", regions.PodReady) // which has none
		s.Changed("one", "stranger", regions.PodReady)
		s.Changed("stranger", "llama", regions.PodReady)
		wait(0)
		if w.asked[llama] != 1 || w.asked[mistral] != 1 || len(w.asked) != 2 || w.knows("one").Fingerprint.ConfigHash != 5 {
			t.Errorf("asked %v, known %+v", w.asked, w.knows("one"))
		}
		s.Changed("one", "llama", regions.PodWarming) // it has been serving all along
		wait(95 * second)
		if w.asked[llama] != 4 || w.asked[mistral] < 5 || w.asked[mistral] > 8 { // first sooner, since it fails
			t.Errorf("asked %v", w.asked)
		}
		s.Changed("one", "llama", regions.PodDraining)
		wait(100 * second)
		if w.asked[llama] != 4 {
			t.Errorf("asked %v of a model that drains", w.asked)
		}
	})
}

// TestAFingerprintThatFailsIsAskedForAgain soon, since streams are not resumed without it.
func TestAFingerprintThatFailsIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.pages[oneAt] = busyPage(0, 0)
		s := run(t, w, signals.Options{})
		s.SetPods([]regions.Pod{pod("one", 1)})
		s.Changed("one", "llama", regions.PodReady)
		wait(second / 2)
		mark := regions.Fingerprint{Version: 1, ConfigHash: 5}
		w.with(func() { w.marks["192.0.2.1:8000 llama"] = mark })
		wait(6 * second) // a pod that has nothing to do is looked at each 5 s
		if got := w.knows("one").Fingerprint; got != mark {
			t.Errorf("after 6 s it has %v", got)
		}
	})
}

// TestFingerprintsAreOfOneLife: a pod that comes back may have another load of a model,
// so that what was known is forgotten when it goes, and what was asked before does not
// count.
func TestFingerprintsAreOfOneLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		const llama = "192.0.2.1:8000 llama"
		old, anew := regions.Fingerprint{Version: 1, ConfigHash: 5}, regions.Fingerprint{Version: 1, ConfigHash: 6}
		w.pages[oneAt], w.marks[llama] = busyPage(0, 0), old
		s := run(t, w, signals.Options{})
		s.SetPods([]regions.Pod{pod("one", 1)})
		s.Changed("one", "llama", regions.PodReady)
		wait(second)
		s.Changed("one", "llama", regions.PodGone)
		if got := w.knows("one").Fingerprint; got != (regions.Fingerprint{}) {
			t.Errorf("it is gone, and has %v", got)
		}
		wait(second)
		s.Changed("one", "llama", regions.PodWarming)
		if got := w.knows("one").Fingerprint; got != (regions.Fingerprint{}) {
			t.Errorf("it is back, and has %v before it was asked", got)
		}
		wait(0)
		if got := w.knows("one").Fingerprint; got != old {
			t.Errorf("it is the same, and has %v", got)
		}
		// It is asked, and has gone and come back before the answer is here.
		w.with(func() { w.slow = second })
		asked := func() (n int) { w.with(func() { n = w.asked[llama] }); return n }
		for before := asked(); asked() == before; wait(second / 10) {
		}
		s.Changed("one", "llama", regions.PodGone)
		w.with(func() { w.slow, w.marks[llama] = 0, anew })
		s.Changed("one", "llama", regions.PodReady)
		wait(second / 4)
		if got := w.knows("one").Fingerprint; got != (regions.Fingerprint{}) {
			t.Errorf("it is back, and has %v", got)
		}
		wait(10 * second)
		if got := w.knows("one").Fingerprint; got != anew {
			t.Errorf("it is another, and has %v", got)
		}
	})
}

// TestReportsAreToldSeldom: of many load reports at once one is told, and the
// newest is known.
func TestReportsAreToldSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := run(t, w, signals.Options{})
		p := pod("one", 1)
		p.Metrics = netip.AddrPort{}
		s.SetPods([]regions.Pod{p})
		for i := range 1000 {
			s.Heard("one", "llama", fmt.Sprintf("TEXT kv_cache_utilization=0.%03d", i), time.Now())
			wait(time.Millisecond)
		}
		if w.told < 9 || w.told > 11 {
			t.Errorf("told %d times in a second", w.told)
		}
		if r, _ := s.Reading("one", "llama"); r.Full < 998 || r.Age != -1 {
			t.Errorf("%+v", r)
		}
		s.SetPods(nil)
		s.Heard("one", "llama", "TEXT kv_cache_utilization=0.1", time.Now())
		if w.told > 11 {
			t.Error("told of a pod that is gone")
		}
	})
}

// TestLearn: whose slots are learnt, and told.
func TestLearn(t *testing.T) {
	const assumed, said, reported = "assumed", "said", "reported"
	for _, c := range []struct {
		fixed   bool
		pod     regions.PodID
		slots   int
		source  string
		facts   int
		learned int
	}{
		{false, assumed, 10, "learned", 10, 10},
		{false, said, 8, "configured", 8, 10},
		{false, reported, 64, "reported", 64, 0},
		{true, assumed, 8, "assumed", 0, 0},
		{true, said, 8, "configured", 8, 0},
		{true, reported, 64, "reported", 64, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.pages = map[string]string{oneAt: busyPage(0, 0), twoAt: busyPage(0, 0), movedAt: enginePage}
			s := run(t, w, signals.Options{Learn: !c.fixed})
			s.SetPods([]regions.Pod{
				pod(assumed, 1, regions.PodModel{Name: "llama"}), pod(said, 2, regions.PodModel{Name: "llama", Slots: 8}),
				pod(reported, 3, regions.PodModel{Name: "llama", Slots: 8}),
			})
			wait(0)
			for range 3 + 2*8 { // a baseline, and two windows
				out := regions.Outcome{End: regions.EndServed, TTFT: 100 * time.Millisecond, Took: second, SawBytes: true, Prompt: 1000}
				s.Observe(time.Now(), c.pod, "llama", 10, 2, out)
				out.TTFT = 90 * time.Millisecond
				s.Observe(time.Now(), c.pod, "llama", 2, 0, out)
			}
			s.Observe(time.Now(), "stranger", "llama", 1, 0, regions.Outcome{})
			s.Observe(time.Now(), c.pod, "stranger", 1, 0, regions.Outcome{})
			r, _ := s.Reading(c.pod, "llama")
			if got := w.knows(c.pod); got.Slots != c.facts || r.Slots != c.slots || r.SlotsSource() != c.source || r.Learned != c.learned {
				t.Errorf("fixed %v, %s: told %+v, %+v", c.fixed, c.pod, got, r)
			}
			s.SetPods([]regions.Pod{pod("other", 4)})
			if _, known := s.Reading(c.pod, "llama"); known {
				t.Errorf("%s is known when it is gone", c.pod)
			}
		})
	}
}

// TestReadingOfAServerThatIsNoMore: what comes of an address that a pod had before
// says nothing of it.
func TestReadingOfAServerThatIsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, registry := newWorld(), prometheus.NewRegistry()
		w.hangs[oneAt], w.pages[movedAt] = true, busyPage(1, 7)
		s := run(t, w, signals.Options{Registry: registry})
		s.SetPods([]regions.Pod{pod("one", 1), pod("two", 1)})
		wait(second)
		moved := pod("one", 1)
		moved.Metrics = netip.MustParseAddrPort(movedAt)
		s.SetPods([]regions.Pod{moved})
		wait(4 * second)
		expect(t, "moved", registry, []string{"rhumb_pod_scrape_failures_total 0", `rhumb_pod_pending_requests{model="llama",pod="one"} 7`},
			"rhumb_pod_scrape_failures_total", "rhumb_pod_pending_requests")
	})
}

// TestRunEndsWithItsReadings: an agent that ends counts nothing as failed.
func TestRunEndsWithItsReadings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, registry := newWorld(), prometheus.NewRegistry()
		w.hangs[oneAt] = true
		s := signals.New(signals.Options{Registry: registry}, w)
		s.SetPods([]regions.Pod{pod("one", 1)}) // before Run
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		wait(second)
		cancel()
		if err := <-ended; err != nil || w.running != 0 || len(w.scrapes) != 1 {
			t.Errorf("%v, %d readings are left of %d", err, w.running, len(w.scrapes))
		}
		expect(t, "ended", registry, []string{"rhumb_pod_scrape_failures_total 0"}, "rhumb_pod_scrape_failures_total")
	})
}
