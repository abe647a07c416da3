package gossip

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// metrics are the node's, all named rhumb_gossip_*.
type metrics struct {
	records   *prometheus.CounterVec
	refused   *prometheus.CounterVec
	dropped   *prometheus.CounterVec
	sent      *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	joins     *prometheus.CounterVec
	wants     *prometheus.CounterVec
	relayed   prometheus.Counter
	outranked prometheus.Counter
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func newMetrics() *metrics {
	return &metrics{
		records: counter("rhumb_gossip_records_total", "Records received, by kind and what became of them (accepted, known, own, refused, ignored).", "kind", "result"),
		refused: counter("rhumb_gossip_refused_total", "Records that changed nothing, by reason.", "reason"),
		dropped: counter("rhumb_gossip_dropped_total", "Messages dropped because a queue was full or a send failed, by queue.", "queue"),
		sent:    counter("rhumb_gossip_sent_total", "Records sent to a member, by kind and way (packet or stream).", "kind", "way"),
		bytes:   counter("rhumb_gossip_bytes_total", "Bytes on the gossip sockets, by direction (sent or received) and way (packet or stream).", "direction", "way"),
		joins:   counter("rhumb_gossip_joins_total", "Attempts to join a member, by result (ok or failed).", "result"),
		wants:   counter("rhumb_gossip_wants_total", "Statuses asked for after their digest came, by what became of it (asked by this member; of others: answered, unanswered, refused).", "result"),
		relayed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_gossip_relayed_total",
			Help: "Records passed on for others, or to be passed on by others, each time that one was put into a packet.",
		}),
		outranked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rhumb_gossip_outranked_total",
			Help: "Times that an own record of a higher epoch or version was met.",
		}),
	}
}

// register puts the metrics and what is read off the node into the registry.
func (n *Node) register(r *prometheus.Registry) error {
	m := n.metrics
	for _, c := range []prometheus.Collector{m.records, m.refused, m.dropped, m.sent, m.bytes, m.joins, m.wants, m.relayed, m.outranked, (*collector)(n)} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register gossip metrics: %w", err)
		}
	}
	return nil
}

var (
	ageDesc = prometheus.NewDesc("rhumb_gossip_status_age_seconds",
		"Age of a region's newest status.", []string{"region"}, nil)
	membersDesc = prometheus.NewDesc("rhumb_gossip_members",
		"Members by role and state (alive, left, dead).", []string{"role", "state"}, nil)
)

// collector reads ages and members at the moment they are asked for.
type collector Node

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- ageDesc
	ch <- membersDesc
}

// Collect implements prometheus.Collector. Regions are those with a certificate
// of the fleet, which bounds the label.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	now := c.now()
	ages := map[regions.ID]time.Duration{}
	for _, r := range c.store.snapshot().Reports {
		age := r.Age(now)
		if have, ok := ages[r.Status.Region]; !ok || age < have {
			ages[r.Status.Region] = age
		}
	}
	for region, age := range ages {
		ch <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, age.Seconds(), string(region))
	}
	type kind struct {
		role  Role
		state MemberState
	}
	count := map[kind]int{}
	for _, role := range []Role{RoleAgent, RoleDirector} {
		for _, state := range []MemberState{MemberAlive, MemberLeft, MemberDead} {
			count[kind{role, state}] = 0
		}
	}
	for _, m := range c.members.all() {
		count[kind{m.Role, m.State}]++
	}
	for k, v := range count {
		ch <- prometheus.MustNewConstMetric(membersDesc, prometheus.GaugeValue, float64(v), string(k.role), string(k.state))
	}
}

// kindName is a kind as a label: kinds of newer versions are one.
func kindName(k wire.Kind) string {
	if name, ok := wire.Kind_name[int32(k)]; ok && k != wire.Kind_KIND_UNSPECIFIED {
		return strings.ToLower(name)
	}
	return "unknown"
}

func (i *intake) count(kind wire.Kind, result string) {
	i.metrics.records.WithLabelValues(kindName(kind), result).Inc()
}

// refuse counts a record that changes nothing and logs it the first time.
func (i *intake) refuse(kind wire.Kind, origin string, why reason, err error) {
	i.count(kind, "refused")
	i.metrics.refused.WithLabelValues(string(why)).Inc()
	note := string(why) + " " + origin
	if i.logged[note] || len(i.logged) >= maxNotes {
		return
	}
	i.logged[note] = true
	attrs := []any{"kind", kindName(kind), "origin", origin, "reason", why}
	if err != nil {
		attrs = append(attrs, "err", err)
	}
	if why == reasonReplayed || why == reasonUnknownKey {
		// Restarts, duplicates and newcomers look like this too.
		i.log.Info("a gossip record changed nothing", attrs...)
		return
	}
	i.log.Warn("a gossip record was refused", attrs...)
}
