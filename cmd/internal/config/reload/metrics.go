package reload

import "github.com/prometheus/client_golang/prometheus"

// metrics of the configuration.
type metrics struct {
	reloads *prometheus.CounterVec
	good    prometheus.Gauge
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_config_reloads_total", Help: "Reloads of the configuration, taken or refused."}, []string{"result"}),
		good: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rhumb_config_last_reload_successful", Help: "1 while the files are what the daemon runs with, 0 since they were refused."}),
	}
	m.good.Set(1)
	if r != nil {
		r.MustRegister(m.reloads, m.good)
	}
	return m
}

// tried counts a reload.
func (m *metrics) tried(taken bool) {
	if taken {
		m.reloads.WithLabelValues("taken").Inc()
		m.good.Set(1)
		return
	}
	m.reloads.WithLabelValues("refused").Inc()
	m.good.Set(0)
}
