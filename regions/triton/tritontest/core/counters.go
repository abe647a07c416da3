package core

import (
	"context"
	"errors"
	"time"
)

// TokensPerBlock is TensorRT-LLM's usual size of a KV cache block.
const TokensPerBlock = 64

// failure is a reason of nv_inference_request_failure, in Triton's order.
type failure int

const (
	failRejected failure = iota
	failCanceled
	failBackend
	failOther
)

// FailureNames are the reasons of Counters.Failures.
var FailureNames = [...]string{"REJECTED", "CANCELED", "BACKEND", "OTHER"}

// Counters are what Triton counts of a loaded model. They change only when a
// request is over.
type Counters struct {
	Success  int64
	Failures [len(FailureNames)]int64
	Request  time.Duration // of successes, from arrival to end
	Queue    time.Duration // of successes, in Triton's own queue
	Infer    time.Duration // of successes, in the backend
	Last     time.Time     // end of the last success

	Prompt, Generated int64 // tokens of successes

	FirstToken, PerToken, EndToEnd Histogram // of successes
}

// Histogram counts times by the buckets of vLLM's adapter.
type Histogram struct {
	Counts [len(Buckets) + 1]int64 // not cumulative; the last is beyond all
	Sum    time.Duration
}

// Buckets are upper bounds, fine enough for both tokens and requests.
var Buckets = [...]time.Duration{
	time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, time.Minute,
}

func (h *Histogram) add(d time.Duration) {
	i := 0
	for i < len(Buckets) && d > Buckets[i] {
		i++
	}
	h.Counts[i]++
	h.Sum += d
}

func (h *Histogram) merge(other Histogram) {
	for i, n := range other.Counts {
		h.Counts[i] += n
	}
	h.Sum += other.Sum
}

// timing is when a request did what.
type timing struct {
	arrived, begun, first, last time.Time
	prompt, generated           int       // tokens
	between                     Histogram // of tokens
}

// token notes a generated token.
func (t *timing) token(now time.Time) {
	if t.generated++; t.generated == 1 {
		t.first = now
	} else {
		t.between.add(now.Sub(t.last))
	}
	t.last = now
}

// fail counts a request that failed.
func (e *Engine) fail(why failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts.Failures[why]++
}

// count counts a request that has ended.
func (e *Engine) count(t timing, err error) {
	switch {
	case errors.Is(err, errQueueFull), errors.Is(err, errQueueTimeout):
		e.fail(failRejected)
	case errors.Is(err, errInBand), errors.Is(err, errDead):
		e.fail(failBackend)
	case errors.Is(err, context.Canceled):
		e.fail(failCanceled)
	case err != nil:
		e.fail(failOther)
	default:
		now := time.Now()
		e.mu.Lock()
		defer e.mu.Unlock()
		c := &e.counts
		c.Success++
		c.Request += now.Sub(t.arrived)
		c.Queue += t.begun.Sub(t.arrived)
		c.Infer += now.Sub(t.begun)
		c.Last = now
		c.Prompt += int64(t.prompt)
		c.Generated += int64(t.generated)
		c.FirstToken.add(t.first.Sub(t.arrived))
		c.EndToEnd.add(now.Sub(t.arrived))
		c.PerToken.merge(t.between)
	}
}

// Gauges are a loaded model's numbers at one moment.
type Gauges struct {
	Counters
	Waiting, Active, Prefilling int
	Blocks                      int // of the KV cache, in use
}

// Gauges reads the numbers of the engine.
func (e *Engine) Gauges() Gauges {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := Gauges{Counters: e.counts, Waiting: len(e.waiting), Active: len(e.running)}
	for s := range e.running {
		g.Blocks += int(s.tokens.Load()+TokensPerBlock-1) / TokensPerBlock
		if !s.prefilled.Load() {
			g.Prefilling++
		}
	}
	g.Blocks = min(g.Blocks, e.model.KVBlocks)
	return g
}
