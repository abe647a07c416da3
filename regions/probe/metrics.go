package probe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
)

type metrics struct {
	sights   *prometheus.CounterVec
	changes  *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	canaries *prometheus.CounterVec
}

func newMetrics(registry *prometheus.Registry) *metrics {
	m := &metrics{
		sights: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_probe_sights_total",
			Help: "What probes and requests saw of a pod, by sight.",
		}, []string{"model", "pod", "sight"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_probe_state_changes_total",
			Help: "Changes of a pod's state, by the new state.",
		}, []string{"model", "pod", "state"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rhumb_probe_duration_seconds",
			Help: "How long probes took until their answer or failure.",
			// From a loopback answer to past the default timeout.
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .4, .8},
		}, []string{"model"}),
		canaries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_probe_canaries_total",
			Help: "Generations of one token that were made to see whether a pod generates, by what was seen.",
		}, []string{"model", "pod", "sight"}),
	}
	if registry != nil {
		registry.MustRegister(m.sights, m.changes, m.seconds, m.canaries)
	}
	return m
}

func (m *metrics) saw(obs regions.Observation) {
	m.sights.WithLabelValues(string(obs.Model), string(obs.Pod), obs.Sight.String()).Inc()
}

func (m *metrics) sang(obs regions.Observation) {
	m.canaries.WithLabelValues(string(obs.Model), string(obs.Pod), obs.Sight.String()).Inc()
}

func (m *metrics) changed(pod regions.PodID, model regions.ModelName, to regions.PodState) {
	m.changes.WithLabelValues(string(model), string(pod), to.String()).Inc()
}

// forget drops the series of a pod that is no more, so that pods that come and
// go do not add up for ever.
func (m *metrics) forget(pod regions.PodID, model regions.ModelName) {
	labels := prometheus.Labels{"pod": string(pod), "model": string(model)}
	m.sights.DeletePartialMatch(labels)
	m.changes.DeletePartialMatch(labels)
	m.canaries.DeletePartialMatch(labels)
}
