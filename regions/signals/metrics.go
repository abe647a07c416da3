package signals

import (
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
)

// metrics are what pods say of themselves, read when they are asked for: a pod
// that is gone or silent has no series, and never a zero that nobody measured.
type metrics struct {
	signals *Signals
	busy, memory, age, pending, wait,
	waiting, active, kv, slots, info *prometheus.Desc
	failed, unread prometheus.Counter
}

func newMetrics(s *Signals) *metrics {
	pod, model := []string{"pod"}, []string{"pod", "model"}
	return &metrics{
		signals: s,
		busy: prometheus.NewDesc("rhumb_pod_gpu_utilization_ratio",
			"Mean utilization of a pod's GPUs, from 0 to 1, as Triton reports it.", pod, nil),
		memory: prometheus.NewDesc("rhumb_pod_gpu_memory_used_ratio",
			"Memory in use of a pod's GPUs together, from 0 to 1, as Triton reports it.", pod, nil),
		age: prometheus.NewDesc("rhumb_pod_metrics_age_seconds",
			"How old the newest metrics of a pod are; what they say counts less with age.", pod, nil),
		pending: prometheus.NewDesc("rhumb_pod_pending_requests",
			"Requests that wait in a pod's own Triton queue; those inside a backend, such as vLLM's, are not seen.", model, nil),
		wait: prometheus.NewDesc("rhumb_pod_queue_wait_seconds",
			"Mean time in a pod's own Triton queue of the requests that it served between its two newest metrics.", model, nil),
		waiting: prometheus.NewDesc("rhumb_pod_waiting_requests",
			"Requests that wait inside a pod, whoever sent them, by its backend's own count or that of Triton's queue.", model, nil),
		active: prometheus.NewDesc("rhumb_pod_active_requests",
			"Requests that a pod's backend has, whoever sent them, by its own count.", model, nil),
		kv: prometheus.NewDesc("rhumb_pod_kv_cache_utilization_ratio",
			"How full a pod's KV cache is, from 0 to 1, by its metrics or the load reports beside its answers.", model, nil),
		slots: prometheus.NewDesc("rhumb_pod_slots",
			"Sequences that a pod runs at a time, and where the number comes from: reported, configured, learned or assumed.", []string{"pod", "model", "source"}, nil),
		info: prometheus.NewDesc("rhumb_pod_model_info",
			"1 for the load of a model that a pod has: its version and the hash of its configuration.", []string{"pod", "model", "version", "config"}, nil),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_pod_scrape_failures_total",
			Help: "Readings of pods' metrics that failed.",
		}),
		unread: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_pod_load_report_failures_total",
			Help: "Load reports beside pods' answers that could not be read.",
		}),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.busy, m.memory, m.age, m.pending, m.wait, m.waiting, m.active, m.kv, m.slots, m.info} {
		out <- d
	}
	m.failed.Describe(out)
	m.unread.Describe(out)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.failed.Collect(out)
	m.unread.Collect(out)
	// A name that is no UTF-8 can't be shown; the rest is.
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		if metric, err := prometheus.NewConstMetric(d, prometheus.GaugeValue, value, labels...); err == nil {
			out <- metric
		}
	}
	for _, x := range m.signals.states() {
		pod := string(x.pod)
		if x.age >= 0 {
			gauge(m.age, x.age.Seconds(), pod)
		}
		if x.age >= 0 && x.age <= stale {
			if x.page.GPUs > 0 {
				gauge(m.busy, x.page.Utilization, pod)
			}
			if x.page.MemoryTotal > 0 {
				gauge(m.memory, min(1, float64(x.page.MemoryUsed)/float64(x.page.MemoryTotal)), pod)
			}
		}
		for name, r := range x.readings {
			m.model(gauge, pod, string(name), &r)
		}
	}
}

// model shows a reading. What is known of slots and fingerprint does not grow old.
func (m *metrics) model(gauge func(*prometheus.Desc, float64, ...string), pod, name string, r *Reading) {
	f := &r.Facts
	gauge(m.slots, float64(r.Slots), pod, name, r.SlotsSource())
	if f.Fingerprint != (regions.Fingerprint{}) {
		gauge(m.info, 1, pod, name, strconv.FormatUint(uint64(f.Fingerprint.Version), 10), fmt.Sprintf("%016x", f.Fingerprint.ConfigHash))
	}
	if r.Pending >= 0 {
		gauge(m.pending, float64(r.Pending), pod, name)
	}
	if r.Wait >= 0 {
		gauge(m.wait, r.Wait.Duration().Seconds(), pod, name)
	}
	if r.Full >= 0 {
		gauge(m.kv, float64(r.Full)/float64(regions.Whole), pod, name)
	}
	if m.signals.options.Now().Sub(f.At) > stale { // also if it never said anything
		return
	}
	if f.Waiting >= 0 {
		gauge(m.waiting, float64(f.Waiting), pod, name)
	}
	if f.Active >= 0 {
		gauge(m.active, float64(f.Active), pod, name)
	}
}
