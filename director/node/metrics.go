package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

// metrics are the director's own. Labels are regions and models, which only the
// fleet's certificates can add.
type metrics struct {
	plans    prometheus.Counter
	verdict  *prometheus.GaugeVec
	planned  func(*director.Table)
	spilling prometheus.Counter
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		plans: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_director_plans_total", Help: "Plans made."}),
		verdict: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rhumb_director_region_state", Help: "Verdict of a region: 1 in its state, 0 in the others."}, []string{"region", "state"}),
		spilling: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_director_spill_rows_sent_total", Help: "Spill rows sent to regions."}),
	}
	planned := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "rhumb_director_planned_load_slots", Help: "Load that the plan gives a region, in slots."}, []string{"region", "model"})
	capacity := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "rhumb_director_capacity_slots", Help: "Capacity that the plan counts on, in slots."}, []string{"region", "model"})
	m.planned = func(t *director.Table) {
		m.plans.Inc()
		for i, p := range t.Regions {
			for s := director.Ready; s <= director.Lost; s++ {
				is := 0.0
				if p.Verdict.State == s {
					is = 1
				}
				m.verdict.WithLabelValues(string(p.ID), s.String()).Set(is)
			}
			for name, s := range t.Services {
				if name != regions.Apex {
					planned.WithLabelValues(string(p.ID), string(name)).Set(float64(s.Supply[i].Planned) / 1000)
					capacity.WithLabelValues(string(p.ID), string(name)).Set(float64(s.Supply[i].Capacity) / 1000)
				}
			}
		}
	}
	r.MustRegister(m.plans, m.verdict, m.spilling, planned, capacity)
	return m
}
