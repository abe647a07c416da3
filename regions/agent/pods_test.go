package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
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
nv_trt_llm_request_metrics{model="llama",request_type="waiting",version="1"} 4
nv_trt_llm_request_metrics{model="llama",request_type="active",version="1"} 36
nv_trt_llm_request_metrics{model="llama",request_type="max",version="1"} 32
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="llama",version="1"} 0.25
`, busy, busy, pending)
}

// found are the pods of an agent's options.
func found(t *testing.T, o *Options) []regions.Pod {
	t.Helper()
	sets := make(chan []regions.Pod, 1)
	go func() { _ = o.Sources[0].Run(t.Context(), func(p []regions.Pod) { sets <- p }) }()
	return <-sets
}

// finds makes the pods those of an agent's options.
func finds(t *testing.T, o *Options, pods []regions.Pod) {
	t.Helper()
	source, err := discovery.NewStatic(pods)
	if err != nil {
		t.Fatal(err)
	}
	o.Sources = []discovery.Source{source}
}

// TestAgentShowsItsPodsMetrics reads an agent's own /metrics and admin API: one of
// its pods has metrics, two have none.
func TestAgentShowsItsPodsMetrics(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	all := found(t, &o)
	all[0].Metrics = newMetricsPage(t, busyPage(.5, 3)).at()
	all[1].Models = []regions.PodModel{{Name: "llama"}}
	finds(t, &o, all)
	s := m.start(o, pods)
	regionstest.Eventually(t, patience, func() bool {
		_, text := s.get(s.adminURL("/metrics"))
		return strings.Contains(text, `rhumb_pod_gpu_utilization_ratio{pod="eu-west-0"} 0.5`) &&
			strings.Contains(text, `rhumb_pod_pending_requests{model="llama",pod="eu-west-0"} 3`) &&
			strings.Contains(text, `rhumb_pod_slots{model="llama",pod="eu-west-0",source="reported"} 32`) &&
			strings.Contains(text, `rhumb_pod_slots{model="llama",pod="eu-west-1",source="assumed"} 8`) &&
			strings.Contains(text, `rhumb_pod_slots{model="llama",pod="eu-west-2",source="configured"} 8`) &&
			strings.Contains(text, `pod="eu-west-0",version="1"} 1`) && strings.Contains(text, `pod="eu-west-1",version="1"} 1`) &&
			strings.Contains(text, `pod="eu-west-2",version="1"} 1`) &&
			strings.Contains(text, "rhumb_pod_scrape_failures_total 0") && !strings.Contains(text, `rhumb_pod_pending_requests{model="llama",pod="eu-west-1"}`)
	}, "the agent shows the pod's metrics")
	var rows []adminPod
	_, text := s.get(s.adminURL("/api/v1/pods"))
	if err := json.Unmarshal([]byte(text), &rows); err != nil || len(rows) != 3 {
		t.Fatalf("%v: %s", err, text)
	}
	first, second := rows[0], rows[1]
	if first.Slots != 32 || first.Source != "reported" || first.Waiting == nil || *first.Waiting != 4 || first.Active == nil || *first.Active != 36 ||
		first.KV == nil || *first.KV != .25 || first.Age == nil || *first.Age < 0 || first.Version != 1 || len(first.Config) != 16 {
		t.Errorf("with metrics: %s", text)
	}
	if second.Slots != podSlots || second.Source != "assumed" || second.Waiting != nil || second.Active != nil || second.KV != nil || second.Age != nil || second.Config != first.Config {
		t.Errorf("without: %s", text)
	}
}

// TestAgentLearnsFromRequests: of two pods without metrics, of which nobody said how
// many slots they have, it learns that there are more than eight while requests wait,
// and how full their KV cache is from their answers.
func TestAgentLearnsFromRequests(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	for _, p := range pods {
		p.Close()
	}
	pods = nil
	var all []regions.Pod
	for _, id := range []string{"eu-west-0", "eu-west-1"} {
		model := tritontest.DefaultModel("llama")
		model.Flavour, model.Slots, model.PrefillPerToken, model.InterToken, model.BatchPenalty = tritontest.TRTLLM, 64, 0, 5*time.Millisecond, 0
		with := tritontest.DefaultOptions()
		with.Name, with.Models = id, []tritontest.Model{model}
		p := tritontest.New(with)
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		pods = append(pods, p)
		all = append(all, regions.Pod{ID: regions.PodID(id), HTTP: netip.MustParseAddrPort(p.Addr()), Models: []regions.PodModel{{Name: "llama"}}})
	}
	finds(t, &o, all)
	s := m.start(o, pods)
	asking, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 24 {
		clients.Go(func() {
			for asking.Err() == nil {
				_, _, _ = s.do(http.MethodPost, s.url("/v2/models/llama/generate"), `{"text_input":"hello","max_tokens":20}`)
			}
		})
	}
	regionstest.Eventually(t, patience, func() bool {
		for _, p := range s.adminPods() {
			if p.Learned > 8 && p.Source == "learned" && p.Slots == p.Learned && p.KV != nil {
				return true
			}
		}
		return false
	}, "more slots are learnt")
	stop()
	clients.Wait()
}

// TestAgentTakesOutAZombie: a pod that says it is ready and generates nothing is out
// by its canaries, though no client has asked it for anything, and comes back.
func TestAgentTakesOutAZombie(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	o.Canary = Canary{Every: 100 * time.Millisecond, Text: "hello"}
	s := m.start(o, pods)
	taking := func() (n int) {
		for _, p := range s.pool.Pods() {
			if p.State.Takes() {
				n++
			}
		}
		return n
	}
	pods[1].Zombie("llama", tritontest.Failing)
	regionstest.Eventually(t, patience, func() bool { return taking() == 2 }, "the zombie is out")
	if _, text := s.get(s.adminURL("/metrics")); !strings.Contains(text, `rhumb_probe_canaries_total{model="llama",pod="eu-west-1",sight="not-ready"}`) {
		t.Error("its canaries are not counted")
	}
	for _, p := range s.pool.Pods() {
		if p.ID == "eu-west-1" && p.State != regions.PodGone {
			t.Errorf("it is %v", p.State)
		}
	}
	pods[1].Heal()
	regionstest.Eventually(t, patience, func() bool { return taking() == 3 }, "it is back")
}
