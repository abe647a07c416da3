package redirect

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What became of a request.
const (
	resultRedirected   = "redirected"
	resultDegraded     = "degraded" // redirected, or ranked, with all regions lost
	resultRanked       = "ranked"
	resultUnknownModel = "unknown_model"
	resultBarred       = "barred"
	resultNotReady     = "not_ready"
	resultNotFound     = "not_found"
	resultNoBody       = "no_body"
	resultBadMethod    = "bad_method"
	resultBadQuery     = "bad_query"
	resultForbidden    = "forbidden"
)

// What named the model.
const (
	byQuery   = "query"
	byPath    = "path"
	byHost    = "host"
	byHeader  = "header"
	byBody    = "body"
	byNothing = "nothing"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  prometheus.Histogram
}

func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	if registry == nil {
		registry = prometheus.NewRegistry()
	}
	requests, err := register(registry, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rhumb_redirect_requests_total",
		Help: "Requests to the redirector, by what became of them and by what named the model.",
	}, []string{"result", "named_by"}))
	if err != nil {
		return nil, err
	}
	seconds, err := register[prometheus.Histogram](registry, prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "rhumb_redirect_seconds",
		Help: "Time to an answer of the redirector; where the body names the model, with the wait for it.",
		// A decision takes microseconds; what takes longer waits for a body.
		Buckets: []float64{.0001, .0003, .001, .003, .01, .03, .1, .3, 1, 3, 10},
	}))
	if err != nil {
		return nil, err
	}
	return &metrics{requests: requests, seconds: seconds}, nil
}

// register adds a collector, or finds the one that an earlier handler added.
func register[C prometheus.Collector](registry *prometheus.Registry, c C) (C, error) {
	err := registry.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if old, ok := there.ExistingCollector.(C); ok {
			return old, nil
		}
	}
	if err != nil {
		return c, fmt.Errorf("register the redirector's metrics: %w", err)
	}
	return c, nil
}

func (m *metrics) count(a answer, took time.Duration) {
	m.requests.WithLabelValues(a.result, a.namedBy).Inc()
	m.seconds.Observe(took.Seconds())
}
