package admit

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
)

type metrics struct {
	ends   *prometheus.CounterVec
	waited *prometheus.HistogramVec
}

func newMetrics(registry *prometheus.Registry) *metrics {
	m := &metrics{
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_admit_refused_total",
			Help: "Requests that were not let in for want of a place, by reason: queue-full, queue-timeout, queue-crowded, or left.",
		}, []string{"model", "reason"}),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rhumb_admit_wait_seconds",
			Help: "How long requests waited for a place; those that found one at once are not in it.",
			// From the next event of a neighbour to the longest wait.
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 180, 600},
		}, []string{"model"}),
	}
	if registry != nil {
		registry.MustRegister(m.ends, m.waited)
	}
	return m
}

// entered counts who was not let in.
func (m *metrics) entered(model regions.ModelName, err error) {
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		m.ends.WithLabelValues(string(model), refused.Reason.String()).Inc()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		m.ends.WithLabelValues(string(model), "left").Inc()
	}
}
