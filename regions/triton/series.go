package triton

import (
	"fmt"

	"github.com/prometheus/common/model"

	"github.com/rhumb-lb/rhumb/regions"
)

// The metrics that are read: those of Triton as core/metrics.cc names them, and
// those that its TensorRT-LLM and vLLM backends add.
const (
	metricGPU         = "nv_gpu_utilization"
	metricMemoryUsed  = "nv_gpu_memory_used_bytes"
	metricMemoryTotal = "nv_gpu_memory_total_bytes"
	metricBatch       = "nv_trt_llm_request_metrics"
	metricKV          = "nv_trt_llm_kv_cache_block_metrics"
)

// counters are the metrics of a model that are sums.
var counters = map[string]func(*ModelMetrics, float64){
	"nv_inference_pending_request_count": func(m *ModelMetrics, v float64) { m.Pending = max(m.Pending, 0) + int64(v) },
	"nv_inference_queue_duration_us":     func(m *ModelMetrics, v float64) { m.Queued += regions.Micros(v) },
	"nv_inference_request_success":       func(m *ModelMetrics, v float64) { m.Served += int64(v) },
	"nv_inference_request_failure":       func(m *ModelMetrics, v float64) { m.Failed += int64(v) },

	"vllm:prompt_tokens_total":                 func(m *ModelMetrics, v float64) { m.tokens().Prompt += int64(v) },
	"vllm:generation_tokens_total":             func(m *ModelMetrics, v float64) { m.tokens().Generated += int64(v) },
	"vllm:time_to_first_token_seconds_sum":     func(m *ModelMetrics, v float64) { m.tokens().TTFT += micros(v) },
	"vllm:time_to_first_token_seconds_count":   func(m *ModelMetrics, v float64) { m.tokens().FirstTokens += int64(v) },
	"vllm:time_per_output_token_seconds_sum":   func(m *ModelMetrics, v float64) { m.tokens().PerToken += micros(v) },
	"vllm:time_per_output_token_seconds_count": func(m *ModelMetrics, v float64) { m.tokens().LaterTokens += int64(v) },
}

// micros converts seconds, of which a page can claim more than there are.
func micros(seconds float64) regions.Micros {
	return regions.Micros(min(seconds*1e6, maxValue))
}

// known reports whether a metric is read.
func known(name string) bool {
	switch name {
	case metricGPU, metricMemoryUsed, metricMemoryTotal, metricBatch, metricKV:
		return true
	default:
		return counters[name] != nil
	}
}

// add takes in one sample.
func (m *Metrics) add(s *model.Sample) error {
	metric, value := string(s.Metric[model.MetricNameLabel]), float64(s.Value)
	if metric == metricGPU {
		// A driver that can't tell writes something huge, or not a number.
		if value >= 0 && value <= 1 {
			m.GPUs++
			m.Utilization += value
		}
		return nil
	}
	fine := value >= 0 && value <= maxValue // not a number, it is neither
	switch metric {
	case metricMemoryUsed, metricMemoryTotal:
		if fine {
			m.memory(metric, int64(value))
		}
		return nil
	}
	name := regions.ModelName(s.Metric["model"])
	if name == "" {
		return fmt.Errorf("%s has no model", metric)
	}
	if metric == metricKV && s.Metric["kv_cache_block_type"] == "fraction" && !(value >= 0 && value <= 1) {
		return nil // of a cache without blocks, by a division by 0
	}
	if !fine {
		return fmt.Errorf("%s of model %q is %v", metric, string(name), value)
	}
	of, met := m.Models[name]
	if !met {
		of.Pending = -1
	}
	switch metric {
	case metricBatch:
		of.batch(string(s.Metric["request_type"]), int64(value))
	case metricKV:
		of.cache(string(s.Metric["kv_cache_block_type"]), value)
	default:
		counters[metric](&of, value)
	}
	m.Models[name] = of
	return nil
}

// memory takes in what a GPU says of its memory.
func (m *Metrics) memory(metric string, bytes int64) {
	if metric == metricMemoryUsed {
		m.MemoryUsed += bytes
	} else {
		m.MemoryTotal += bytes
	}
}

// batch takes in one of the gauges of in-flight batching.
func (m *ModelMetrics) batch(kind string, n int64) {
	if m.Batch == nil {
		m.Batch = &Batch{Waiting: -1, Active: -1, Scheduled: -1, Context: -1, Max: -1}
	}
	into := map[string]*int64{
		"waiting": &m.Batch.Waiting, "active": &m.Batch.Active, "scheduled": &m.Batch.Scheduled,
		"context": &m.Batch.Context, "max": &m.Batch.Max,
	}[kind]
	if into != nil {
		*into = max(*into, 0) + n
	}
}

// cache takes in one of the gauges of a KV cache.
func (m *ModelMetrics) cache(kind string, value float64) {
	if m.KV == nil {
		m.KV = &KVCache{Fraction: -1}
	}
	switch kind {
	case "used":
		m.KV.Used += int64(value)
	case "max":
		m.KV.Max += int64(value)
	case "tokens_per":
		m.KV.PerBlock = int64(value)
	case "fraction":
		m.KV.Fraction = value
	}
}

func (m *ModelMetrics) tokens() *Tokens {
	if m.Tokens == nil {
		m.Tokens = &Tokens{}
	}
	return m.Tokens
}
