package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rhumb-lb/rhumb/regions"
)

// otherModel is the label of requests for models that nobody here knows:
// clients must not be able to make labels.
const otherModel = "_other"

type metrics struct {
	requests *prometheus.CounterVec   // model, end
	ttft     *prometheus.HistogramVec // model
	inFlight *prometheus.GaugeVec     // model
	replays  *prometheus.CounterVec   // model
	spilled  *prometheus.CounterVec   // model, direction
}

// newMetrics makes the proxy's metrics and registers them, unless with nil.
func newMetrics(reg *prometheus.Registry) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_proxy_requests_total",
			Help: "Requests by model and how they ended.",
		}, []string{"model", "end"}),
		ttft: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rhumb_proxy_ttft_seconds",
			Help: "Time from a request being read to the first byte of its answer, replays included.",
			// From a warm embedding to a prompt behind a long queue.
			Buckets:                         []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 180, 600},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"model"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rhumb_proxy_in_flight",
			Help: "Requests that hold a pod or a place in another region.",
		}, []string{"model"}),
		replays: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_proxy_replays_total",
			Help: "Requests sent again elsewhere after a loss before the first byte.",
		}, []string{"model"}),
		spilled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_proxy_spilled_total",
			Help: "Requests sent to another region (out) or taken over from one (in).",
		}, []string{"model", "direction"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.ttft, m.inFlight, m.replays, m.spilled)
	}
	return m
}

// ended counts a request. A model counts by name once a pod or region was had
// for it, or it is known to have none.
func (m *metrics) ended(model regions.ModelName, known bool, end regions.End) {
	label := otherModel
	if known {
		label = string(model)
	}
	m.requests.WithLabelValues(label, end.String()).Inc()
}
