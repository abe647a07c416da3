package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/director/geo"
	"github.com/rhumb-lb/rhumb/director/latency"
	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// planEvery is how often the plan is made when nothing calls for it: load
	// moves in seconds, and cached answers in tens of them.
	planEvery = time.Second

	// judgeEvery is how often the regions are judged: it adds at most a tenth of a
	// second to the time in which a lost region is noticed, and costs microseconds.
	judgeEvery = 100 * time.Millisecond
)

// Change is what differs between a plan and the one before.
type Change struct {
	Table *director.Table
	// Urgent is set where the plan was made at once because something changed that
	// can't wait for the next: a verdict, who has pods for what, or an endpoint.
	Urgent bool
	// Verdicts are those that changed, with the state before (0 if new).
	Verdicts []VerdictChange
}

// VerdictChange is one region's change of verdict.
type VerdictChange struct {
	director.Verdict
	Before director.State
}

// settings are what of the configuration the mind goes by; they are replaced
// whole.
type settings struct {
	geo   *geo.Map
	ttl   time.Duration
	route []netip.Addr
	why   bool
	hosts []Host
}

func (o *Options) settings() *settings {
	return &settings{geo: o.Geo, ttl: o.TTL, route: o.RouteAddrs, why: o.Why, hosts: o.Hosts}
}

// mind makes plans and swaps them in whole. Only its own goroutine touches it,
// but for world.
type mind struct {
	snapshot func() regions.Snapshot
	heard    func() bool // enough of the fleet to deny what is not there
	probes   func() []director.Probe
	demand   *demand
	log      *slog.Logger
	metrics  *metrics
	onPlan   func(Change)
	wanted   atomic.Pointer[settings] // to change over to at the next step; nil if none

	set     *settings
	cells   []regions.Cell
	labels  *labels
	control director.Control
	needs   string // what the last plan rested on
	planned time.Time
	matrix  *latency.Matrix
	places  []latency.Place
	gen     uint64
	synced  bool // heard was true at least once
	fresh   bool // the next world shares no answers with the last

	world atomic.Pointer[world]
}

// run judges every judgeEvery and when a probe or a status is news, and plans
// each planEvery and when a judgement finds that what the plan rests on has
// changed, until ctx ends.
func (m *mind) run(ctx context.Context, probed, heard <-chan struct{}, now func() time.Time) error {
	tick := time.NewTicker(judgeEvery)
	defer tick.Stop()
	for {
		m.survive(func() { m.step(now()) })
		select {
		case <-ctx.Done():
			return nil
		case <-probed:
		case <-heard:
		case <-tick.C:
		}
	}
}

// survive runs a step. Should what others say ever break it, the last good plan
// goes on answering: no data may end the process that all clients depend on.
func (m *mind) survive(step func()) {
	defer func() {
		if cause := recover(); cause != nil {
			m.metrics.broken.Inc()
			m.log.Error("a plan failed, the last one stays", "cause", cause, "stack", string(debug.Stack()))
		}
	}()
	step()
}

// step judges, and plans if it is time or something decisive changed.
func (m *mind) step(now time.Time) {
	if s := m.wanted.Swap(nil); s != nil {
		m.change(s)
	}
	in := m.inputs()
	in.Verdicts = director.Judge(in, now)
	needs := decisive(in)
	if needs == m.needs && now.Sub(m.planned) < planEvery && m.world.Load() != nil {
		return
	}
	urgent := needs != m.needs
	m.needs, m.planned = needs, now
	m.demand.arrived(in.Snapshot)
	in.Demand = m.demand.now(now)
	table, control := director.Plan(in, now)
	change := Change{Table: table, Urgent: urgent, Verdicts: changes(m.control, control)}
	m.control = control
	for _, v := range change.Verdicts {
		m.log.Info("verdict", "region", v.Region, "from", v.Before, "to", v.State, "reason", v.Reason)
	}
	m.publish(in.Snapshot, table)
	m.metrics.planned(table)
	if m.onPlan != nil {
		m.onPlan(change)
	}
}

// change changes over to new settings. The next step plans with them, and no
// answer of before is given again.
func (m *mind) change(s *settings) {
	m.set, m.cells, m.matrix, m.needs = s, s.geo.Cells(), nil, ""
	for _, model := range m.labels.configure(s.hosts) {
		m.log.Warn("model not served by name any more: a host of the zone has its label", "model", model)
	}
	m.fresh = true
}

func (m *mind) inputs() director.Inputs {
	snapshot := m.snapshot()
	places := make([]latency.Place, 0, len(snapshot.Reports))
	for _, r := range snapshot.Regions() {
		places = append(places, latency.Place{ID: r.ID, Location: r.Location})
	}
	if m.matrix == nil || !slices.Equal(places, m.places) {
		m.matrix, m.places = latency.Estimates(m.cells, places), places
	}
	return director.Inputs{
		Snapshot: snapshot, Probes: m.probes(), Cells: m.cells,
		Latency: m.matrix, Control: m.control, TTL: m.set.ttl,
	}
}

// publish swaps the new world in.
func (m *mind) publish(s regions.Snapshot, table *director.Table) {
	m.labels.forget(table)
	for _, model := range m.labels.learn(s) {
		m.log.Warn("model not served by name", "model", model, "why", m.labels.refused[model])
	}
	m.synced = m.synced || m.heard()
	w := &world{
		table: table, geo: m.set.geo, names: m.labels.names(table, m.set.why), labels: maps.Clone(m.labels.byLabel),
		route: m.set.route, control: m.control, learnt: m.labels.learnt(), synced: m.synced, answers: new(sync.Map),
	}
	if old := m.world.Load(); old != nil && !m.fresh && old.answersAs(w) {
		w.answers = old.answers
	} else {
		m.gen++
	}
	w.gen, m.fresh = m.gen, false
	m.world.Store(w)
}

// answersAs reports whether every lookup gives the same in both worlds.
func (w *world) answersAs(other *world) bool {
	return w.table.Hash == other.table.Hash && w.synced == other.synced && maps.Equal(w.names, other.names)
}

// decisive sums up what can't wait for the next plan: verdicts with their
// confidence, drains, who has pods for what, and endpoints. Load is not in it.
func decisive(in director.Inputs) string {
	var b strings.Builder
	for i, r := range in.Snapshot.Regions() {
		b.WriteString(string(r.ID))
		fmt.Fprintf(&b, " %d %d ", in.Verdicts[i].State, in.Verdicts[i].Confidence)
		for _, e := range r.Endpoints {
			b.WriteString(e.URL())
		}
		for _, m := range r.Models {
			b.WriteString(string(m.Name))
			if m.Pods.Taking() > 0 {
				b.WriteByte('+')
			}
			b.WriteByte(';')
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func changes(before, after director.Control) []VerdictChange {
	was := map[regions.ID]director.State{}
	for _, v := range before.Verdicts {
		was[v.Region] = v.State
	}
	var out []VerdictChange
	for _, v := range after.Verdicts {
		if was[v.Region] != v.State {
			out = append(out, VerdictChange{v, was[v.Region]})
		}
	}
	return out
}
