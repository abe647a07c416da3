package discovery

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what the sources of one agent do.
type Metrics struct {
	lookups *prometheus.CounterVec
	healed  *prometheus.CounterVec
	gone    *prometheus.GaugeVec
	pods    *prometheus.GaugeVec
}

// NewMetrics makes the metrics of all sources together and registers them,
// unless with nil.
func NewMetrics(registry *prometheus.Registry) *Metrics {
	m := &Metrics{
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_discovery_lookups_total",
			Help: "Lookups of a name that has pods, one for each family or for SRV, by result: found, none or error.",
		}, []string{"name", "result"}),
		healed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_discovery_healed_total",
			Help: "EndpointSlices that a complete list found to differ from what the watch had told.",
		}, []string{"name"}),
		gone: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rhumb_discovery_away",
			Help: "1 while a source of pods does not answer and its pods stay as they were.",
		}, []string{"name"}),
		pods: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rhumb_discovery_pods",
			Help: "Pods that a source has found, whatever their state.",
		}, []string{"name"}),
	}
	if registry != nil {
		registry.MustRegister(m.lookups, m.healed, m.gone, m.pods)
	}
	return m
}

func (m *Metrics) lookedUp(name string, a answer) {
	result := "found"
	switch {
	case a.err != nil:
		result = "error"
	case len(a.at) == 0:
		result = "none"
	}
	m.lookups.WithLabelValues(name, result).Inc()
}

func (m *Metrics) missed(name string, differences int) {
	m.healed.WithLabelValues(name).Add(float64(differences))
}

func (m *Metrics) away(name string, is bool) {
	v := 0.0
	if is {
		v = 1
	}
	m.gone.WithLabelValues(name).Set(v)
}

func (m *Metrics) found(name string, pods int) { m.pods.WithLabelValues(name).Set(float64(pods)) }

// forget drops the gauges of a source that has ended.
func (m *Metrics) forget(name string) {
	m.gone.DeleteLabelValues(name)
	m.pods.DeleteLabelValues(name)
}
