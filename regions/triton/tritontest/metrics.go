package tritontest

import (
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

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
	value            func(core.Loaded, core.Gauges) float64
}

func micros(d time.Duration) float64 { return float64(d.Microseconds()) }

var afterFailures = []modelFamily{
	{"nv_inference_count", "counter", "Number of inferences performed (does not include cached requests)",
		func(_ core.Loaded, g core.Gauges) float64 { return float64(g.Success) }},
	{"nv_inference_exec_count", "counter", "Number of model executions performed (does not include cached requests)",
		func(_ core.Loaded, g core.Gauges) float64 { return float64(g.Success) }},
	{"nv_inference_request_duration_us", "counter", "Cumulative inference request duration in microseconds (includes cached requests)",
		func(_ core.Loaded, g core.Gauges) float64 { return micros(g.Request) }},
	{"nv_inference_queue_duration_us", "counter", "Cumulative inference queuing duration in microseconds (includes cached requests)",
		func(_ core.Loaded, g core.Gauges) float64 { return micros(g.Queue) }},
	{"nv_inference_compute_input_duration_us", "counter", "Cumulative compute input duration in microseconds (does not include cached requests)",
		func(core.Loaded, core.Gauges) float64 { return 0 }},
	{"nv_inference_compute_infer_duration_us", "counter", "Cumulative compute inference duration in microseconds (does not include cached requests)",
		func(_ core.Loaded, g core.Gauges) float64 { return micros(g.Infer) }},
	{"nv_inference_compute_output_duration_us", "counter", "Cumulative inference compute output duration in microseconds (does not include cached requests)",
		func(core.Loaded, core.Gauges) float64 { return 0 }},
	{"nv_inference_pending_request_count", "gauge", "Instantaneous number of pending requests awaiting execution per-model.",
		func(e core.Loaded, g core.Gauges) float64 {
			if !e.Model.Queues() {
				return 0
			}
			return float64(g.Waiting)
		}},
	{"nv_model_load_duration_secs", "gauge", "Model load time in seconds",
		func(e core.Loaded, _ core.Gauges) float64 { return e.Took.Seconds() }},
}

// metricsText is the answer of /metrics.
func (p *process) metricsText() string {
	x := new(exposition)
	models := p.core.Loaded()
	now := make([]core.Gauges, len(models))
	for i, e := range models {
		now[i] = e.Engine.Gauges()
	}
	each := func(f func(e core.Loaded, g core.Gauges, version string)) {
		for i, e := range models {
			f(e, now[i], strconv.Itoa(e.Model.Version))
		}
	}
	if len(models) > 0 {
		x.family("nv_inference_request_success", "counter", "Number of successful inference requests, all batch sizes")
		each(func(e core.Loaded, g core.Gauges, v string) {
			x.sample("nv_inference_request_success", float64(g.Success), "model", e.Model.Name, "version", v)
		})
		x.family("nv_inference_request_failure", "counter", "Number of failed inference requests, all batch sizes")
		each(func(e core.Loaded, g core.Gauges, v string) {
			for i, reason := range core.FailureNames {
				x.sample("nv_inference_request_failure", float64(g.Failures[i]), "model", e.Model.Name, "reason", reason, "version", v)
			}
		})
		for _, f := range afterFailures {
			x.family(f.name, f.kind, f.help)
			each(func(e core.Loaded, g core.Gauges, v string) {
				x.sample(f.name, f.value(e, g), "model", e.Model.Name, "version", v)
			})
		}
	}
	x.family("nv_gpu_utilization", "gauge", "GPU utilization rate [0.0 - 1.0)")
	x.sample("nv_gpu_utilization", p.core.GPU(), "gpu_uuid", "GPU-00000000-0000-0000-0000-000000000000")
	x.trtllm(models, now)
	x.vllm(models)
	return x.String()
}

// trtllm writes what the TensorRT-LLM backend reports of its models.
func (x *exposition) trtllm(models []core.Loaded, now []core.Gauges) {
	const requests, blocks = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"
	begun := make(map[string]bool)
	write := func(e core.Loaded, name, help, label string, values ...any) {
		if !begun[name] {
			x.family(name, "gauge", help)
			begun[name] = true
		}
		for i := 0; i+1 < len(values); i += 2 {
			x.sample(name, values[i+1].(float64), label, values[i].(string), "model", e.Model.Name, "version", strconv.Itoa(e.Model.Version))
		}
	}
	for i, e := range models {
		if g := now[i]; e.Model.Flavour == TRTLLM {
			write(e, requests, "TRT LLM request metrics", "request_type",
				"waiting", float64(g.Waiting), "context", float64(g.Prefilling), "scheduled", float64(g.Active),
				"max", float64(e.Model.Slots), "active", float64(g.Active))
		}
	}
	for i, e := range models {
		if g := now[i]; e.Model.Flavour == TRTLLM {
			used, most := float64(g.Blocks), float64(e.Model.KVBlocks)
			write(e, blocks, "TRT LLM KV cache block metrics", "kv_cache_block_type",
				"fraction", used/most, "tokens_per", float64(core.TokensPerBlock), "used", used, "free", most-used, "max", most)
		}
	}
}

// vllm writes what the vLLM backend reports with custom metrics.
func (x *exposition) vllm(models []core.Loaded) {
	begun := make(map[string]bool)
	family := func(s core.Series, kind string) {
		if !begun[s.Name] {
			x.family(s.Name, kind, s.Help)
			begun[s.Name] = true
		}
	}
	var all []core.Series // of the same names for every model
	for _, e := range models {
		if e.Model.CustomMetrics {
			all = append(all, e.Engine.Series()...)
		}
	}
	sort.SliceStable(all, func(i, k int) bool { return all[i].Name < all[k].Name })
	for _, s := range all {
		labels := []string{"model", s.Model.Name, "version", strconv.Itoa(s.Model.Version)}
		if s.Bounds == nil {
			family(s, "counter")
			x.sample(s.Name, s.Sum, labels...)
			continue
		}
		family(s, "histogram")
		count := int64(0)
		for i, n := range s.Counts {
			count += n
			bound := "+Inf"
			if i < len(s.Bounds) {
				bound = strconv.FormatFloat(s.Bounds[i], 'f', -1, 64)
			}
			x.sample(s.Name+"_bucket", float64(count), append(labels, "le", bound)...)
		}
		x.sample(s.Name+"_count", float64(count), labels...)
		x.sample(s.Name+"_sum", s.Sum, labels...)
	}
}

// orca is the value of the endpoint-load-metrics header in the format that the
// client asked for; empty if it did not, or asked for another, or no model
// reports its KV cache. Of several models Triton takes the last.
func (p *process) orca(format string) string {
	if format != "text" && format != "json" {
		return ""
	}
	var last *core.Loaded
	for _, e := range p.core.Loaded() {
		if e.Model.Flavour == TRTLLM {
			last = &e
		}
	}
	if last == nil {
		return ""
	}
	utilization := float64(last.Engine.Gauges().Blocks) / float64(last.Model.KVBlocks)
	capacity := last.Model.KVBlocks * core.TokensPerBlock
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
	p.serveGet(w, r, jsonType, func() (string, *core.Error) {
		if err := p.core.Serving(); err != nil {
			return "", err
		}
		rows := []string{}
		for _, e := range p.core.Loaded() {
			if name != "" && name != e.Model.Name {
				continue
			}
			if version != "" && version != strconv.Itoa(e.Model.Version) {
				return "", core.Invalid("requested model version is not available for model '%s'", name)
			}
			rows = append(rows, statsRow(e))
		}
		if name != "" && len(rows) == 0 {
			return "", core.Invalid("requested model '%s' is not available", name)
		}
		return `{"model_stats":[` + strings.Join(rows, ",") + "]}", nil
	})
}

func statsRow(e core.Loaded) string {
	g := e.Engine.Gauges()
	last := int64(0)
	if !g.Last.IsZero() {
		last = g.Last.UnixMilli()
	}
	var failed int64
	for _, n := range g.Failures {
		failed += n
	}
	b := appendJSON([]byte(`{"name":`), e.Model.Name)
	b = fmt.Appendf(b, `,"version":"%d","last_inference":%d,"inference_count":%d,"execution_count":%d,"inference_stats":{`,
		e.Model.Version, last, g.Success, g.Success)
	duration := func(name string, count int64, d time.Duration) {
		b = fmt.Appendf(b, `"%s":{"count":%d,"ns":%d},`, name, count, d.Nanoseconds())
	}
	duration("success", g.Success, g.Request)
	duration("fail", failed, 0)
	duration("queue", g.Success, g.Queue)
	duration("compute_input", g.Success, 0)
	duration("compute_infer", g.Success, g.Infer)
	duration("compute_output", g.Success, 0)
	duration("cache_hit", 0, 0)
	duration("cache_miss", 0, 0)
	b = b[:len(b)-1]
	b = append(b, `},"response_stats":{},"batch_stats":[`...)
	if g.Success > 0 { // Triton itself gives a backend one request at a time
		b = append(b, `{"batch_size":1,`...)
		duration("compute_input", g.Success, 0)
		duration("compute_infer", g.Success, g.Infer)
		duration("compute_output", g.Success, 0)
		b = append(b[:len(b)-1], '}')
	}
	return string(b) + `],"memory_usage":[]}`
}
