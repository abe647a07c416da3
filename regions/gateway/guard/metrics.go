package guard

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	refused *prometheus.CounterVec // reason
	closed  *prometheus.CounterVec // reason
	asked   prometheus.Counter
	stage   prometheus.Gauge
}

// newMetrics makes the guard's metrics and registers them, unless with nil.
func newMetrics(reg *prometheus.Registry, connections func() int) *metrics {
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_guard_refused_total",
			Help: "Clients' connections that were closed as they came, by the limit that was reached: connections, client or memory.",
		}, []string{"reason"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_guard_closed_total",
			Help: "Clients' connections that were closed: idle ones for a limit (connections, client or memory), and those that gave up too many requests (resets).",
		}, []string{"reason"}),
		asked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_guard_asked_to_leave_total",
			Help: "Clients' connections that were asked to go because their clients are to be served elsewhere.",
		}),
		stage: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rhumb_guard_memory_stage",
			Help: "0 with enough memory, 1 while idle connections are closed for want of it, 2 while nothing new is let in.",
		}),
	}
	for _, reason := range []string{"connections", "client", "memory"} {
		m.refused.WithLabelValues(reason)
		m.closed.WithLabelValues(reason)
	}
	m.closed.WithLabelValues("resets")
	if reg != nil {
		reg.MustRegister(m.refused, m.closed, m.asked, m.stage, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rhumb_guard_connections",
			Help: "Clients' connections.",
		}, func() float64 { return float64(connections()) }))
	}
	return m
}
