package gossip

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// Bounds on what one certificate's holder can make every member keep, should its
// key be stolen.
const (
	// maxSlots is the most records of one certificate. A region with 256 models
	// is sent as many spill rows by each director.
	maxSlots = 512
	// maxBytes is the most bytes of records of one certificate: every slot full
	// with an ordinary record, twice over.
	maxBytes = 1 << 20
	// evictAfter is how old a record must be to make room for another of the same
	// certificate: agents of a region come and go under new names.
	evictAfter = time.Minute
	// maxCerts is the most certificates kept. Only a fleet's own count.
	maxCerts = 4096
)

// subject is the holder of a certificate.
type subject struct {
	role fleet.Role
	name string
}

// slot is what a record replaces: the same kind, origin and key by a certificate
// of the same role. (A region and a director may share a name.)
type slot struct {
	role   fleet.Role
	kind   wire.Kind
	origin string
	key    string
}

// record is the newest version of a slot. Once it is held a record is not changed,
// only replaced.
type record struct {
	by             subject
	epoch, version uint64
	raw            []byte          // the envelope as it came; nil if forgotten, or a digest
	status         *regions.Status // of a STATUS
	heard          time.Time
	keyID          fleet.KeyID
	notAfter       time.Time // of the certificate
}

// store holds the newest record of each slot and the certificates behind them.
type store struct {
	mu    sync.Mutex
	slots map[slot]*record
	usage map[subject]*usage
	certs map[fleet.KeyID]*fleet.Cert
	dirty bool // the statuses differ from snap
	held  bool // snap stays as it is for now
	snap  regions.Snapshot
}

type usage struct{ slots, bytes int }

func newStore() *store {
	return &store{slots: map[slot]*record{}, usage: map[subject]*usage{}, certs: map[fleet.KeyID]*fleet.Cert{}}
}

// order is the epoch and version that a slot is at, zeros if it is empty.
func (s *store) order(k slot) (epoch, version uint64) {
	if r := s.get(k); r != nil {
		return r.epoch, r.version
	}
	return 0, 0
}

// get is the record that a slot holds, nil if none.
func (s *store) get(k slot) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slots[k]
}

// raw is the envelope that a slot holds, nil if none.
func (s *store) raw(k slot) []byte {
	if r := s.get(k); r != nil {
		return r.raw
	}
	return nil
}

// put takes a record over if it is newer than its slot's and there is room, and
// says whether. A newer record is never held to be older than the one it
// replaces: its origin wrote it later.
func (s *store) put(k slot, r *record, now time.Time) (reason, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.slots[k]
	if old != nil {
		if cmp.Or(cmp.Compare(r.epoch, old.epoch), cmp.Compare(r.version, old.version)) <= 0 {
			return reasonReplayed, false
		}
		if old.heard.After(r.heard) {
			r.heard = old.heard
		}
	}
	if !s.roomLocked(k, r, now) {
		return reasonTooMany, false
	}
	s.dropLocked(k)
	s.slots[k] = r
	u := s.usage[r.by]
	if u == nil {
		u = &usage{}
		s.usage[r.by] = u
	}
	u.slots++
	u.bytes += len(r.raw)
	s.dirty = s.dirty || r.status != nil
	return "", true
}

// roomLocked makes room for a record at the cost of the stalest of the same
// certificate. Other certificates' records are never touched.
func (s *store) roomLocked(k slot, r *record, now time.Time) bool {
	for {
		u := s.usage[r.by]
		if u == nil {
			return true
		}
		slots, bytes := u.slots+1, u.bytes+len(r.raw)
		if old := s.slots[k]; old != nil {
			slots, bytes = slots-1, bytes-len(old.raw)
		}
		if slots <= maxSlots && bytes <= maxBytes {
			return true
		}
		var stalest slot
		at := now.Add(-evictAfter)
		found := false
		for other, have := range s.slots {
			if have.by == r.by && other != k && have.heard.Before(at) {
				stalest, at, found = other, have.heard, true
			}
		}
		if !found {
			return false
		}
		s.dropLocked(stalest)
	}
}

// dropLocked removes a slot's record, if any.
func (s *store) dropLocked(k slot) {
	r := s.slots[k]
	if r == nil {
		return
	}
	delete(s.slots, k)
	s.dirty = s.dirty || r.status != nil
	if u := s.usage[r.by]; u != nil {
		u.slots--
		u.bytes -= len(r.raw)
		if u.slots == 0 {
			delete(s.usage, r.by)
		}
	}
}

// forget drops the content of records not renewed for a while, and keeps their
// order, lest a recorded old one pass for new; that too goes when its
// certificate has expired, which makes replays worthless.
func (s *store) forget(now time.Time, after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, r := range s.slots {
		switch {
		case now.Sub(r.heard) <= after:
		case now.After(r.notAfter):
			s.dropLocked(k)
		case r.raw != nil:
			s.usage[r.by].bytes -= len(r.raw)
			s.dirty = s.dirty || r.status != nil
			s.slots[k] = &record{by: r.by, epoch: r.epoch, version: r.version, heard: r.heard, keyID: r.keyID, notAfter: r.notAfter}
		}
	}
	for id, c := range s.certs {
		if now.After(c.NotAfter) {
			delete(s.certs, id)
		}
	}
}

// hold keeps the snapshot as it is, however the store changes, until held is
// false again.
func (s *store) hold(held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
}

// snapshot is the immutable merge of all statuses.
func (s *store) snapshot() regions.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirty && !s.held {
		reports := make([]regions.Report, 0, len(s.slots))
		for _, r := range s.slots {
			if r.status != nil {
				reports = append(reports, regions.Report{Status: r.status, Heard: r.heard})
			}
		}
		s.snap, s.dirty = regions.NewSnapshot(reports), false
	}
	return s.snap
}

// cert finds a verified certificate, nil if unknown.
func (s *store) cert(id fleet.KeyID) *fleet.Cert {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.certs[id]
}

// addCert keeps a verified certificate.
func (s *store) addCert(c *fleet.Cert) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.certs) < maxCerts {
		s.certs[c.KeyID] = c
	}
}

// state is what a push/pull carries: the newest records, freshest first, and the
// certificates they need, within wire.MaxState. Spill rows are left out: they
// live for seconds and are sent each second to those whom they concern.
func (s *store) state(self *fleet.Cert, now time.Time) *wire.State {
	// Each entry costs a tag and a length of at most 4 bytes, and an age of at
	// most 11, besides its content.
	const overhead = 24
	s.mu.Lock()
	defer s.mu.Unlock()
	var held []*record
	for k, r := range s.slots {
		if r.raw != nil && !fleeting(k.kind) {
			held = append(held, r)
		}
	}
	slices.SortFunc(held, func(a, b *record) int {
		return cmp.Or(b.heard.Compare(a.heard), cmp.Compare(a.by.name, b.by.name), cmp.Compare(b.version, a.version))
	})
	out := &wire.State{Certs: [][]byte{self.DER}}
	room := wire.MaxState - len(self.DER) - overhead
	sent := map[fleet.KeyID]bool{self.KeyID: true}
	for _, r := range held {
		need := len(r.raw) + overhead
		cert := s.certs[r.keyID]
		if cert != nil && !sent[r.keyID] {
			need += len(cert.DER) + overhead
		}
		if need > room {
			continue
		}
		room -= need
		if cert != nil && !sent[r.keyID] {
			sent[r.keyID] = true
			out.Certs = append(out.Certs, cert.DER)
		}
		out.Held = append(out.Held, &wire.Held{Envelope: r.raw, AgeMs: uint64(max(0, now.Sub(r.heard).Milliseconds()))})
	}
	return out
}
