package pool

import (
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Refusal says why a request was given no pod.
type Refusal uint8

// The refusals, and Claimed for none.
const (
	Claimed      Refusal = iota
	UnknownModel         // no pod was ever said to serve it
	NoPod                // the model is known, and no pod takes requests like this one for it
	AllTried             // only pods that already failed the request take any
	Full                 // a pod would take it that has no free slot: wait, and claim again
)

// String is the refusal's name in logs and metrics.
func (r Refusal) String() string {
	switch r {
	case Claimed:
		return "claimed"
	case UnknownModel:
		return "unknown-model"
	case NoPod:
		return "no-pod"
	case AllTried:
		return "all-tried"
	case Full:
		return "full"
	default:
		return "unknown"
	}
}

// Arrive counts a request for a model as arrived: once, however often it then
// asks for a pod, and whatever becomes of it. It reports whether the model is known;
// unknown ones are not counted.
func (p *Pool) Arrive(name regions.ModelName) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.models[name]
	if m != nil {
		m.arrivals++
	}
	return m != nil
}

// Claim gives a pod to a request, and counts the request on it until
// [Lease.Done]. The lease is nil unless the refusal is [Claimed].
//
// A pod has room for a request while fewer of the model are on it than it has
// slots, and fewer of all of its models than all of their slots. Requests of other
// agents count as far as they are known. A request that is aside takes no slot and
// needs none.
func (p *Pool) Claim(now time.Time, req regions.Request) (*Lease, Refusal) {
	lease, refusal := p.claim(now, &req)
	p.metrics.claim(req.Model, refusal)
	return lease, refusal
}

func (p *Pool) claim(now time.Time, req *regions.Request) (*Lease, Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.models[req.Model]
	if m == nil {
		return nil, UnknownModel
	}
	p.tickLocked(now)
	refusal, trusted := NoPod, false
	p.found, p.seats = p.found[:0], p.seats[:0]
	for _, s := range m.seats {
		open := s.open()
		if open == 0 || !s.fits(req) {
			continue
		}
		if slices.Contains(req.Tried, s.pod.spec.ID) {
			refusal = max(refusal, AllTried)
			continue
		}
		c, room := s.candidate(now, open)
		if !room && !req.Aside {
			refusal = Full
			continue
		}
		switch {
		case s.suspect && trusted:
			continue
		case !s.suspect && !trusted:
			trusted = true
			p.found, p.seats = p.found[:0], p.seats[:0]
		}
		p.found = append(p.found, c)
		p.seats = append(p.seats, s)
	}
	if len(p.seats) == 0 {
		return nil, refusal
	}
	p.claims++
	if req.Aside {
		return p.asideLocked(), Claimed
	}
	i := p.tryLocked(req)
	if i < 0 {
		i = m.selector.Select(now, *req, p.found)
	}
	s := p.seats[i]
	inFlight := s.load(now)
	s.pod.lastClaim = p.claims
	s.claim(now, &p.options)
	p.tell()
	return p.leaseLocked(Lease{seat: s, slots: s.slots, inFlight: inFlight, ahead: s.waiting(now)}), Claimed
}

// leasesAtOnce are allocated together. They can't be used again, since a second
// release of one must be noticed.
const leasesAtOnce = 32

// leaseLocked makes a lease of a seat.
func (p *Pool) leaseLocked(l Lease) *Lease {
	l.pool, l.spec, l.fingerprint = p, l.seat.pod.spec, l.seat.facts.Fingerprint
	if len(p.leases) == 0 {
		p.leases = make([]Lease, leasesAtOnce)
	}
	made := &p.leases[0]
	p.leases = p.leases[1:]
	*made = l
	return made
}

// tryLocked finds a pod that is back from an ejection and has nothing to do: the
// next request that another pod can serve if this one fails shows how it is. A
// selector would give it one only when all others are full, and it would be out of
// use for much longer than it was bad. It is -1 if there is none.
func (p *Pool) tryLocked(req *regions.Request) int {
	if !req.Replayable || len(req.Tried) > 0 || len(p.seats) == 1 {
		return -1
	}
	return slices.IndexFunc(p.seats, func(s *seat) bool { return s.own.Trial() && s.inFlight == 0 })
}

// asideLocked gives a request that takes no slot to the pod that had none for
// longest, so that they don't all go to one.
func (p *Pool) asideLocked() *Lease {
	best := p.seats[0]
	for _, s := range p.seats[1:] {
		if s.pod.lastAside < best.pod.lastAside {
			best = s
		}
	}
	best.pod.lastAside = p.claims
	best.aside++
	return p.leaseLocked(Lease{seat: best, aside: true})
}

// fits reports whether the pod could serve a request of this kind at all.
func (s *seat) fits(req *regions.Request) bool {
	if !s.pod.spec.At(req.Frontend).IsValid() {
		return false
	}
	return req.Same == (regions.Fingerprint{}) || req.Same == s.facts.Fingerprint
}
