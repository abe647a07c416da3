package tritontest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"
)

// tokensPerBlock is TensorRT-LLM's usual size of a KV cache block.
const tokensPerBlock = 64

// failure is a reason of nv_inference_request_failure, in Triton's order.
type failure int

const (
	failRejected failure = iota
	failCanceled
	failBackend
	failOther
)

var failureNames = [...]string{"REJECTED", "CANCELED", "BACKEND", "OTHER"}

// counters are what Triton counts of a loaded model. They change only when a
// request is over.
type counters struct {
	success  int64
	failures [len(failureNames)]int64
	request  time.Duration // of successes, from arrival to end
	queue    time.Duration // of successes, in Triton's own queue
	infer    time.Duration // of successes, in the backend
	last     time.Time     // end of the last success
}

// fail counts a request that failed.
func (e *engine) fail(why failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts.failures[why]++
}

// count counts a request that arrived, was begun, and has now ended.
func (e *engine) count(arrived, begun time.Time, err error) {
	switch {
	case errors.Is(err, errQueueFull), errors.Is(err, errQueueTimeout):
		e.fail(failRejected)
	case errors.Is(err, errInBand):
		e.fail(failBackend)
	case errors.Is(err, context.Canceled):
		e.fail(failCanceled)
	case err != nil:
		e.fail(failOther)
	default:
		now := time.Now()
		e.mu.Lock()
		defer e.mu.Unlock()
		e.counts.success++
		e.counts.request += now.Sub(arrived)
		e.counts.queue += begun.Sub(arrived)
		e.counts.infer += now.Sub(begun)
		e.counts.last = now
	}
}

// gauges are a loaded model's numbers at one moment.
type gauges struct {
	counters
	waiting, active, prefilling int
	blocks                      int // of the KV cache, in use
}

func (e *engine) gauges() gauges {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := gauges{counters: e.counts, waiting: len(e.waiting), active: len(e.running)}
	for s := range e.running {
		g.blocks += int(s.tokens.Load()+tokensPerBlock-1) / tokensPerBlock
		if !s.prefilled.Load() {
			g.prefilling++
		}
	}
	g.blocks = min(g.blocks, e.model.KVBlocks)
	return g
}

// serveMetrics is the second port: metrics at /metrics, and 200 with an empty
// body for every other path, however the server does.
func (p *process) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r, plainType, http.MethodGet) {
		return
	}
	body := ""
	if path := rawPath(r); path == "/metrics" || path == "/metrics/" {
		body = p.metricsText()
	}
	reply(w, http.StatusOK, "text/plain; charset=utf-8", body)
}

// exposition writes the Prometheus text format, one family after the other.
type exposition struct{ strings.Builder }

// family begins a family of metrics.
func (x *exposition) family(name, kind, help string) {
	fmt.Fprintf(x, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample writes one value; labels are key, value pairs and get sorted.
func (x *exposition) sample(name string, value float64, labels ...string) {
	pairs := make([]string, 0, len(labels)/2)
	for i := 0; i+1 < len(labels); i += 2 {
		v := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(labels[i+1])
		pairs = append(pairs, labels[i]+`="`+v+`"`)
	}
	sort.Strings(pairs)
	fmt.Fprintf(x, "%s{%s} %s\n", name, strings.Join(pairs, ","), strconv.FormatFloat(value, 'f', -1, 64))
}

// modelFamily is a family with one sample per model.
type modelFamily struct {
	name, kind, help string
	value            func(*entry, gauges) float64
}

func micros(d time.Duration) float64 { return float64(d.Microseconds()) }

var afterFailures = []modelFamily{
	{"nv_inference_count", "counter", "Number of inferences performed (does not include cached requests)",
		func(_ *entry, g gauges) float64 { return float64(g.success) }},
	{"nv_inference_exec_count", "counter", "Number of model executions performed (does not include cached requests)",
		func(_ *entry, g gauges) float64 { return float64(g.success) }},
	{"nv_inference_request_duration_us", "counter", "Cumulative inference request duration in microseconds (includes cached requests)",
		func(_ *entry, g gauges) float64 { return micros(g.request) }},
	{"nv_inference_queue_duration_us", "counter", "Cumulative inference queuing duration in microseconds (includes cached requests)",
		func(_ *entry, g gauges) float64 { return micros(g.queue) }},
	{"nv_inference_compute_input_duration_us", "counter", "Cumulative compute input duration in microseconds (does not include cached requests)",
		func(*entry, gauges) float64 { return 0 }},
	{"nv_inference_compute_infer_duration_us", "counter", "Cumulative compute inference duration in microseconds (does not include cached requests)",
		func(_ *entry, g gauges) float64 { return micros(g.infer) }},
	{"nv_inference_compute_output_duration_us", "counter", "Cumulative inference compute output duration in microseconds (does not include cached requests)",
		func(*entry, gauges) float64 { return 0 }},
	{"nv_inference_pending_request_count", "gauge", "Instantaneous number of pending requests awaiting execution per-model.",
		func(e *entry, g gauges) float64 {
			if !e.engine.queues() {
				return 0
			}
			return float64(g.waiting)
		}},
	{"nv_model_load_duration_secs", "gauge", "Model load time in seconds",
		func(e *entry, _ gauges) float64 { return e.took.Seconds() }},
}

// metricsText is the answer of /metrics.
func (p *process) metricsText() string {
	x := new(exposition)
	models := p.repo.engines()
	now := make([]gauges, len(models))
	for i, e := range models {
		now[i] = e.engine.gauges()
	}
	each := func(f func(e *entry, g gauges, version string)) {
		for i, e := range models {
			f(e, now[i], strconv.Itoa(e.model.Version))
		}
	}
	if len(models) > 0 {
		x.family("nv_inference_request_success", "counter", "Number of successful inference requests, all batch sizes")
		each(func(e *entry, g gauges, v string) {
			x.sample("nv_inference_request_success", float64(g.success), "model", e.model.Name, "version", v)
		})
		x.family("nv_inference_request_failure", "counter", "Number of failed inference requests, all batch sizes")
		each(func(e *entry, g gauges, v string) {
			for i, reason := range failureNames {
				x.sample("nv_inference_request_failure", float64(g.failures[i]), "model", e.model.Name, "reason", reason, "version", v)
			}
		})
		for _, f := range afterFailures {
			x.family(f.name, f.kind, f.help)
			each(func(e *entry, g gauges, v string) {
				x.sample(f.name, f.value(e, g), "model", e.model.Name, "version", v)
			})
		}
	}
	x.family("nv_gpu_utilization", "gauge", "GPU utilization rate [0.0 - 1.0)")
	x.sample("nv_gpu_utilization", p.gpu.read(time.Now(), p.pod.opts.MetricsInterval), "gpu_uuid", "GPU-00000000-0000-0000-0000-000000000000")
	x.trtllm(models, now)
	return x.String()
}

// trtllm writes what the TensorRT-LLM backend reports of its models.
func (x *exposition) trtllm(models []*entry, now []gauges) {
	const requests, blocks = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"
	begun := make(map[string]bool)
	write := func(e *entry, name, help, label string, values ...any) {
		if !begun[name] {
			x.family(name, "gauge", help)
			begun[name] = true
		}
		for i := 0; i+1 < len(values); i += 2 {
			x.sample(name, values[i+1].(float64), label, values[i].(string), "model", e.model.Name, "version", strconv.Itoa(e.model.Version))
		}
	}
	for i, e := range models {
		if g := now[i]; e.model.Flavour == TRTLLM {
			write(e, requests, "TRT LLM request metrics", "request_type",
				"waiting", float64(g.waiting), "context", float64(g.prefilling), "scheduled", float64(g.active),
				"max", float64(e.model.Slots), "active", float64(g.active))
		}
	}
	for i, e := range models {
		if g := now[i]; e.model.Flavour == TRTLLM {
			used, most := float64(g.blocks), float64(e.model.KVBlocks)
			write(e, blocks, "TRT LLM KV cache block metrics", "kv_cache_block_type",
				"fraction", used/most, "tokens_per", float64(tokensPerBlock), "used", used, "free", most-used, "max", most)
		}
	}
}

// orca is the value of the endpoint-load-metrics header in the format that the
// client asked for; empty if it did not, or asked for another, or no model
// reports its KV cache. Of several models Triton takes the last.
func (p *process) orca(format string) string {
	if format != "text" && format != "json" {
		return ""
	}
	var last *entry
	for _, e := range p.repo.engines() {
		if e.model.Flavour == TRTLLM {
			last = e
		}
	}
	if last == nil {
		return ""
	}
	utilization := float64(last.engine.gauges().blocks) / float64(last.model.KVBlocks)
	capacity := last.model.KVBlocks * tokensPerBlock
	if format == "text" {
		return fmt.Sprintf("TEXT named_metrics.kv_cache_utilization=%.6f, named_metrics.max_token_capacity=%d", utilization, capacity)
	}
	value := strconv.FormatFloat(utilization, 'f', -1, 64)
	if !strings.Contains(value, ".") {
		value += ".0" // rapidjson keeps a double a double
	}
	return fmt.Sprintf(`JSON {"named_metrics":{"kv_cache_utilization":%s,"max_token_capacity":%d}}`, value, capacity)
}

// serveStats is the statistics extension, for one model or for all that are ready.
func (p *process) serveStats(w http.ResponseWriter, r *http.Request, name, version string) {
	p.serveGet(w, r, jsonType, func() (string, *apiError) {
		if err := p.serving(); err != nil {
			return "", err
		}
		rows := []string{}
		for _, e := range p.repo.engines() {
			if name != "" && name != e.model.Name {
				continue
			}
			if version != "" && version != strconv.Itoa(e.model.Version) {
				return "", invalid("requested model version is not available for model '%s'", name)
			}
			rows = append(rows, statsRow(e))
		}
		if name != "" && len(rows) == 0 {
			return "", invalid("requested model '%s' is not available", name)
		}
		return `{"model_stats":[` + strings.Join(rows, ",") + "]}", nil
	})
}

func statsRow(e *entry) string {
	g := e.engine.gauges()
	last := int64(0)
	if !g.last.IsZero() {
		last = g.last.UnixMilli()
	}
	var failed int64
	for _, n := range g.failures {
		failed += n
	}
	b := appendJSON([]byte(`{"name":`), e.model.Name)
	b = fmt.Appendf(b, `,"version":"%d","last_inference":%d,"inference_count":%d,"execution_count":%d,"inference_stats":{`,
		e.model.Version, last, g.success, g.success)
	duration := func(name string, count int64, d time.Duration) {
		b = fmt.Appendf(b, `"%s":{"count":%d,"ns":%d},`, name, count, d.Nanoseconds())
	}
	duration("success", g.success, g.request)
	duration("fail", failed, 0)
	duration("queue", g.success, g.queue)
	duration("compute_input", g.success, 0)
	duration("compute_infer", g.success, g.infer)
	duration("compute_output", g.success, 0)
	duration("cache_hit", 0, 0)
	duration("cache_miss", 0, 0)
	b = b[:len(b)-1]
	return string(b) + `},"response_stats":{},"batch_stats":[],"memory_usage":[]}`
}
