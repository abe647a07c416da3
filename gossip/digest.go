package gossip

import (
	"cmp"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/relay"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// digestEvery and digestJitter are how often an agent says its digest when
	// nothing changes. With 200 agents every member passes on 20 digests a second,
	// each 2·ceil(log10(201)) = 6 times in at most 214 bytes: 26 kB/s, of the 48 that
	// gossip of 4 packets of 1,200 bytes each 100 ms has room for. The jitter keeps
	// agents that started together from speaking together.
	digestEvery  = 9500 * time.Millisecond
	digestJitter = time.Second
	// digestAgain is how long after an urgent digest it is said again, and urgentTimes
	// how often it is said in all: what is passed on at random misses 3 of 100
	// members with 10 % loss, three times in a row 3 of 100,000.
	digestAgain = time.Second
	urgentTimes = 3
	// digestGap is the least time between two digests, however often the status
	// changes.
	digestGap = heartbeat

	// relayTimes is how often each member passes a message on, times the decimal
	// logarithm of the membership; see digestEvery.
	relayTimes = 2
	// maxRelayed is the most bytes of an envelope that is passed on. A digest has
	// less than 200 with names as they are, and 320 with the longest.
	maxRelayed = 512
	// maxRelays is how many messages wait to be passed on: one of each agent of a
	// fleet five times as large as any that was tested. They are half a MiB.
	maxRelays = 1024
)

const (
	// wantGrace is how long a status is waited for after its digest: those to whom
	// it is sent directly should have it by then.
	wantGrace = heartbeat
	// wantStale is how old a status must be to be asked for if nothing urgent in it
	// changed. To whom it is sent directly it is never as old, unless the way from
	// its agent is bad.
	wantStale = 4 * heartbeat
	// wantAgain is how long an answer is waited for, above any round trip, and
	// wantTries how many members are asked, one after the other. If half of them miss
	// the status too and a tenth of the packets is lost each way, two of five answer;
	// of eight none does in 2 % of the cases, for which the next digest comes 5 s
	// later.
	wantAgain = 500 * time.Millisecond
	wantTries = 8
	// wantEvery and wantBurst bound what one member asks for, and is answered: 8 at
	// once, then 2 a second, which is 2 kB/s of statuses. So 200 agents that ask for
	// all they hear of cost each of 4 directors 110 kB/s at most.
	wantEvery, wantBurst = 500 * time.Millisecond, 8
	// answerEvery and answerBurst bound what is answered to all together, whoever
	// asks under however many names.
	answerEvery, answerBurst = 5 * time.Millisecond, 200
	// repairEvery is how often it is looked for what to ask for.
	repairEvery = 250 * time.Millisecond
)

// relays is the queue of what this member passes on.
type relays struct {
	mu    sync.Mutex
	queue *relay.Queue
	full  sync.Once // it was logged that there is no room
	large sync.Once // it was logged that a record is too large
}

// classOf is how urgently a record of a kind is passed on, or false if it never
// is: statuses, spill rows and loads of pods are sent to whom they concern.
func classOf(kind wire.Kind) (relay.Class, bool) {
	switch kind {
	case wire.Kind_STATUS, wire.Kind_SPILL, wire.Kind_PODS:
		return 0, false
	case wire.Kind_CONTROL, wire.Kind_OVERRIDE, wire.Kind_CERT:
		return relay.Control, true
	case wire.Kind_DIGEST:
		return relay.Digest, true
	default:
		return relay.Other, true
	}
}

// passOn has a record passed on to random members, a few times, with the news of
// who is a member.
func (n *Node) passOn(k slot, body *wire.Body, raw []byte, heard time.Time) {
	class, ok := classOf(k.kind)
	if !ok {
		return
	}
	n.relays.mu.Lock()
	err := n.relays.queue.Put(relay.Message{
		Name:  relay.Name{Role: string(k.role), Kind: int32(k.kind), Origin: k.origin, Key: k.key},
		Class: class, Epoch: body.GetEpoch(), Version: body.GetVersion(), Raw: raw, Heard: heard,
	})
	n.relays.mu.Unlock()
	if err == nil || errors.Is(err, relay.ErrOld) {
		return
	}
	n.metrics.dropped.WithLabelValues("relay").Inc()
	once := &n.relays.large
	if errors.Is(err, relay.ErrFull) {
		once = &n.relays.full
	}
	once.Do(func() {
		n.log.Warn("a record is not passed on; push/pull carries it", "kind", kindName(k.kind), "origin", k.origin, "key", k.key, "err", err)
	})
}

// GetBroadcasts gives what is passed on in the next packet.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	members := d.members.count()
	d.relays.mu.Lock()
	passed := d.relays.queue.Take(d.now(), members, overhead+1+wire.HeldOverhead, limit)
	d.relays.mu.Unlock()
	var out [][]byte
	for _, p := range passed {
		b, err := encodeHeld(p.Raw, p.Age)
		if err != nil {
			d.log.Error("passing a record on", "err", err)
			continue
		}
		out = append(out, b)
	}
	d.metrics.relayed.Add(float64(len(out)))
	return out
}

// encodeHeld is the message of a record that came from elsewhere.
func encodeHeld(raw []byte, age time.Duration) ([]byte, error) {
	b, err := wire.EncodeHeld(&wire.Held{Envelope: raw, AgeMs: uint64(max(0, age.Milliseconds()))})
	return message(typeHeld, b), err
}

// urgency is what of a status is passed on as soon as it changes.
type urgency struct {
	draining, stopping, serving bool
	endpoints                   uint64
}

func urgencyOf(d *wire.Digest) urgency {
	return urgency{draining: d.GetDraining(), stopping: d.GetStopping(), serving: d.GetSlots() > 0, endpoints: d.GetEndpoints()}
}

// digests is when an agent says its digest.
type digests struct {
	said  urgency
	sent  time.Time
	next  time.Time
	again int // how often soon again, after an urgent change
}

// due reports whether a digest is to be said now, and notes that it is.
func (d *digests) due(now time.Time, u urgency, jitter time.Duration) bool {
	if u != d.said {
		d.said, d.again, d.next = u, urgentTimes, d.sent.Add(digestGap)
	}
	if now.Before(d.next) {
		return false
	}
	d.sent, d.next = now, now.Add(digestEvery+jitter)
	if d.again = max(0, d.again-1); d.again > 0 {
		d.next = now.Add(digestAgain)
	}
	return true
}

// sealDigestLocked signs the digest of the status that was sealed last, if it is
// due. It has the status's own epoch and version. The publisher's lock is held.
func (n *Node) sealDigestLocked(now time.Time) (body *wire.Body, raw []byte, err error) {
	p := &n.own
	if !p.digests.due(now, urgencyOf(p.digest), rand.N(digestJitter)) {
		return nil, nil, nil
	}
	payload, err := wire.EncodeDigest(p.digest)
	if err != nil {
		return nil, nil, err
	}
	body = &wire.Body{Kind: wire.Kind_DIGEST, Origin: n.opts.Name, Epoch: p.epoch, Version: p.version, Payload: payload}
	raw, err = n.sign(body)
	return body, raw, err
}

// missing is a status that is known by its digest only.
type missing struct {
	origin         string
	region         regions.ID
	epoch, version uint64 // of the digest
	urgent         bool
	due            time.Time
	first, tries   int // who is asked first, of those who can be; how many were
}

// statusSlot is where an agent's status is held.
func statusSlot(origin string) slot {
	return slot{role: fleet.RoleRegion, kind: wire.Kind_STATUS, origin: origin}
}

// digest takes an accepted digest: if it shows that this member misses something,
// the status is asked for. The digest itself makes no status younger, lest who
// passes it on decide how old a region is beyond what the status's own age says.
func (i *intake) digest(body *wire.Body, d *wire.Digest, now time.Time) {
	origin := body.GetOrigin()
	delete(i.missing, origin)
	m := &missing{
		origin: origin, region: regions.ID(d.GetRegion()), epoch: body.GetEpoch(), version: body.GetVersion(),
		urgent: true, due: now.Add(wantGrace), first: rand.IntN(maxNotes),
	}
	if r := i.store.get(statusSlot(origin)); r != nil {
		if !body.Newer(r.epoch, r.version) {
			return
		}
		m.urgent = r.status == nil || urgencyOf(wire.DigestOf(r.status)) != urgencyOf(d)
		if !m.urgent && now.Sub(r.heard) <= wantStale {
			return
		}
	}
	if len(i.missing) < maxNotes {
		i.missing[origin] = m
	}
}

// repair asks for statuses that are missing, the urgent ones first.
func (i *intake) repair(now time.Time) {
	if len(i.missing) == 0 {
		return
	}
	all := slices.SortedFunc(maps.Values(i.missing), func(a, b *missing) int {
		if a.urgent != b.urgent && a.urgent {
			return -1
		} else if a.urgent != b.urgent {
			return 1
		}
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.origin, b.origin))
	})
	for _, m := range all {
		epoch, version := i.store.order(statusSlot(m.origin))
		if cmp.Or(cmp.Compare(epoch, m.epoch), cmp.Compare(version, m.version)) >= 0 || m.tries >= wantTries {
			delete(i.missing, m.origin)
			continue
		}
		if now.Before(m.due) {
			continue
		}
		if !i.asking.take(now, wantEvery, wantBurst) {
			return
		}
		i.ask(m, epoch, version)
		m.tries++
		m.due = now.Add(wantAgain)
	}
}

// ask sends for a status to a member that should have it: to whom it is sent
// directly, or the agent itself. It begins with any and goes on with the next.
func (i *intake) ask(m *missing, epoch, version uint64) {
	all := i.members.pick(func(e *member) bool {
		return e.State == MemberAlive && e.Name != i.opts.Name && (e.Role == RoleDirector || e.Region == m.region)
	})
	if len(all) == 0 {
		return
	}
	slices.SortFunc(all, func(a, b *memberlist.Node) int { return cmp.Compare(a.Name, b.Name) })
	to := all[(m.first+m.tries)%len(all)]
	b, err := wire.EncodeWant(&wire.Want{Origin: m.origin, Epoch: epoch, Version: version, From: i.opts.Name})
	if err != nil {
		i.log.Error("asking for a status", "origin", m.origin, "err", err)
		return
	}
	i.metrics.wants.WithLabelValues("asked").Inc()
	i.post(to, "want "+m.origin, message(typeWant, b))
}

// want answers who asks for a status that is held here in a newer version.
func (i *intake) want(content []byte, now time.Time) {
	w, err := wire.DecodeWant(content)
	if err != nil {
		i.refuse(wire.Kind_STATUS, "", reasonMalformed, err)
		return
	}
	k, to := statusSlot(w.GetOrigin()), i.members.find(w.GetFrom())
	r := i.store.get(k)
	if to == nil || r == nil || r.raw == nil || cmp.Or(cmp.Compare(r.epoch, w.GetEpoch()), cmp.Compare(r.version, w.GetVersion())) <= 0 {
		i.metrics.wants.WithLabelValues("unanswered").Inc()
		return
	}
	asker := i.answered[w.GetFrom()]
	if asker == nil {
		if len(i.answered) >= maxNotes {
			clear(i.answered)
		}
		asker = &bucket{}
		i.answered[w.GetFrom()] = asker
	}
	if !asker.take(now, wantEvery, wantBurst) || !i.answering.take(now, answerEvery, answerBurst) {
		i.metrics.wants.WithLabelValues("refused").Inc()
		return
	}
	m, err := encodeHeld(r.raw, now.Sub(r.heard))
	if err != nil {
		i.log.Error("answering with a status", "origin", k.origin, "err", err)
		return
	}
	i.metrics.wants.WithLabelValues("answered").Inc()
	i.post(to, k.lane(), m)
}

// anyOf is a random one of some members, nil of none.
func anyOf(nodes []*memberlist.Node) *memberlist.Node {
	if len(nodes) == 0 {
		return nil
	}
	return nodes[rand.IntN(len(nodes))]
}

// bucket limits a rate: a burst, and one more each time that a period is over.
type bucket struct{ full time.Time } // when the whole burst is there again

func (b *bucket) take(now time.Time, every time.Duration, burst int) bool {
	full := b.full
	if full.Before(now) {
		full = now
	}
	if full = full.Add(every); full.Sub(now) > time.Duration(burst)*every {
		return false
	}
	b.full = full
	return true
}
