package pool

import (
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/outlier"
)

// Lease is a pod given to one request.
type Lease struct {
	pool        *Pool
	seat        *seat
	spec        *regions.Pod
	fingerprint regions.Fingerprint // when it was claimed
	aside       bool
	slots       int // of the model on the pod when it was claimed
	inFlight    int // of the model on the pod then, without this one
	ahead       int // that the pod said waited inside of it then

	more  int  // slots beside the first; guarded by the pool's lock
	began bool // guarded by the pool's lock
	done  bool // guarded by the pool's lock
}

// Pod is the claimed pod as it was when it was claimed. Its list of models must
// not be changed.
func (l *Lease) Pod() regions.Pod { return *l.spec }

// Fingerprint tells which load of the model the pod has, the zero value while that is
// not known. It is the one that answers as long as the pod does.
func (l *Lease) Fingerprint() regions.Fingerprint {
	if l.fingerprint != (regions.Fingerprint{}) {
		return l.fingerprint
	}
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	return l.seat.facts.Fingerprint
}

// Began takes in that the first byte of the answer is there, ttft after the
// claim. Without it the pool learns that with [Lease.Done], which for a long
// stream is late: a pod that has become slow is given requests until then. It may
// be called at most once, before Done. Prompt is as in [regions.Outcome].
func (l *Lease) Began(now time.Time, ttft time.Duration, prompt int) {
	p, s := l.pool, l.seat
	p.mu.Lock()
	first := !l.began && !l.done && !l.aside && ttft > 0
	if first {
		l.begin(now, ttft, prompt)
	}
	p.mu.Unlock()
	if first {
		p.freed(s.model.name)
	}
}

func (l *Lease) begin(now time.Time, ttft time.Duration, prompt int) {
	l.began = true
	p, s := l.pool, l.seat
	pace := s.model.paceOf(now, regions.MicrosOf(ttft), prompt, &p.options)
	s.record.Answered(now, pace, l.inFlight)
	// The TTFT wanted is that of the pod without a queue, so only requests that
	// met none count.
	if l.ahead == 0 {
		s.model.ttft.Add(now, regions.MicrosOf(ttft), p.options.HalfLife)
	}
	s.step(now, outlier.Answered, &p.options)
	if s.own.Trial() {
		p.judgeLocked(now, s)
	}
}

// More takes one more slot of the pod for the request, which asks for several things at
// once, and reports whether there was one.
func (l *Lease) More(now time.Time) bool {
	p, s := l.pool, l.seat
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.done || l.aside {
		return false
	}
	if _, room := s.candidate(now, s.open()); !room {
		return false
	}
	l.more++
	s.inFlight++
	s.claimed++
	p.tell()
	return true
}

// Less gives back a slot that More took.
func (l *Lease) Less() {
	p, s := l.pool, l.seat
	p.mu.Lock()
	held := l.more > 0 && !l.done
	if held {
		l.more--
		s.release()
		p.tell()
	}
	p.mu.Unlock()
	if held {
		l.freed()
	}
}

// freed tells that the pod may have room.
func (l *Lease) freed() {
	for i := range l.spec.Models {
		l.pool.freed(l.spec.Models[i].Name)
	}
}

// Done releases the pod and takes in how the request ended. It must be called
// exactly once; later calls are counted and change nothing.
func (l *Lease) Done(now time.Time, out regions.Outcome) {
	p, s := l.pool, l.seat
	if !l.release(now, out) {
		p.metrics.doubles.Inc()
		return
	}
	p.metrics.end(s.model.name, out.End)
	if l.aside {
		return
	}
	l.freed()
	if p.options.OnDone != nil {
		p.options.OnDone(now, Result{Pod: l.spec.ID, Model: s.model.name, InFlight: l.inFlight, Ahead: l.ahead, Outcome: out})
	}
}

// Blame says that an end of [regions.EndFailed] was the pod's doing: another pod has
// served the same request.
func (l *Lease) Blame(now time.Time) {
	p, s := l.pool, l.seat
	p.mu.Lock()
	defer p.mu.Unlock()
	s.failed++
	s.step(now, outlier.Failed, &p.options)
	p.judgeLocked(now, s)
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
	if l.aside {
		s.aside--
	} else {
		for range 1 + l.more {
			s.release()
		}
		p.tell()
		l.settle(now, out)
	}
	if !s.listed && s.idle() {
		s.pod.sweep()
		p.sweepLocked()
		p.notify()
	}
	return true
}

// settle takes in what the outcome says of the pod. Requests that ended
// otherwise than served stay out of the means: a pod that fails quickly must not
// look fast.
func (l *Lease) settle(now time.Time, out regions.Outcome) {
	s := l.seat
	switch out.End {
	case regions.EndServed:
		s.served++
		s.model.completions++
		l.measure(now, out)
		s.step(now, outlier.Served, &l.pool.options)
	case regions.EndPodLost, regions.EndPodError, regions.EndTimeout:
		s.failed++
		s.record.Failed(now, l.inFlight, !l.began)
		s.step(now, outlier.Failed, &l.pool.options)
		l.pool.judgeLocked(now, s)
		return
	case regions.EndClientGone, regions.EndNotStarted, regions.EndFailed:
		// The client's doing, or nobody's, or not known: it says nothing of the pod.
	}
	if !l.began {
		s.record.Dropped()
	}
	s.step(now, outlier.Tick, &l.pool.options)
}

// measure takes a served request into the means.
//
// The residence wanted is how long a request holds a slot. A request that came
// when a waited inside of a pod of c slots waited for about a/c residences r
// first, and took r + r·a/c in all; hence r = took·c / (c+a). An outcome without a
// TTFT was no generation and tells nothing of either.
func (l *Lease) measure(now time.Time, out regions.Outcome) {
	if out.TTFT <= 0 {
		return
	}
	if !l.began {
		l.begin(now, out.TTFT, out.Prompt)
	}
	took := int64(regions.MicrosOf(out.Took))
	residence := regions.Micros(took * int64(l.slots) / int64(l.slots+l.ahead))
	halfLife := l.pool.options.HalfLife
	l.seat.record.Residence.Add(now, residence, halfLife)
	l.seat.model.residence.Add(now, residence, halfLife)
}
