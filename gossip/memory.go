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
// [Options.Memory] to its next process.
func (n *Node) Memory() Memory { return n.store.memory() }

func (s *store) memory() Memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	var m Memory
	needed := map[fleet.KeyID]bool{}
	for k, r := range s.slots {
		if k.kind == wire.Kind_STATUS && r.raw != nil {
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

// restore takes over what an earlier process knew. Every record is judged as if it
// came from the network, since the disk may be anybody's; what fails is left out
// and counted. It reports whether another member's status is held now: an old
// picture of the fleet, but one.
func (n *Node) restore(m Memory) (pictured bool) {
	now := n.now()
	for _, der := range m.Certs {
		if cert, err := n.opts.Roots.Verify(der, now); err == nil {
			n.store.addCert(cert)
		} else {
			n.refuseMemory(reasonForged, err)
		}
	}
	for _, r := range m.Records {
		why, err := n.remember(r, now)
		if why != "" {
			n.refuseMemory(why, err)
			continue
		}
		pictured = true
	}
	for _, x := range m.Marks {
		n.store.mark(x, now)
	}
	return pictured
}

// remember takes over one status.
func (n *Node) remember(r Remembered, now time.Time) (reason, error) {
	env, err := wire.DecodeEnvelope(r.Envelope)
	if err != nil {
		return reasonMalformed, err
	}
	body, err := wire.DecodeBody(env.GetBody())
	if err != nil {
		return reasonMalformed, err
	}
	cert := n.store.cert(fleet.KeyID(env.GetKeyId()))
	if cert == nil {
		return reasonUnknownKey, nil
	}
	j := judge(env, body, cert, now)
	heard := r.Heard
	if heard.After(now) { // a clock was set back
		heard = now
	}
	switch {
	case j.reason != "":
		return j.reason, j.err
	case j.status == nil || body.GetOrigin() == n.opts.Name:
		return reasonRole, nil
	case now.Sub(heard) > n.opts.Forget:
		return reasonExpired, nil
	}
	k := slot{role: cert.Role, kind: body.GetKind(), origin: body.GetOrigin(), key: body.GetKey()}
	why, _ := n.store.put(k, &record{
		by: subject{role: cert.Role, name: cert.Name}, epoch: body.GetEpoch(), version: body.GetVersion(),
		raw: slices.Clone(r.Envelope), status: j.status, heard: heard, keyID: cert.KeyID, notAfter: cert.NotAfter,
	}, now)
	return why, nil
}

// mark raises what counts as a replay of one slot. A mark that is not signed can
// only make this node stricter, until the certificate behind it has expired.
func (s *store) mark(x Mark, now time.Time) {
	if now.After(x.NotAfter) || x.Epoch == 0 || x.Epoch >= wire.MaxEpoch || len(x.Origin) > wire.MaxOrigin || len(x.Key) > wire.MaxKey {
		return
	}
	holder, _, _ := strings.Cut(x.Origin, "/")
	k := slot{role: fleet.Role(x.Role), kind: wire.Kind(x.Kind), origin: x.Origin, key: x.Key}
	if e, v := s.order(k); cmp.Or(cmp.Compare(x.Epoch, e), cmp.Compare(x.Version, v)) > 0 {
		s.put(k, &record{by: subject{role: k.role, name: holder}, epoch: x.Epoch, version: x.Version, notAfter: x.NotAfter}, now)
	}
}

// refuseMemory counts and logs what of the memory can't be believed.
func (n *Node) refuseMemory(why reason, err error) {
	n.metrics.refused.WithLabelValues(string(why)).Inc()
	n.log.Warn("a remembered record was refused", "reason", why, "err", err)
}
