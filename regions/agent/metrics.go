package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions/scale"
)

var demandDesc = prometheus.NewDesc(
	"rhumb_scale_demand_slots",
	"Slots that this region's own clients use or wait for, wherever they are served; divide by a pod's slots for pods. Absent while it is not known.",
	[]string{"model"}, nil,
)

// demand is the metric by which a region is scaled. While the demand is not
// known the series are left out: Prometheus then has none to give, and an
// autoscaler that gets none leaves the pods as they are.
type demand struct {
	facts func() *scale.Facts
	now   func() time.Time
}

// Describe implements prometheus.Collector.
func (d *demand) Describe(to chan<- *prometheus.Desc) { to <- demandDesc }

// Collect implements prometheus.Collector.
func (d *demand) Collect(to chan<- prometheus.Metric) {
	all, err := scale.Demand(d.facts(), d.now())
	if err != nil {
		return // an invalid metric would take all others of the answer with it
	}
	for _, s := range all {
		to <- prometheus.MustNewConstMetric(demandDesc, prometheus.GaugeValue, float64(s.Demand)/1000, string(s.Model))
	}
}

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
