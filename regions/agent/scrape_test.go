package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton"
)

// metricsPage is a pod's metrics server that says what it is told to; empty is an
// answer without a page.
type metricsPage struct {
	*httptest.Server
	text atomic.Pointer[string]
}

func newMetricsPage(t *testing.T, text string) *metricsPage {
	t.Helper()
	p := &metricsPage{}
	p.says(text)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, *p.text.Load())
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *metricsPage) says(text string) { p.text.Store(&text) }

func (p *metricsPage) at() netip.AddrPort {
	return netip.MustParseAddrPort(p.Listener.Addr().String())
}

// busyPage is a page with the utilisation of two GPUs and some requests that wait.
func busyPage(busy float64, pending int) string {
	return fmt.Sprintf(`nv_gpu_utilization{gpu_uuid="a"} %v
nv_gpu_utilization{gpu_uuid="b"} %v
nv_inference_pending_request_count{model="llama",version="1"} %d
nv_inference_pending_request_count{model="stranger",version="1"} 9
`, busy, busy, pending)
}

// TestPodsMetrics follows what is shown of two pods over time: scrapes that fail,
// pages that grow old, pods that go, move and come back.
func TestPodsMetrics(t *testing.T) {
	one, two, moved := newMetricsPage(t, busyPage(.5, 3)), newMetricsPage(t, busyPage(.25, 0)), newMetricsPage(t, busyPage(1, 7))
	pod := func(id regions.PodID, at netip.AddrPort) regions.Pod {
		return regions.Pod{ID: id, Metrics: at, Models: []regions.PodModel{{Name: "llama", Slots: 8}, {Name: "mistral", Slots: 8}}}
	}
	both := []regions.Pod{pod("one", one.at()), pod("two", two.at()), pod("without", netip.AddrPort{})}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	registry := prometheus.NewRegistry()
	s := newScraper(triton.New(triton.DefaultOptions()), func() time.Time { return now }, slog.New(slog.DiscardHandler), registry)

	const busy, pending, failures = "rhumb_pod_gpu_utilization_ratio", "rhumb_pod_pending_requests", "rhumb_pod_scrape_failures_total"
	oneBusy, onePending := busy+`{pod="one"} 0.5`, pending+`{model="llama",pod="one"} 3`
	twoBusy, twoPending := busy+`{pod="two"} 0.25`, pending+`{model="llama",pod="two"} 0`
	failed := func(n int) string { return fmt.Sprintf("%s %d", failures, n) }
	for _, step := range []struct {
		what   string
		do     func()
		after  time.Duration
		scrape bool
		want   []string
	}{
		{"no pods yet", nil, 0, true, []string{failed(0)}},
		{"pods, not scraped yet", func() { s.setPods(both) }, 0, false, []string{failed(0)}},
		{"both", nil, 0, true, []string{oneBusy, twoBusy, onePending, twoPending, failed(0)}},
		{"one can't be read", func() { one.says("nv_gpu_utilization x\n") }, scrapeEvery, true, []string{oneBusy, twoBusy, onePending, twoPending, failed(1)}},
		{"and again", nil, scrapeEvery, true, []string{oneBusy, twoBusy, onePending, twoPending, failed(2)}},
		{"and is as old as may be", nil, scrapeStale - 2*scrapeEvery, true, []string{oneBusy, twoBusy, onePending, twoPending, failed(3)}},
		{"and is stale", nil, time.Millisecond, true, []string{twoBusy, twoPending, failed(4)}},
		{"it is back, without a GPU", func() { one.says(`nv_inference_pending_request_count{model="mistral"} 2` + "\n") }, scrapeEvery, true,
			[]string{twoBusy, twoPending, pending + `{model="mistral",pod="one"} 2`, failed(4)}},
		{"an empty answer is none", func() { one.says("") }, scrapeEvery, true, []string{twoBusy, twoPending, pending + `{model="mistral",pod="one"} 2`, failed(5)}},
		{"a set with the same pods changes nothing", func() { s.setPods(both) }, 0, false,
			[]string{twoBusy, twoPending, pending + `{model="mistral",pod="one"} 2`, failed(5)}},
		{"one is gone", func() { s.setPods(both[1:]) }, 0, false, []string{twoBusy, twoPending, failed(5)}},
		{"two is another server now", func() { s.setPods([]regions.Pod{pod("two", moved.at())}) }, 0, false, []string{failed(5)}},
		{"which is scraped", nil, 0, true, []string{busy + `{pod="two"} 1`, pending + `{model="llama",pod="two"} 7`, failed(5)}},
		{"which serves other models now", func() {
			p := pod("two", moved.at())
			p.Models = p.Models[1:]
			s.setPods([]regions.Pod{p})
		}, 0, false, []string{busy + `{pod="two"} 1`, failed(5)}},
		{"a name that can't be shown", func() { s.setPods([]regions.Pod{pod("\xff", two.at())}) }, 0, true, []string{failed(5)}},
		{"all are gone", func() { s.setPods(nil) }, 0, true, []string{failed(5)}},
	} {
		if step.do != nil {
			step.do()
		}
		now = now.Add(step.after)
		if step.scrape {
			s.round(t.Context(), func(*scraped) bool { return true })
		}
		var want strings.Builder
		for _, name := range []string{busy, pending, failures} {
			kind, help := "gauge", map[string]string{
				busy:     "Mean utilization of a pod's GPUs, from 0 to 1, as Triton reports it.",
				pending:  "Requests that wait in a pod's own Triton queue; those inside a backend, such as vLLM's, are not seen.",
				failures: "Readings of pods' metrics that failed.",
			}[name]
			if name == failures {
				kind = "counter"
			}
			fmt.Fprintf(&want, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
			for _, line := range step.want {
				if strings.HasPrefix(line, name) {
					want.WriteString(line + "\n")
				}
			}
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want.String()), busy, pending, failures); err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// TestScrapesOfAPodThatHangsEnd: the others are read meanwhile, and an agent that
// ends counts nothing as failed.
func TestScrapesOfAPodThatHangsEnd(t *testing.T) {
	asked := make(chan struct{}, 1)
	hung := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(hung.Close)
	well := newMetricsPage(t, busyPage(.5, 3))
	s := newScraper(triton.New(triton.DefaultOptions()), time.Now, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	s.setPods([]regions.Pod{{ID: "hung", Metrics: netip.MustParseAddrPort(hung.Listener.Addr().String())}, {ID: "well", Metrics: well.at()}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	<-asked
	regionstest.Eventually(t, patience, func() bool { return len(s.readings()) == 1 }, "the pod that is well is read")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := testutil.ToFloat64(s.failed); n != 0 {
		t.Errorf("%v scrapes count as failed", n)
	}
}

// TestAgentShowsItsPodsMetrics reads an agent's own /metrics: one of its pods has
// metrics, two have none.
func TestAgentShowsItsPodsMetrics(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	found := make(chan []regions.Pod, 1)
	go func() { _ = o.Sources[0].Run(t.Context(), func(p []regions.Pod) { found <- p }) }()
	all := <-found
	all[0].Metrics = newMetricsPage(t, busyPage(.5, 3)).at()
	source, err := discovery.NewStatic(all)
	if err != nil {
		t.Fatal(err)
	}
	o.Sources = []discovery.Source{source}
	s := m.start(o, pods)
	regionstest.Eventually(t, patience, func() bool {
		_, text := s.get(s.adminURL("/metrics"))
		return strings.Contains(text, `rhumb_pod_gpu_utilization_ratio{pod="eu-west-0"} 0.5`) &&
			strings.Contains(text, `rhumb_pod_pending_requests{model="llama",pod="eu-west-0"} 3`) &&
			strings.Contains(text, "rhumb_pod_scrape_failures_total 0") && !strings.Contains(text, `rhumb_pod_pending_requests{model="llama",pod="eu-west-1"}`)
	}, "the agent shows the pod's metrics")
}
