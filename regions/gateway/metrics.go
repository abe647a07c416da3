package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// otherModel is the label of models that the region does not know: clients must
// not be able to make labels.
const otherModel = "_other"

type metrics struct {
	requests *prometheus.CounterVec   // route, model, key, code
	duration *prometheus.HistogramVec // route, model
	calls    *prometheus.CounterVec   // route, model, code
	// strangers are requests whose voucher was no good.
	strangers prometheus.Counter
}

// newMetrics makes the gateway's metrics and registers them, unless with nil.
func newMetrics(reg *prometheus.Registry) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_gateway_requests_total",
			Help: "Requests by route, model, key and status; model is empty for the gateway's own answers, key without one.",
		}, []string{"route", "model", "key", "code"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rhumb_gateway_grpc_calls_total",
			Help: "Calls of gRPC by route, model and status, which is none for those that were cut; all of them are in rhumb_gateway_requests_total, too.",
		}, []string{"route", "model", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rhumb_gateway_request_duration_seconds",
			Help: "Time from a request's head to the end of its answer.",
			// From a health check to a long generation.
			Buckets:                         []float64{.005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 180, 600},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"route", "model"}),
	}
	m.strangers = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rhumb_gateway_strangers_total",
		Help: "Requests that claimed to come from another region of the fleet and did not, or not in time.",
	})
	if reg != nil {
		reg.MustRegister(m.requests, m.duration, m.calls, m.strangers)
	}
	return m
}

func (m *metrics) observe(route, model, key string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, model, key, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(route, model).Observe(took.Seconds())
}
