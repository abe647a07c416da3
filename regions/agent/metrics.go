package agent

import "github.com/prometheus/client_golang/prometheus"

// podMetrics are what pods say of themselves, read when they are asked for: a pod
// that is gone or silent has no series, and never a zero that nobody measured.
type podMetrics struct {
	readings func() []reading
	busy     *prometheus.Desc
	pending  *prometheus.Desc
	failed   prometheus.Counter
}

func newPodMetrics(readings func() []reading) *podMetrics {
	return &podMetrics{
		readings: readings,
		busy: prometheus.NewDesc("rhumb_pod_gpu_utilization_ratio",
			"Mean utilization of a pod's GPUs, from 0 to 1, as Triton reports it.", []string{"pod"}, nil),
		pending: prometheus.NewDesc("rhumb_pod_pending_requests",
			"Requests that wait in a pod's own Triton queue; those inside a backend, such as vLLM's, are not seen.", []string{"pod", "model"}, nil),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_pod_scrape_failures_total",
			Help: "Readings of pods' metrics that failed.",
		}),
	}
}

// Describe implements prometheus.Collector.
func (m *podMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.busy
	out <- m.pending
	m.failed.Describe(out)
}

// Collect implements prometheus.Collector.
func (m *podMetrics) Collect(out chan<- prometheus.Metric) {
	m.failed.Collect(out)
	// A name that is no UTF-8 can't be shown; the rest is.
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		if metric, err := prometheus.NewConstMetric(d, prometheus.GaugeValue, value, labels...); err == nil {
			out <- metric
		}
	}
	for _, r := range m.readings() {
		if r.gpus > 0 {
			gauge(m.busy, r.busy, string(r.pod))
		}
		for model, n := range r.pending {
			gauge(m.pending, float64(n), string(r.pod), string(model))
		}
	}
}
