package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// heartbeat is how often a status is sent when nothing changes. A director
	// misses an agent after four: with 10 % loss that happens by chance once in
	// 10,000 beats, and costs no more than a probe.
	heartbeat = regions.StatusEvery
	// renewal is how long a status is repeated that was not renewed. An agent
	// renews it each heartbeat; beyond four of them its loop hangs, and silence is
	// the truth about it.
	renewal = 4 * heartbeat
	// minGap keeps a status that changes all the time from being sent all the
	// time.
	minGap = 50 * time.Millisecond
)

// burst is when a change is sent, from the change on: three times within 300 ms,
// so that it arrives with 10 % loss in 999 of 1,000 cases.
var burst = [...]time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond}

// Record is something to publish other than a status.
type Record struct {
	Kind wire.Kind
	// Key tells records of one kind apart: a spill row's is "<region>/<model>".
	// The newest of each key wins.
	Key     string
	Payload []byte
	// Audience is who is sent the record. All but spill rows and loads of pods reach
	// everybody else too, by push/pull.
	Audience Audience
}

// publisher is what this member says of itself.
type publisher struct {
	mu             sync.Mutex
	epoch, version uint64
	status         []byte       // payload, nil before the first
	digest         *wire.Digest // of status
	digests        digests
	shape          string // the status without its load figures
	renewed        time.Time
	beats          beats
	records        map[slot]Record // of other kinds that push/pull carries

	kick    chan struct{} // capacity 1: beats were rescheduled
	clamped sync.Map      // figures that were clamped, which is logged once
}

// PublishStatus makes s the agent's status. Agent, Epoch, Version and Protocol
// are the node's and filled in; s is not kept. It is sent every
// regions.StatusEvery for as long as it is renewed within four of them, and at 0,
// 100 and 300 ms after a change of anything but load figures.
//
// Slots beyond the certificate's, more than wire.MaxRequests in flight or queued
// and times above an hour are cut to that. The error says which other bound or
// limit of the certificate it breaks; then the status before stays.
func (n *Node) PublishStatus(s regions.Status) error {
	s.Agent, s.Protocol = regions.AgentID(n.opts.Name), regions.ProtocolVersion
	cert := n.opts.Identity.Cert
	if cert.Role != fleet.RoleRegion || string(s.Region) != cert.Name {
		return fmt.Errorf("publish status of region %q: the certificate is of %s %q", s.Region, cert.Role, cert.Name)
	}
	n.clamp(&s)
	if err := cert.Grant.AllowsStatus(&s); err != nil {
		return fmt.Errorf("publish status of region %q: %w", s.Region, err)
	}
	payload, err := wire.EncodeStatus(&s)
	if err != nil {
		return fmt.Errorf("publish status: %w", err)
	}
	shape, err := shapeOf(s)
	if err != nil {
		return fmt.Errorf("publish status: %w", err)
	}
	p, now := &n.own, n.now()
	p.mu.Lock()
	p.status, p.digest, p.renewed = payload, wire.DigestOf(&s), now
	changed := shape != p.shape
	p.shape = shape
	if changed {
		p.beats.changed(now)
	}
	p.mu.Unlock()
	if changed {
		p.nudge()
	}
	return nil
}

// shapeOf is what of a status is sent at once when it changes: all but the load
// figures, which change with every request.
func shapeOf(s regions.Status) (string, error) {
	models := make([]regions.ModelStatus, len(s.Models))
	for i, m := range s.Models {
		m.InFlight, m.Queued, m.Wait, m.TTFT, m.Arrivals, m.Completions = 0, 0, 0, 0, 0, 0
		models[i] = m
	}
	s.Models = models
	b, err := wire.EncodeStatus(&s)
	return string(b), err
}

// fleeting reports whether records of a kind are said to whom they concern and then
// forgotten: others come before anybody could pass them on.
func fleeting(kind wire.Kind) bool { return kind == wire.Kind_SPILL || kind == wire.Kind_PODS }

// Publish sends a record once to its audience and, unless it is a spill row or the
// load of pods, keeps it for push/pull. Statuses go by PublishStatus. Before Run it is only
// kept.
func (n *Node) Publish(r Record) error {
	if r.Kind == wire.Kind_STATUS {
		return errors.New("publish record: a status goes by PublishStatus")
	}
	if want, ok := signers[r.Kind]; ok && want != n.opts.Identity.Cert.Role {
		return fmt.Errorf("publish record: a %s may not sign %s", n.opts.Identity.Cert.Role, r.Kind)
	}
	p := &n.own
	p.mu.Lock()
	raw, k, err := n.sealLocked(r.Kind, r.Key, r.Payload)
	if err == nil && !fleeting(r.Kind) {
		p.records[k] = r
	}
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("publish record: %w", err)
	}
	n.send(k, raw, r.Audience)
	return nil
}

// sealLocked signs the next version of a record and, unless it is fleeting, puts it
// into the store, where push/pull and Snapshot find it. A director of 100 regions with 8 models writes 800 rows a second, more than any certificate's
// share, and nobody asks it for one again.
func (n *Node) sealLocked(kind wire.Kind, key string, payload []byte) ([]byte, slot, error) {
	p := &n.own
	body := &wire.Body{Kind: kind, Origin: n.opts.Name, Epoch: p.epoch, Version: p.version + 1, Key: key, Payload: payload}
	raw, err := n.sign(body)
	if err != nil {
		return nil, slot{}, err
	}
	k := slot{role: n.opts.Identity.Cert.Role, kind: kind, origin: n.opts.Name, key: key}
	if !fleeting(kind) {
		if err := n.keep(k, body, raw); err != nil {
			return nil, slot{}, err
		}
	}
	p.version++
	return raw, k, nil
}

// sign gives the envelope of a body.
func (n *Node) sign(body *wire.Body) ([]byte, error) {
	signed, err := wire.EncodeBody(body)
	if err != nil {
		return nil, err
	}
	id := n.opts.Identity
	return wire.EncodeEnvelope(&wire.Envelope{Body: signed, KeyId: id.Cert.KeyID[:], Sig: id.Sign(fleet.EnvelopeDomain, signed)})
}

// keep puts an own record into the store.
func (n *Node) keep(k slot, body *wire.Body, raw []byte) error {
	cert := n.opts.Identity.Cert
	r := &record{
		by: subject{role: cert.Role, name: cert.Name}, epoch: body.GetEpoch(), version: body.GetVersion(),
		raw: raw, heard: n.now(), keyID: cert.KeyID, notAfter: cert.NotAfter,
	}
	if k.kind == wire.Kind_STATUS {
		var err error
		if r.status, err = wire.DecodeStatus(body); err != nil {
			return err
		}
	}
	if why, ok := n.store.put(k, r, r.heard); !ok {
		return fmt.Errorf("record %v %q of %q is not kept: %s", k.kind, k.key, k.origin, why)
	}
	return nil
}

// isOwn reports whether records of that role and origin are this member's. (A
// region and a director may share a name.)
func (n *Node) isOwn(role fleet.Role, origin string) bool {
	return origin == n.opts.Name && role == n.opts.Identity.Cert.Role
}

// order is the epoch and version that this member's records are at.
func (p *publisher) order() (epoch, version uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch, p.version
}

// firstEpoch takes the epoch after the stored one and after every remembered mark
// of this member. If there is none after it, the version goes on instead.
func (n *Node) firstEpoch() error {
	stored, err := n.epochs.Load()
	if err != nil {
		return fmt.Errorf("load the epoch of %q: %w", n.opts.Name, err)
	}
	for _, m := range n.opts.Memory.Marks {
		if n.isOwn(fleet.Role(m.Role), m.Origin) && m.Epoch < wire.MaxEpoch {
			stored = max(stored, m.Epoch)
		}
	}
	n.own.epoch = min(stored, wire.MaxEpoch-2) + 1
	for _, m := range n.opts.Memory.Marks {
		if n.isOwn(fleet.Role(m.Role), m.Origin) && m.Epoch == n.own.epoch {
			n.own.version = max(n.own.version, m.Version)
		}
	}
	if err := n.epochs.Save(n.own.epoch); err != nil {
		return fmt.Errorf("save the epoch of %q: %w", n.opts.Name, err)
	}
	return nil
}

// outrank goes above a record of this member's own name that is ahead of it: one
// of before a restart without memory, or of another process of the same name.
// Everything is published again under the new epoch. Above the last epoch there
// are only versions.
func (n *Node) outrank(epoch, version uint64) {
	p := &n.own
	p.mu.Lock()
	if epoch < p.epoch || epoch == p.epoch && version <= p.version {
		p.mu.Unlock()
		return
	}
	p.epoch, p.version = epoch+1, 0
	if p.epoch == wire.MaxEpoch {
		p.epoch, p.version = epoch, version
	}
	now := p.epoch
	var again []Record
	for _, r := range p.records {
		again = append(again, r)
	}
	p.beats.changed(n.now())
	p.digests = digests{} // said anew, since what was said is behind by now
	p.mu.Unlock()

	n.metrics.outranked.Inc()
	n.log.Info("met an own record from before; going on in a higher epoch", "epoch", now, "met_epoch", epoch, "met_version", version)
	if err := n.epochs.Save(now); err != nil {
		n.log.Warn("the epoch can't be saved; after a restart it is learnt from others again", "epoch", now, "err", err)
	}
	for _, r := range again {
		if err := n.Publish(r); err != nil {
			n.log.Warn("publishing again", "kind", kindName(r.Kind), "key", r.Key, "err", err)
		}
	}
	p.nudge()
}

// beat sends the status whenever it is due.
func (n *Node) beat(ctx context.Context) {
	p := &n.own
	timer := time.NewTimer(heartbeat)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
		case <-timer.C:
		}
		timer.Reset(n.beatOnce())
	}
}

// beatOnce sends the status if it is due and gives the time until it is next.
func (n *Node) beatOnce() time.Duration {
	p, now := &n.own, n.now()
	p.mu.Lock()
	if wait := p.beats.next().Sub(now); wait > 0 {
		p.mu.Unlock()
		return wait
	}
	p.beats.sent(now)
	wait := p.beats.next().Sub(now)
	if p.status == nil || now.Sub(p.renewed) > renewal {
		p.mu.Unlock()
		return wait
	}
	raw, k, err := n.sealLocked(wire.Kind_STATUS, "", p.status)
	var digest *wire.Body
	var digestRaw []byte
	if err == nil {
		digest, digestRaw, err = n.sealDigestLocked(now)
	}
	p.mu.Unlock()
	if err != nil {
		n.log.Error("the status can't be sent", "err", err)
		return wait
	}
	if digest != nil {
		n.passOn(slot{role: k.role, kind: wire.Kind_DIGEST, origin: k.origin}, digest, digestRaw, now)
	}
	n.changed()
	n.send(k, raw, Audience{Role: RoleDirector})
	n.send(k, raw, Audience{Role: RoleAgent, Region: n.opts.region()})
	return wait
}

// nudge makes beat look at the schedule again.
func (p *publisher) nudge() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// beats is when a status is sent: every heartbeat, and in a burst after a change.
type beats struct {
	last time.Time   // when it was sent last
	due  []time.Time // the rest of a burst, ascending
}

// changed starts a burst, in place of one that is under way.
func (b *beats) changed(now time.Time) {
	b.due = b.due[:0]
	for _, after := range burst {
		b.due = append(b.due, now.Add(after))
	}
	if first := b.last.Add(minGap); b.due[0].Before(first) {
		b.due[0] = first
	}
}

// sent notes that the status was sent, which serves whatever was due by then.
func (b *beats) sent(now time.Time) {
	b.last = now
	for len(b.due) > 0 && !b.due[0].After(now) {
		b.due = b.due[1:]
	}
}

// next is when the status is to be sent next.
func (b *beats) next() time.Time {
	if len(b.due) > 0 {
		return b.due[0]
	}
	return b.last.Add(heartbeat)
}

// longestWait is the longest wait and TTFT that a status says. Directors have
// long turned away from a region at which requests wait for an hour, and a figure
// that grows without bound under overload must not silence who says it.
const longestWait = regions.Micros(time.Hour / time.Microsecond)

// clamp cuts the figures of a status to what receivers accept, in a copy of its
// models: what they refuse would leave an overloaded region silent.
func (n *Node) clamp(s *regions.Status) {
	slots := wire.MaxSlots
	if most := n.opts.Identity.Cert.Grant.MaxSlots; most > 0 {
		slots = min(slots, regions.Slots(most))
	}
	s.Models = slices.Clone(s.Models)
	for i := range s.Models {
		m := &s.Models[i]
		cut(n, m.Name, "slots", &m.Slots, slots)
		cut(n, m.Name, "in-flight", &m.InFlight, wire.MaxRequests)
		cut(n, m.Name, "queued", &m.Queued, wire.MaxRequests)
		cut(n, m.Name, "wait", &m.Wait, longestWait)
		cut(n, m.Name, "ttft", &m.TTFT, longestWait)
	}
}

// cut is clamp for one figure; the first of its kind that is cut is logged.
func cut[T regions.MilliSlots | regions.Micros | uint32](n *Node, model regions.ModelName, what string, value *T, most T) {
	if *value <= most {
		return
	}
	if _, again := n.own.clamped.LoadOrStore(what, true); !again {
		n.log.Warn("the status says less than what was measured, which is beyond the certificate or any sense",
			"figure", what, "model", model, "value", *value, "most", most)
	}
	*value = most
}
