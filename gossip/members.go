package gossip

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// maxMembers bounds the membership, which whoever has the gossip key can fill.
const maxMembers = 4096

// MemberState is what is known of a member's process. It is a hint: whether a
// region serves is judged by the age of its status and by probes.
type MemberState string

// The states of a member. A suspect is still alive.
const (
	MemberAlive MemberState = "alive"
	MemberLeft  MemberState = "left" // said goodbye
	MemberDead  MemberState = "dead"
)

// Member is one process of the fleet, as this one sees it.
type Member struct {
	Name   string
	Role   Role
	Region regions.ID // of an agent; empty for directors
	Addr   netip.AddrPort
	State  MemberState
	Since  time.Time // when it came into this state
}

// member is an entry of the membership.
type member struct {
	Member
	node    memberlist.Node // to send to; a copy, since memberlist changes its own
	goodbye time.Time       // when it said so, zero if it did not
}

// members is the membership as memberlist's callbacks tell it. They run with
// memberlist's lock held and must not call back into it.
type members struct {
	now func() time.Time

	mu     sync.Mutex
	byName map[string]*member
}

func newMembers(now func() time.Time) *members {
	return &members{now: now, byName: map[string]*member{}}
}

// NotifyAlive refuses members whose metadata is not of this program, and more of
// them than a fleet has.
func (m *members) NotifyAlive(node *memberlist.Node) error {
	if _, err := wire.DecodeMeta(node.Meta); err != nil {
		return fmt.Errorf("member %q at %s: %w", node.Name, node.Address(), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.byName[node.Name]; !known && len(m.byName) >= maxMembers {
		return fmt.Errorf("member %q at %s: there are %d members already", node.Name, node.Address(), maxMembers)
	}
	return nil
}

// NotifyJoin learns of a member that is new or back.
func (m *members) NotifyJoin(node *memberlist.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setLocked(node, &member{Member: Member{State: MemberAlive, Since: m.now()}})
}

// NotifyUpdate learns of a member's new metadata.
func (m *members) NotifyUpdate(node *memberlist.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byName[node.Name]; e != nil {
		m.setLocked(node, e)
	}
}

// NotifyLeave learns that a member died or left.
func (m *members) NotifyLeave(node *memberlist.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byName[node.Name]
	if e == nil {
		return
	}
	e.State, e.Since = MemberDead, m.now()
	if !e.goodbye.IsZero() {
		e.State = MemberLeft
	}
}

func (m *members) setLocked(node *memberlist.Node, e *member) {
	addr, _ := netip.AddrFromSlice(node.Addr)
	e.Name, e.node, e.Addr = node.Name, *node, netip.AddrPortFrom(addr.Unmap(), node.Port)
	e.node.Addr, e.node.Meta = slices.Clone(node.Addr), nil
	e.Role, e.Region = "unknown", ""
	if meta, err := wire.DecodeMeta(node.Meta); err == nil {
		e.Region = regions.ID(meta.GetRegion())
		switch meta.GetRole() {
		case wire.Role_AGENT:
			e.Role = RoleAgent
		case wire.Role_DIRECTOR:
			e.Role = RoleDirector
		}
	}
	m.byName[node.Name] = e
}

// left notes a member's signed goodbye. memberlist does not tell a death from a
// leave, and who left is not to be looked for. A goodbye from before the member
// came back is no news, and one by a namesake of another role is not the member's.
func (m *members) left(name string, role Role, heard time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byName[name]
	switch {
	case e == nil || e.Role != role:
	case e.State == MemberAlive && heard.After(e.Since):
		e.goodbye = heard
	case e.State == MemberDead:
		e.goodbye, e.State = heard, MemberLeft
	}
}

// all lists the members by name.
func (m *members) all() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Member, 0, len(m.byName))
	for _, e := range m.byName {
		out = append(out, e.Member)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// stillSent is how long a member that seems dead is still sent records. Who is
// dead is memberlist's opinion, and wrong where packets are lost: an agent that
// went by it would fall silent towards a director that hears it well. An hour
// is far more than the rejoin loop needs to find who is back, and keeps the
// names of replaced pods from piling up.
const stillSent = time.Hour

// audience gives the members but self to send to: all of the audience that have
// not left and do not seem dead for long.
func (m *members) audience(self string, to Audience) []*memberlist.Node {
	now := m.now()
	return m.pick(func(e *member) bool {
		maybe := e.State == MemberAlive || e.State == MemberDead && now.Sub(e.Since) < stillSent
		return maybe && e.Name != self && to.holds(&e.Member)
	})
}

// alive gives the members but self that are alive.
func (m *members) alive(self string) []*memberlist.Node {
	return m.pick(func(e *member) bool { return e.State == MemberAlive && e.Name != self })
}

// pick gives the members that are wanted, to send to.
func (m *members) pick(want func(*member) bool) []*memberlist.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*memberlist.Node
	for _, e := range m.byName {
		if want(e) {
			node := e.node
			out = append(out, &node)
		}
	}
	return out
}

// count is the number of members that are alive, this one among them.
func (m *members) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	alive := 0
	for _, e := range m.byName {
		if e.State == MemberAlive {
			alive++
		}
	}
	return alive
}

// find gives a member that is alive, to send to; nil if there is none of that
// name.
func (m *members) find(name string) *memberlist.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byName[name]; e != nil && e.State == MemberAlive {
		node := e.node
		return &node
	}
	return nil
}

// forget drops members that have been away for longer than the given time, and
// those that left after an hour: enough to show them to an operator.
func (m *members) forget(now time.Time, after time.Duration) {
	const leftShown = time.Hour
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, e := range m.byName {
		away := now.Sub(e.Since)
		if e.State == MemberDead && away > after || e.State == MemberLeft && away > min(after, leftShown) {
			delete(m.byName, name)
		}
	}
}

// Audience says who is sent a record directly. The zero value is every member.
type Audience struct {
	Role   Role       // AnyRole is all
	Region regions.ID // empty is all; directors have none
}

func (a Audience) holds(m *Member) bool {
	return (a.Role == AnyRole || a.Role == m.Role) && (a.Region == "" || a.Region == m.Region)
}

// inbound is a message as memberlist handed it over.
type inbound struct {
	message []byte
	at      time.Time // of its receipt
}

// delegate is what memberlist calls. Its methods run on memberlist's goroutines:
// they copy, hand over and return.
type delegate Node

// NodeMeta is what members know of this one before any record: whom to send to.
func (d *delegate) NodeMeta(limit int) []byte {
	meta := &wire.Meta{Protocol: regions.ProtocolVersion, Role: wire.Role_AGENT, Region: string(d.opts.region())}
	if d.opts.role() == RoleDirector {
		meta.Role = wire.Role_DIRECTOR
	}
	b, err := wire.EncodeMeta(meta)
	if err != nil || len(b) > limit {
		d.log.Error("member metadata", "bytes", len(b), "limit", limit, "err", err)
		return nil
	}
	return b
}

// NotifyMsg hands over one of our messages, whose bytes are memberlist's.
func (d *delegate) NotifyMsg(m []byte) {
	if len(m) == 0 {
		return
	}
	select {
	case d.inbox <- inbound{message: slices.Clone(m), at: d.now()}:
	default:
		d.metrics.dropped.WithLabelValues("inbox").Inc()
	}
}

// LocalState is this side of a push/pull.
func (d *delegate) LocalState(bool) []byte {
	state := d.store.state(d.opts.Identity.Cert, d.now())
	state.Whole = d.opts.role() == RoleDirector && (*Node)(d).Synced()
	b, err := wire.EncodeState(state)
	if err != nil {
		d.log.Error("state for push/pull", "err", err)
		return nil
	}
	return b
}

// MergeRemoteState hands over the other side of a push/pull.
func (d *delegate) MergeRemoteState(state []byte, _ bool) {
	if len(state) == 0 {
		return
	}
	select {
	case d.states <- inbound{message: slices.Clone(state), at: d.now()}:
	default:
		d.metrics.dropped.WithLabelValues("states").Inc()
	}
}
