package gossip

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
)

// Memory is what a node knows, fit to be kept over a restart. All times are of
// the wall clock.
type Memory struct {
	// Certs are certificates of the fleet, DER.
	Certs [][]byte
	// Records are the newest statuses, as they were signed.
	Records []Remembered
	// Marks are the highest epoch and version of each record that was ever
	// believed, Records' own among them, lest an old one pass for new.
	Marks []Mark
}

// Remembered is one signed record and when it was heard.
type Remembered struct {
	Envelope []byte
	Heard    time.Time
}

// Mark is how far one origin's records have come. What is at or below it is a
// replay.
type Mark struct {
	Role           string // of the certificate, as in [fleet.Role]
	Kind           int32  // as in wire.Kind
	Origin, Key    string
	Epoch, Version uint64
	// NotAfter is when the signer's certificate expires, which makes replays
	// worthless and the mark with them.
	NotAfter time.Time
}

// Memory is what this node knows now, in a fixed order, to be given as
// [Options.Memory] to its next process. It is shared: readers must not change it.
//
// This member's own records are left out, since it will say them again; its marks
// are not, since it must go above them.
func (n *Node) Memory() Memory { return n.store.memory(n.isOwn) }

func (s *store) memory(own func(fleet.Role, string) bool) Memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	var m Memory
	needed := map[fleet.KeyID]bool{}
	for k, r := range s.slots {
		if k.kind == wire.Kind_STATUS && r.raw != nil && !own(k.role, k.origin) {
			m.Records = append(m.Records, Remembered{r.raw, r.heard.Round(0)})
			needed[r.keyID] = true
		}
		m.Marks = append(m.Marks, Mark{
			Role: string(k.role), Kind: int32(k.kind), Origin: k.origin, Key: k.key,
			Epoch: r.epoch, Version: r.version, NotAfter: r.notAfter,
		})
	}
	for id, c := range s.certs {
		if needed[id] {
			m.Certs = append(m.Certs, c.DER)
		}
	}
	slices.SortFunc(m.Certs, slices.Compare)
	slices.SortFunc(m.Records, func(a, b Remembered) int { return slices.Compare(a.Envelope, b.Envelope) })
	slices.SortFunc(m.Marks, func(a, b Mark) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Key, b.Key))
	})
	return m
}

// restore takes over what an earlier process knew. Every certificate and status
// is judged as if it came from the network, since the disk may be anybody's; what
// fails is left out and counted. A node that has another member's status then is
// synced: its picture of the fleet is old, but it is one.
func (n *Node) restore(m Memory) {
	now := n.now()
	statuses, refused := 0, map[reason]int{}
	refuse := func(why reason) {
		n.metrics.refused.WithLabelValues(string(why)).Inc()
		refused[why]++
	}
	for _, der := range m.Certs {
		if cert, err := n.opts.Roots.Verify(der, now); err == nil {
			n.store.addCert(cert)
		} else {
			refuse(reasonForged)
		}
	}
	marks := map[slot]Mark{}
	for _, x := range m.Marks {
		marks[x.slot()] = x
	}
	for _, r := range m.Records {
		held, why := n.remember(r, marks, now)
		if why != "" {
			refuse(why)
		} else if held {
			statuses++
		}
	}
	for k, x := range marks {
		if why := n.mark(k, x, now); why != "" {
			refuse(why)
		}
	}
	if statuses > 0 {
		n.syncedAt.Store(&now)
		n.changed()
	}
	if len(refused) > 0 {
		n.log.Warn("some of what was remembered is not believed", "statuses", statuses, "refused", refused)
	}
}

// remember takes over one status, unless it is of before Forget. Of two of the
// same agent the newer stays, and none is held that is older than its mark.
func (n *Node) remember(r Remembered, marks map[slot]Mark, now time.Time) (held bool, why reason) {
	env, body, err := unpack(r.Envelope)
	if err != nil || body.GetKind() != wire.Kind_STATUS {
		return false, reasonMalformed
	}
	cert := n.store.cert(fleet.KeyID(env.GetKeyId()))
	if cert == nil {
		return false, reasonUnknownKey
	}
	j := judge(env, body, cert, now)
	k := slot{role: cert.Role, kind: body.GetKind(), origin: body.GetOrigin(), key: body.GetKey()}
	mark := marks[k]
	heard := r.Heard
	if heard.After(now) { // a clock was set back
		heard = now
	}
	switch {
	case j.reason != "":
		return false, j.reason
	case n.isOwn(cert.Role, body.GetOrigin()) || now.Sub(heard) > n.opts.Forget:
		return false, ""
	case cmp.Or(cmp.Compare(body.GetEpoch(), mark.Epoch), cmp.Compare(body.GetVersion(), mark.Version)) < 0:
		return false, reasonReplayed
	}
	why, held = n.store.put(k, &record{
		by: subject{role: cert.Role, name: cert.Name}, epoch: body.GetEpoch(), version: body.GetVersion(),
		raw: r.Envelope, status: j.status, heard: heard, keyID: cert.KeyID, notAfter: cert.NotAfter,
	}, now)
	return held, why
}

func (x *Mark) slot() slot {
	return slot{role: fleet.Role(x.Role), kind: wire.Kind(x.Kind), origin: x.Origin, key: x.Key}
}

// mark raises what counts as a replay of one slot. A mark is not signed, but can
// only make this node stricter, and only until the certificate behind it has
// expired. Those of this member's own records are the business of its epoch.
func (n *Node) mark(k slot, x Mark, now time.Time) reason {
	body := &wire.Body{Kind: k.kind, Origin: x.Origin, Key: x.Key, Epoch: x.Epoch, Version: x.Version}
	if _, err := wire.EncodeBody(body); err != nil {
		return reasonMalformed
	}
	if k.role != fleet.RoleRegion && k.role != fleet.RoleDirector && k.role != fleet.RoleOperator {
		return reasonRole
	}
	if n.isOwn(k.role, x.Origin) || now.After(x.NotAfter) || !body.Newer(n.store.order(k)) {
		return ""
	}
	holder, _, _ := strings.Cut(x.Origin, "/")
	why, _ := n.store.put(k, &record{by: subject{role: k.role, name: holder}, epoch: x.Epoch, version: x.Version, notAfter: x.NotAfter}, now)
	return why
}
