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
}

// timing is when a request did what.
type timing struct{ arrived, begun time.Time }

// fail counts a request that failed.
func (e *Engine) fail(why failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts.Failures[why]++
}

// count counts a request that has ended. What a Python backend answers with an
// error, or gives up because its client has left, is a success to Triton: the
// execution was one.
func (e *Engine) count(t timing, err error) {
	switch {
	case errors.Is(err, errQueueFull), errors.Is(err, errQueueTimeout):
		e.fail(failRejected)
	case errors.Is(err, errDead):
		e.fail(failBackend)
	case t.begun.IsZero() && errors.Is(err, context.Canceled):
		e.fail(failCanceled) // in Triton's queue
	case t.begun.IsZero() && err != nil:
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
