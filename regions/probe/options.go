package probe

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
)

// Prober asks pods.
type Prober interface {
	// Probe asks a pod once, on a fresh connection, whether it serves a model,
	// and returns when ctx is done at the latest. Of the observation only the
	// sight is used; zero means that nothing was learnt of the pod. It is called
	// from many goroutines.
	Probe(ctx context.Context, pod regions.Pod, model regions.ModelName) regions.Observation
}

// Options configure a [Runner].
type Options struct {
	Policy Policy
	// Timeout is how long a probe waits for an answer.
	Timeout time.Duration
	// Concurrency is how many probes run at a time.
	Concurrency int
	// Canary makes the canaries of [Policy.Canary]; nil makes none. It is asked like
	// a Prober, and the sight is of a whole generation.
	Canary Prober
	// CanaryTimeout is how long a canary waits for its token.
	CanaryTimeout time.Duration
	// CanaryConcurrency is how many canaries run at a time.
	CanaryConcurrency int
	// OnChange is told of every change of a pod's state for a model, and of the
	// first sight of each pod and model even if it changes nothing, so that the
	// receiver's picture is right one sight after a pod was set, whatever it
	// held before. Calls for one pod and model are in order and never overlap;
	// after the SetPods that removes them there are none. It must be quick and
	// must not call the Runner.
	OnChange func(pod regions.PodID, model regions.ModelName, from, to regions.PodState, why string)
	// OnSuspect is told when a pod that takes requests becomes suspect ([State.Suspect])
	// and when it is no more, by the same rules. Nil: nobody is.
	OnSuspect func(pod regions.PodID, model regions.ModelName, suspect bool)
	// Logger gets a line for each change of state. Nil discards it.
	Logger *slog.Logger
	// Registry gets the metrics. Nil keeps them to the Runner.
	Registry *prometheus.Registry
}

// DefaultOptions gives a timeout of 400 ms, the longest with which two
// timeouts fit beside the wait for the first probe into 1.3 s and one answer is
// still known before the next probe is due; and 256 probes at a time, so that
// 256 pods that all hang are each probed without waiting for another, at the
// price of 256 file descriptors at worst.
//
// A canary waits 10 s for one token: it reads a prompt of a few words, and whoever
// waits longer on a pod that serves nobody meanwhile has waited for nothing. 32 at
// a time are 3 a second if all of them hang, and hundreds if none does.
func DefaultOptions() Options {
	return Options{
		Policy: DefaultPolicy(), Timeout: 400 * time.Millisecond, Concurrency: 256,
		CanaryTimeout: 10 * time.Second, CanaryConcurrency: 32,
	}
}
