package triton_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// page is one of a Triton with two versions of a model, a model that only waits
// in its backend, and two GPUs.
const page = `# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="llama",version="1"} 161
nv_inference_request_success{model="llama",version="2"} 39
nv_inference_request_success{model="vllm 70b",namespace="",version="1"} 7
# HELP nv_inference_request_failure Number of failed inference requests, all batch sizes
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="llama",reason="REJECTED",version="1"} 3
nv_inference_request_failure{model="llama",reason="BACKEND",version="1"} 1
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="llama",version="1"} 1500000
nv_inference_queue_duration_us{model="llama",version="2"} 500000.000000
nv_inference_queue_duration_us{model="vllm 70b",version="1"} 0
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="llama",version="1"} 4
nv_inference_pending_request_count{model="llama",version="2"} 1
nv_inference_pending_request_count{model="vllm 70b",version="1"} 0
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-aaaa"} 0.9
nv_gpu_utilization{gpu_uuid="GPU-bbbb"} 0.6
nv_gpu_memory_used_bytes{gpu_uuid="GPU-aaaa"} 1000000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-bbbb"} 500000000
nv_gpu_memory_total_bytes{gpu_uuid="GPU-aaaa"} 80000000000
nv_gpu_memory_total_bytes{gpu_uuid="GPU-bbbb"} 80000000000
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_count{model="vllm 70b",version="1"} 7
vllm:time_to_first_token_seconds_sum{model="vllm 70b",version="1"} 1.25
vllm:time_to_first_token_seconds_bucket{le="1",model="vllm 70b"} 5
vllm:time_per_output_token_seconds_count{model="vllm 70b",version="1"} 93
vllm:time_per_output_token_seconds_sum{model="vllm 70b",version="1"} 2.5
vllm:prompt_tokens_total{model="vllm 70b",version="1"} 700
vllm:generation_tokens_total{model="vllm 70b",version="1"} 100
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 10
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 8
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 64
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="of a later release",version="1"} 5
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.4875
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="tensorrt_llm",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 1950
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="free",model="tensorrt_llm",version="1"} 2050
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 4000
`

func TestDecodeMetrics(t *testing.T) {
	none := map[regions.ModelName]triton.ModelMetrics{}
	of := func(name regions.ModelName, m triton.ModelMetrics) map[regions.ModelName]triton.ModelMetrics {
		return map[regions.ModelName]triton.ModelMetrics{name: m}
	}
	for _, c := range []struct {
		name, page string
		want       triton.Metrics
		err        string
	}{
		{"a whole page", page, triton.Metrics{GPUs: 2, Utilization: .75, MemoryUsed: 15e8, MemoryTotal: 16e10, Models: map[regions.ModelName]triton.ModelMetrics{
			"llama": {Pending: 5, Queued: 2_000_000, Served: 200, Failed: 4},
			"vllm 70b": {Served: 7, Tokens: &triton.Tokens{Prompt: 700, Generated: 100,
				TTFT: 1_250_000, FirstTokens: 7, PerToken: 2_500_000, LaterTokens: 93}},
			"tensorrt_llm": {Pending: -1, Batch: &triton.Batch{Waiting: 2, Active: 10, Scheduled: 8, Context: 1, Max: 64},
				KV: &triton.KVCache{Used: 1950, Max: 4000, PerBlock: 64, Fraction: .4875}},
		}}, ""},
		{"a batch of which little is told", "nv_trt_llm_request_metrics{model=\"a\",request_type=\"max\"} 8\n", triton.Metrics{Models: of("a", triton.ModelMetrics{
			Pending: -1, Batch: &triton.Batch{Waiting: -1, Active: -1, Scheduled: -1, Context: -1, Max: 8}})}, ""},
		{"a cache without blocks", "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\",model=\"a\"} NaN\n", triton.Metrics{Models: none}, ""},
		{"a cache of less than nothing", "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"used\",model=\"a\"} -1\n", triton.Metrics{}, "is -1"},
		{"GPU memory that can't be told", "nv_gpu_memory_total_bytes{gpu_uuid=\"a\"} NaN\n", triton.Metrics{Models: none}, ""},
		{"seconds without end", "vllm:time_to_first_token_seconds_sum{model=\"a\"} 1e15\n", triton.Metrics{Models: of("a",
			triton.ModelMetrics{Pending: -1, Tokens: &triton.Tokens{TTFT: 1 << 50}})}, ""},
		{"an empty page", "", triton.Metrics{Models: none}, ""},
		{"nothing for us", "# a comment\n\nnv_cpu_utilization 0.5\nnv_gpu_utilization_of_others 0.5\n", triton.Metrics{Models: none}, ""},
		{"older than pending", "nv_inference_request_success{model=\"a\"} 1\n", triton.Metrics{Models: of("a", triton.ModelMetrics{Pending: -1, Served: 1})}, ""},
		{"a model with anything in its name", "nv_inference_pending_request_count{model=\"a\\\"b\\\\c\\nd\"} 2\n",
			triton.Metrics{Models: of("a\"b\\c\nd", triton.ModelMetrics{Pending: 2})}, ""},
		{"other people's nonsense is skipped", "my metric{]= 5\nnv_gpu_utilization 0.5\n{} {} {}\n", triton.Metrics{GPUs: 1, Utilization: .5, Models: none}, ""},
		{"a type that is a lie", "# TYPE nv_gpu_utilization histogram\nnv_gpu_utilization 0.5\n", triton.Metrics{GPUs: 1, Utilization: .5, Models: none}, ""},
		{"GPUs that can't tell", "nv_gpu_utilization{gpu_uuid=\"a\"} NaN\nnv_gpu_utilization{gpu_uuid=\"b\"} 140737488355328\nnv_gpu_utilization{gpu_uuid=\"c\"} -1\n",
			triton.Metrics{Models: none}, ""},
		{"with a time", " nv_gpu_utilization\t0.25 1700000000000\n", triton.Metrics{GPUs: 1, Utilization: .25, Models: none}, ""},
		{"no number", "nv_gpu_utilization x\n", triton.Metrics{}, "line 1"},
		{"a negative count", "nv_inference_pending_request_count{model=\"a\"} -1\n", triton.Metrics{}, `nv_inference_pending_request_count of model "a" is -1`},
		{"not a count", "nv_inference_request_success{model=\"a\"} NaN\n", triton.Metrics{}, "is NaN"},
		{"endless", "nv_inference_queue_duration_us{model=\"a\"} +Inf\n", triton.Metrics{}, "is +Inf"},
		{"no model", "nv_inference_pending_request_count 1\n", triton.Metrics{}, "has no model"},
		{"cut within a number", "nv_gpu_utilization 0.2", triton.Metrics{}, "ends within a line"},
		{"cut within a label", "nv_gpu_utilization{gpu_uuid=\"a\n", triton.Metrics{}, "line 1"},
		{"too long", strings.Repeat("# x\n", 1<<18) + "\n", triton.Metrics{}, "more than 1048576"},
		{"too many series", strings.Repeat("nv_gpu_utilization 0.5\n", 4097), triton.Metrics{}, "4097 series"},
	} {
		got, err := triton.DecodeMetrics([]byte(c.page))
		if c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)) {
			t.Errorf("%s: got %+v, %v; want %+v", c.name, got, err, c.want)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: got %+v, %v; want an error with %q", c.name, got, err, c.err)
		}
	}
}

// TestFullness of KV caches that are told in blocks, as a share, or not at all.
func TestFullness(t *testing.T) {
	for _, c := range []struct {
		name string
		kv   *triton.KVCache
		want regions.Permille
		is   bool
	}{
		{"not told", nil, 0, false},
		{"nothing but the size of a block", &triton.KVCache{PerBlock: 64, Fraction: -1}, 0, false},
		{"a share only", &triton.KVCache{Fraction: .25}, 250, true},
		{"blocks go first", &triton.KVCache{Used: 30, Max: 40, Fraction: .25}, 750, true},
		{"more than all", &triton.KVCache{Used: 1 << 61, Max: 1, Fraction: -1}, 1000, true},
		{"empty", &triton.KVCache{Max: 40, Fraction: -1}, 0, true},
	} {
		if got, is := c.kv.Full(); got != c.want || is != c.is {
			t.Errorf("%s: %d, %v; want %d, %v", c.name, got, is, c.want, c.is)
		}
	}
}

// TestWaitBetweenPages is that of what was served between them.
func TestWaitBetweenPages(t *testing.T) {
	before := triton.ModelMetrics{Served: 100, Queued: 5_000}
	for _, c := range []struct {
		name string
		now  triton.ModelMetrics
		want regions.Micros
		is   bool
	}{
		{"four waited 2 ms each", triton.ModelMetrics{Served: 104, Queued: 13_000}, 2_000, true},
		{"none waited", triton.ModelMetrics{Served: 104, Queued: 5_000}, 0, true},
		{"none was served", before, 0, false},
		{"the server began anew", triton.ModelMetrics{Served: 3, Queued: 40_000}, 0, false},
		{"and has served more since", triton.ModelMetrics{Served: 300, Queued: 4_000}, 0, false},
	} {
		if got, is := c.now.Wait(before); got != c.want || is != c.is {
			t.Errorf("%s: %d, %v; want %d, %v", c.name, got, is, c.want, c.is)
		}
	}
}

func TestMetricsOfAServer(t *testing.T) {
	for _, c := range []struct {
		name  string
		serve func(*net.TCPConn)
		want  string // in the error; empty for success
	}{
		{"a page", says(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(page), page)), ""},
		{"another port's empty answer", says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "metrics port"},
		{"not found", says("HTTP/1.1 404 Not Found\r\n\r\n" + `{"error":"Not Found"}`), "404"},
		{"cut short", says("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + page), "read the answer's body"},
		{"endless", says("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("# x\n", 1<<18)), "longer than"},
		{"no page", says("HTTP/1.1 200 OK\r\n\r\n<html>nv_gpu_utilization"), "ends within a line"},
		{"closed at once", func(*net.TCPConn) {}, ""},
	} {
		at := rawServer(t, c.serve)
		o := triton.DefaultOptions()
		o.MaxBody = 64 << 10
		got, err := triton.New(o).Metrics(t.Context(), at)
		if c.name == "a page" && (err != nil || got.GPUs != 2 || got.Models["llama"].Pending != 5) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
		if c.name != "a page" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), at.String())) {
			t.Errorf("%s: %+v, %v; want an error with %q and the pod", c.name, got, err, c.want)
		}
	}
	hold := make(chan struct{})
	at := rawServer(t, func(*net.TCPConn) { <-hold })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := triton.New(triton.DefaultOptions()).Metrics(ctx, at); err == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Errorf("a silent server: %v", err)
	}
	close(hold)
}

// TestMetricsOfASimulatedPod reads what a pod with one slot says while one request
// runs and two wait in Triton's queue, and when all are over.
func TestMetricsOfASimulatedPod(t *testing.T) {
	o := tritontest.DefaultOptions()
	o.MetricsInterval = 20 * time.Millisecond
	model := tritontest.DefaultModel("llama")
	model.Slots, model.QueueLimit, model.InterToken = 1, 10, 10*time.Millisecond
	o.Models = []tritontest.Model{model, tritontest.DefaultModel("mistral")}
	pod := tritontest.New(o)
	if err := pod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pod.Close)
	c, at := triton.New(triton.DefaultOptions()), netip.MustParseAddrPort(pod.MetricsAddr())
	says := func(what string, is func(triton.Metrics) bool) {
		t.Helper()
		var last triton.Metrics
		regionstest.Eventually(t, patience, func() bool {
			m, err := c.Metrics(t.Context(), at)
			if err != nil {
				t.Error(err)
			}
			last = m
			return err == nil && is(m)
		}, what)
		if t.Failed() {
			t.Logf("last said: %+v", last)
		}
	}
	says("both models are idle", func(m triton.Metrics) bool {
		return m.GPUs == 1 && m.Models["llama"] == triton.ModelMetrics{} && m.Models["mistral"] == triton.ModelMetrics{} && len(m.Models) == 2
	})
	answered := make(chan error, 3)
	for range 3 {
		go func() {
			answered <- generate(t.Context(), pod.Addr(), `{"text_input":"hi","parameters":{"max_tokens":30}}`)
		}()
	}
	says("two wait and the GPU is busy", func(m triton.Metrics) bool { return m.Models["llama"].Pending == 2 && m.Utilization > 0 })
	for range 3 {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
	says("all are served, some after a wait", func(m triton.Metrics) bool {
		llama := m.Models["llama"]
		return llama.Pending == 0 && llama.Served == 3 && llama.Queued > 0 && m.Models["mistral"].Served == 0
	})
}

func generate(ctx context.Context, addr, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/v2/models/llama/generate", strings.NewReader(body))
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w", res.Status, err)
	}
	return nil
}

func FuzzDecodeMetrics(f *testing.F) {
	for _, seed := range []string{
		page, "", "nv_gpu_utilization 0.5\n", "nv_gpu_utilization{a=\"b\",c=\"\\\n\"} 1e-320 5\n", "nv_inference_request_success{model=\"\xff\"} 1\n",
		"nv_inference_pending_request_count{\"model\"=\"x\"} 0x1p-2\n", "nv_gpu_utilization{} 1 # {} 1\n", "nv_inference_queue_duration_us{model=\"a\"} 1125899906842624\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := triton.DecodeMetrics(text)
		if err != nil {
			if m.Models != nil || m.GPUs != 0 {
				t.Fatalf("an error %v with %+v", err, m)
			}
			return
		}
		if m.GPUs < 0 || m.Utilization < 0 || m.Utilization > 1 || math.IsNaN(m.Utilization) {
			t.Fatalf("GPUs: %+v", m)
		}
		for name, of := range m.Models {
			if name == "" || of.Pending < -1 || of.Queued < 0 || of.Served < 0 || of.Failed < 0 {
				t.Fatalf("%q: %+v", name, of)
			}
			if b := of.Batch; b != nil && min(b.Waiting, b.Active, b.Scheduled, b.Context, b.Max) < -1 {
				t.Fatalf("%q: %+v", name, b)
			}
			if full, is := of.KV.Full(); full < 0 || full > regions.Whole || !is && full != 0 {
				t.Fatalf("%q: %+v", name, of.KV)
			}
			if k := of.Tokens; k != nil && (min(k.Prompt, k.Generated, k.FirstTokens, k.LaterTokens) < 0 || min(k.TTFT, k.PerToken) < 0) {
				t.Fatalf("%q: %+v", name, k)
			}
		}
	})
}
