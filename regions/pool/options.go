package pool

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
)

// Options configure a [Pool].
type Options struct {
	// Models are known from the start, so that a request for one of them is
	// refused for want of a pod, not as unknown, before the first pod is found.
	Models []regions.ModelName
	// SlowStart is how long a warming pod takes to count in full.
	SlowStart time.Duration
	// FirstShare is the part of a warming pod's slots that counts at the
	// beginning of its slow start; from there it rises in a straight line.
	FirstShare regions.Permille
	// HalfLife is the time in which a finished request's weight in the pool's
	// mean residence and TTFT halves.
	HalfLife time.Duration
	// Selector chooses among the pods that may serve a request.
	Selector Selector
	// Registry gets the metrics. Nil keeps them to the Pool.
	Registry *prometheus.Registry
}

// DefaultOptions gives a slow start of 10 s from a tenth of a pod's slots: next
// to full neighbours, a pod of 8 slots is given its first request after 0.2 s,
// its second after 1.4 s and its eighth after 9 s. Ten seconds of half-life hold enough generations (1 to 60 s
// each) to average over their lengths, and forget a slow minute in a minute.
func DefaultOptions() Options {
	return Options{
		SlowStart:  10 * time.Second,
		FirstShare: 100,
		HalfLife:   10 * time.Second,
		Selector:   LeastConnections{},
	}
}
