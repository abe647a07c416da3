package pool

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
)

type metrics struct {
	claims    *prometheus.CounterVec
	ends      *prometheus.CounterVec
	ejections *prometheus.CounterVec
	doubles   prometheus.Counter
}

func newMetrics(registry *prometheus.Registry) *metrics {
	m := &metrics{
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_pool_claims_total",
			Help: "Requests that asked for a pod, by what they got; the model is empty if it is unknown.",
		}, []string{"model", "result"}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_pool_requests_total",
			Help: "Requests that had a pod, by how they ended.",
		}, []string{"model", "end"}),
		ejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_pool_ejections_total",
			Help: "Pods taken out by the results of their requests, by reason: errors or slow.",
		}, []string{"model", "reason"}),
		doubles: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_pool_double_releases_total",
			Help: "Pods that were released more than once for one request, which is a bug.",
		}),
	}
	if registry != nil {
		registry.MustRegister(m.claims, m.ends, m.ejections, m.doubles)
	}
	return m
}

// claim counts a claim. The name of an unknown model is the client's word and
// must not become a label.
func (m *metrics) claim(model regions.ModelName, refusal Refusal) {
	if refusal == UnknownModel {
		model = ""
	}
	m.claims.WithLabelValues(string(model), refusal.String()).Inc()
}

func (m *metrics) end(model regions.ModelName, end regions.End) {
	m.ends.WithLabelValues(string(model), end.String()).Inc()
}
