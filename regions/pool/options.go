package pool

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/outlier"
)

// Options configure a [Pool].
type Options struct {
	// Models are known from the start, so that a request for one of them is
	// refused for want of a pod, not as unknown, before the first pod is found.
	Models []regions.ModelName
	// DefaultSlots is how many sequences a pod is taken to run at a time where
	// neither it nor discovery says, and nothing was learnt yet.
	DefaultSlots int
	// Outlier judges pods by the results of their requests.
	Outlier outlier.Policy
	// HalfLife is the time in which a finished request's weight in the pool's
	// mean residence and TTFT halves.
	HalfLife time.Duration
	// Selector makes the selector of a model, once; nil is [balance.LeastConnections]
	// for each.
	Selector func(regions.ModelName) balance.Selector
	// Seed is what each agent of a region draws for itself: which of two equal pods
	// is first.
	Seed uint64
	// OnFree is called, without the pool's lock, after there may be room for more
	// requests of a model than before. It must be quick; it may be called for
	// nothing.
	OnFree func(regions.ModelName)
	// OnDone is called, without the pool's lock, with how each request ended that
	// took a slot.
	OnDone func(now time.Time, r Result)
	// Registry gets the metrics. Nil keeps them to the Pool.
	Registry *prometheus.Registry
}

// Result is how one request on a pod went, for whoever learns of the pod by it.
type Result struct {
	Pod   regions.PodID
	Model regions.ModelName
	// InFlight is the model's requests that were on the pod when this one was
	// claimed, of all agents as far as known, and Ahead how many the pod said wait
	// inside of it.
	InFlight, Ahead int
	Outcome         regions.Outcome
}

// DefaultOptions have ten seconds of half-life, which hold enough generations (1 to 60 s each)
// to average over their lengths, and forget a slow minute in a minute. Eight
// sequences are what an inference server batches with its defaults on one GPU.
func DefaultOptions() Options {
	return Options{
		DefaultSlots: 8,
		Outlier:      outlier.DefaultPolicy(),
		HalfLife:     10 * time.Second,
	}
}
