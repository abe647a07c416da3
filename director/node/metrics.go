package node

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

// metrics are the director's own. Labels are regions and models, which only the
// fleet's certificates can add.
type metrics struct {
	plans    prometheus.Counter
	broken   prometheus.Counter
	verdict  *prometheus.GaugeVec
	planned  func(*director.Table)
	spilling prometheus.Counter
	unsaved  prometheus.Counter
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		plans: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_director_plans_total", Help: "Plans made."}),
		broken: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_director_plans_failed_total", Help: "Plans that could not be made: the last one stayed."}),
		verdict: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rhumb_director_region_state", Help: "Verdict of a region: 1 in its state, 0 in the others."}, []string{"region", "state"}),
		unsaved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_director_state_saves_failed_total", Help: "Times that the state could not be written to disk."}),
		spilling: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_director_spill_rows_sent_total", Help: "Spill rows sent to regions."}),
	}
	planned := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "rhumb_director_planned_load_slots", Help: "Load that the plan gives a region, in slots."}, []string{"region", "model"})
	capacity := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "rhumb_director_capacity_slots", Help: "Capacity that the plan counts on, in slots."}, []string{"region", "model"})
	var shape string
	m.planned = func(t *director.Table) {
		m.plans.Inc()
		if now := shapeOf(t); now != shape { // what is gone must not keep its last value
			shape = now
			m.verdict.Reset()
			planned.Reset()
			capacity.Reset()
		}
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
	r.MustRegister(m.plans, m.broken, m.verdict, m.spilling, m.unsaved, planned, capacity)
	return m
}

// shapeOf is the regions and models of a table.
func shapeOf(t *director.Table) string {
	var b strings.Builder
	for _, p := range t.Regions {
		b.WriteString(string(p.ID) + " ")
	}
	for _, m := range t.Models() {
		b.WriteString(string(m) + "\n")
	}
	return b.String()
}
