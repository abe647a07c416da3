package admit

import (
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// line is the requests of one model that wait, in the order in which they are
// served: by class, and within a class by arrival. It is plain data: no clock, no
// lock.
type line struct {
	waiting  []*ticket
	drained  drain
	overflow bool // it was too long, and is not yet short again
	polled   bool // a timer will try again
	passing  bool // what all of them wait for is another thing than a free slot
	turned   turned
}

// ticket is one request's place.
type ticket struct {
	class regions.Class
	needs needs
	since time.Time // of the request's arrival
	came  time.Time // to this place
	due   time.Time // when it gives up
	try   Try
	// done gets the end of the wait, once.
	done chan error
}

// needs is what a request needs of a pod beside a slot.
type needs struct {
	frontend regions.Frontend
	same     regions.Fingerprint
	tried    bool // some pods are out of the question, and which differs
}

func needsOf(req *regions.Request) needs {
	return needs{req.Frontend, req.Same, len(req.Tried) > 0}
}

// ahead orders tickets: negative if a is served before b.
func ahead(a, b *ticket) int {
	if a.class != b.class {
		return int(b.class) - int(a.class)
	}
	return a.since.Compare(b.since)
}

// join takes a place. A request that comes back, because the pod that it had was
// lost, gets the place that it would have by now.
func (l *line) join(now time.Time, t *ticket) {
	l.drained.step(now, len(l.waiting) > 0)
	l.waiting = slices.Insert(l.waiting, l.place(t), t)
}

// place is how many are served before a ticket that joins.
func (l *line) place(t *ticket) int {
	i, _ := slices.BinarySearchFunc(l.waiting, t, func(a, b *ticket) int {
		if c := ahead(a, b); c != 0 {
			return c
		}
		return -1 // behind its equals
	})
	return i
}

// leave gives a place up, and reports whether there was one.
func (l *line) leave(now time.Time, t *ticket) bool {
	i := slices.Index(l.waiting, t)
	if i < 0 {
		return false
	}
	l.drained.step(now, true)
	l.waiting = slices.Delete(l.waiting, i, i+1)
	return true
}

// last is who is served last, nil if nobody waits.
func (l *line) last() *ticket {
	if len(l.waiting) == 0 {
		return nil
	}
	return l.waiting[len(l.waiting)-1]
}

// view is what a try may know.
func (l *line) view() Line { return Line{len(l.waiting), l.overflow} }

// wait is how long a newcomer behind n others can expect to wait. While
// nothing was served, it is as long as the longest has waited already.
func (l *line) wait(now time.Time, n int) time.Duration {
	if n == 0 {
		return 0
	}
	if expected := l.drained.time(n); expected > 0 {
		return expected
	}
	oldest := now
	for _, t := range l.waiting {
		if t.came.Before(oldest) {
			oldest = t.came
		}
	}
	return now.Sub(oldest)
}

// note renews whether the line is too long.
func (l *line) note(now time.Time, o *Options) {
	switch wait := l.wait(now, len(l.waiting)); {
	case wait > o.OverflowAbove:
		l.overflow = true
	case wait < o.OverflowBelow:
		l.overflow = false
	}
}
