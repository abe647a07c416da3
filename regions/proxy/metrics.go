package proxy

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
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
	resumes  *prometheus.CounterVec   // model, result
	errors   *prometheus.CounterVec   // model
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
	m.resumes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rhumb_proxy_resumes_total",
		Help: "Streams that lost their pod, by what became of them: resumed, or why not.",
	}, []string{"model", "result"})
	m.errors = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rhumb_proxy_told_errors_total",
		Help: "Errors that pods told inside of answers whose status says that all is well.",
	}, []string{"model"})
	if reg != nil {
		reg.MustRegister(m.requests, m.ttft, m.inFlight, m.replays, m.spilled, m.resumes, m.errors)
	}
	return m
}

// ended counts a request. A model counts by name if somebody has it, here or there.
func (m *metrics) ended(model regions.ModelName, known bool, end regions.End) {
	label := otherModel
	if known {
		label = string(model)
	}
	m.requests.WithLabelValues(label, end.String()).Inc()
}

// told counts errors in-band.
func (m *metrics) told(model regions.ModelName, n int) {
	if n > 0 {
		m.errors.WithLabelValues(string(model)).Add(float64(n))
	}
}

// resumed counts a stream that lost its pod; err is why it was not resumed.
func (m *metrics) resumed(model regions.ModelName, err error) {
	result := "resumed"
	var refused *resume.RefusalError
	switch {
	case err == nil:
	case errors.As(err, &refused):
		result = string(refused.Reason)
	case errors.Is(err, errNoFingerprint):
		result = "no-fingerprint"
	case errors.Is(err, errNoResume):
		result = "off"
	default:
		result = "spent"
	}
	m.resumes.WithLabelValues(string(model), result).Inc()
}
