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
