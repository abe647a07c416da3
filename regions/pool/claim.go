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
	NoPod                // the model is known, and no pod takes requests for it
	AllTried             // only pods that already failed the request take any
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
	default:
		return "unknown"
	}
}

// Lease is a pod given to one request.
type Lease struct {
	pool  *Pool
	seat  *seat
	spec  regions.Pod
	slots int  // of the model on the pod when it was claimed
	ahead int  // requests beyond them then, this one included
	done  bool // guarded by the pool's lock
}

// Claim gives a pod to a request, and counts the request on it until
// [Lease.Done]. The lease is nil unless the refusal is [Claimed]. A request that
// has not tried any pod counts as an arrival of its model, whatever becomes of
// it: claim once per request, and again only with the pods that failed it in
// Tried.
func (p *Pool) Claim(now time.Time, req regions.Request) (*Lease, Refusal) {
	lease, refusal := p.claim(now, req)
	p.metrics.claim(req.Model, refusal)
	return lease, refusal
}

func (p *Pool) claim(now time.Time, req regions.Request) (*Lease, Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.models[req.Model]
	if m == nil {
		return nil, UnknownModel
	}
	if len(req.Tried) == 0 {
		m.arrivals++
	}
	refusal := NoPod
	p.found, p.seats = p.found[:0], p.seats[:0]
	for _, s := range m.seats {
		capacity := s.capacity(now, &p.options)
		switch {
		case capacity == 0:
		case slices.Contains(req.Tried, s.pod.spec.ID):
			refusal = AllTried
		default:
			p.found = append(p.found, s.candidate(now, &p.options, capacity))
			p.seats = append(p.seats, s)
		}
	}
	if len(p.found) == 0 {
		return nil, refusal
	}
	s := p.seats[p.options.Selector.Select(now, req, p.found)]
	p.claims++
	s.pod.lastClaim = p.claims
	s.pod.inFlight++
	s.inFlight++
	return &Lease{pool: p, seat: s, spec: s.pod.spec, slots: s.slots, ahead: s.queued()}, Claimed
}

// Pod is the claimed pod as it was when it was claimed. Its list of models must
// not be changed.
func (l *Lease) Pod() regions.Pod { return l.spec }

// Done releases the pod and takes in how the request ended. It must be called
// exactly once; later calls are counted and change nothing.
func (l *Lease) Done(now time.Time, out regions.Outcome) {
	if l.release(now, out) {
		l.pool.metrics.end(l.seat.model.name, out.End)
	} else {
		l.pool.metrics.doubles.Inc()
	}
}

// release reports false if the lease was released before.
func (l *Lease) release(now time.Time, out regions.Outcome) bool {
	p, s := l.pool, l.seat
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.done {
		return false
	}
	l.done = true
	s.inFlight--
	s.pod.inFlight--
	switch out.End {
	case regions.EndServed:
		s.served++
		s.model.completions++
		l.measure(now, out)
	case regions.EndPodLost, regions.EndPodError, regions.EndTimeout:
		s.failed++
	case regions.EndClientGone, regions.EndNotStarted:
		// The client's doing, or nobody's: it says nothing of the pod.
	}
	if !s.listed && s.inFlight == 0 {
		s.pod.sweep()
		p.sweepLocked()
		p.notify()
	}
	return true
}

// measure takes a served request into the means. Requests that ended otherwise
// stay out: a pod that fails quickly must not look fast.
//
// The residence wanted is how long a request holds a slot. A request that came
// when a were ahead of it in the queue of a pod of c slots waited for about a/c
// residences r first, and took r + r·a/c in all; hence r = took·c / (c+a). The
// TTFT wanted is that of the pod without a queue, so only requests that met none
// count. An outcome without a TTFT was no generation (a question for metadata,
// say) and tells nothing of either.
func (l *Lease) measure(now time.Time, out regions.Outcome) {
	if out.TTFT <= 0 {
		return
	}
	m, halfLife := l.seat.model, l.pool.options.HalfLife
	took := int64(regions.MicrosOf(out.Took))
	m.residence.add(now, regions.Micros(took*int64(l.slots)/int64(l.slots+l.ahead)), halfLife)
	if l.ahead == 0 {
		m.ttft.add(now, regions.MicrosOf(out.TTFT), halfLife)
	}
}
