package core

import (
	"slices"
	"time"
)

// Series is one of the metrics that the vLLM backend has of a model: a histogram,
// or without bounds a counter, whose value is the sum.
type Series struct {
	Name, Help string
	Model      Model
	Bounds     []float64 // upper ones, ascending
	Counts     []int64   // of each bound, not cumulative; the last is beyond all
	Sum        float64
}

func (s *Series) add(v float64) {
	if s.Sum += v; s.Bounds == nil {
		return
	}
	i := 0
	for i < len(s.Bounds) && v > s.Bounds[i] {
		i++
	}
	s.Counts[i]++
}

// backendStats are those series. Other than Triton's own counters they change
// with every token.
type backendStats struct {
	promptTokens, generatedTokens, firstToken, perToken, request, requestPrompt, requestGenerated, requestN Series
}

// newBackendStats has the names and bounds of the backend's adapter.
func newBackendStats(m Model) backendStats {
	series := func(name, help string, bounds ...float64) Series {
		s := Series{Name: "vllm:" + name, Help: help, Model: m, Bounds: bounds}
		if bounds != nil {
			s.Counts = make([]int64, len(bounds)+1)
		}
		return s
	}
	tokens := steps(m.MaxTokens)
	return backendStats{
		promptTokens:    series("prompt_tokens_total", "Number of prefill tokens processed."),
		generatedTokens: series("generation_tokens_total", "Number of generation tokens processed."),
		firstToken: series("time_to_first_token_seconds", "Histogram of time to first token in seconds.",
			0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
		perToken: series("time_per_output_token_seconds", "Histogram of time per output token in seconds.",
			0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5),
		request: series("e2e_request_latency_seconds", "Histogram of end to end request latency in seconds.",
			1, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
		requestPrompt:    series("request_prompt_tokens", "Number of prefill tokens processed.", tokens...),
		requestGenerated: series("request_generation_tokens", "Number of generation tokens processed.", tokens...),
		requestN:         series("request_params_n", "Histogram of the n request parameter.", 1, 2, 5, 10, 20),
	}
}

// steps are 1, 2, 5, 10, 20, 50 and so on, up to most.
func steps(most int) []float64 {
	out := []float64{1}
	for power := 1; ; power *= 10 {
		for _, digit := range []int{1, 2, 5} {
			if v := digit * power; v > most {
				return out
			} else if v > 1 {
				out = append(out, float64(v))
			}
		}
	}
}

// observe notes the n-th token of a request, whose last one (or arrival) was at
// last.
func (e *Engine) observe(last *time.Time, n int, q Request) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stats.generatedTokens.add(1); n == 1 {
		e.stats.promptTokens.add(float64(q.PromptTokens))
		e.stats.firstToken.add(now.Sub(*last).Seconds())
	} else {
		e.stats.perToken.add(now.Sub(*last).Seconds())
	}
	*last = now
}

// observeEnd notes a request that took so long for n tokens.
func (e *Engine) observeEnd(took time.Duration, n int, q Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.request.add(took.Seconds())
	e.stats.requestPrompt.add(float64(q.PromptTokens))
	e.stats.requestGenerated.add(float64(n))
	e.stats.requestN.add(1)
}

// Series reads the metrics of the backend.
func (e *Engine) Series() []Series {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	out := []Series{s.promptTokens, s.generatedTokens, s.firstToken, s.perToken, s.request, s.requestPrompt, s.requestGenerated, s.requestN}
	for i := range out {
		out[i].Counts = slices.Clone(out[i].Counts)
	}
	return out
}
