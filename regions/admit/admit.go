// Package admit lets requests wait for a place where none is free: first come, first
// served within a class, the higher class before the lower, for a bounded time in a
// line of bounded length. Who can't wait is told when to come back, by how fast the
// line moves.
//
// What a place is, is the caller's business: it gives a function that tries to get
// one, and says when one may have become free.
package admit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
)

// Options configure an [Admission]. Start with [DefaultOptions].
type Options struct {
	// Bound is how many requests of a model may wait; none does with 0.
	Bound int
	// MaxWait is how long a request waits that does not say, and LongestWait the
	// longest that one may ask for.
	MaxWait, LongestWait time.Duration
	// A line overflows when a newcomer would wait for longer than OverflowAbove, until
	// that is less than OverflowBelow.
	OverflowAbove, OverflowBelow time.Duration
	// Poll is how often places are tried for without being told that one is free.
	Poll time.Duration
	// Now is the clock; the system's if nil.
	Now func() time.Time
	// Registry gets the metrics. Nil keeps them to the Admission.
	Registry *prometheus.Registry
}

// DefaultOptions are argued one by one:
//
//   - 1024 waiting requests of a model: sixteen pods of 64 slots each have as many
//     running, so that the last one waits for about one generation.
//   - 30 s of waiting, as a person does who sees that something happens; 10 min at the
//     most, the time in which proxies on the way give up.
//   - Overflow above half a second: more than twice the longest round trip on Earth, so
//     that going elsewhere is quicker. Below a tenth, at which nobody notices a wait, it
//     is over; between the two it stays as it was, lest requests go to and fro.
//   - 50 ms between tries unasked, since a pod that warms up opens by time and rows for
//     other regions come by themselves.
func DefaultOptions() Options {
	return Options{
		Bound:         1024,
		MaxWait:       30 * time.Second,
		LongestWait:   10 * time.Minute,
		OverflowAbove: 500 * time.Millisecond,
		OverflowBelow: 100 * time.Millisecond,
		Poll:          50 * time.Millisecond,
	}
}

// Verdict is what became of a try for a place.
type Verdict uint8

// The verdicts.
const (
	Done Verdict = iota + 1 // it got a place, or needs none any more
	Wait                    // no place is free
	Pass                    // none that this request could take is: others may have one
)

// Line is what a try may know of the line of its model.
type Line struct {
	Waiting  int  // requests in it
	Overflow bool // it is too long, see Options
}

// Try tries to get a place for one request. It is called from any goroutine, but
// never twice at a time nor after it was [Done], nor after [Admission.Enter] has
// returned. It must be quick, and must not call the Admission.
type Try func(now time.Time, line Line) Verdict

// Reason says why a request was not let in.
type Reason uint8

// The reasons.
const (
	Full    Reason = iota + 1 // too many wait
	Late                      // it waited for as long as it may, or would have to
	Crowded                   // it made room for one of a higher class
)

// String is the reason's name in logs and metrics.
func (r Reason) String() string {
	switch r {
	case Full:
		return "queue-full"
	case Late:
		return "queue-timeout"
	case Crowded:
		return "queue-crowded"
	default:
		return "unknown"
	}
}

// RefusedError is a request that was not let in.
type RefusedError struct {
	Reason Reason
	// RetryAfter is when it is likely to be let in at once.
	RetryAfter time.Duration
}

// Error says it in short.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("not admitted: %s, retry after %v", e.Reason, e.RetryAfter)
}

// Admission is the lines of all models. It is safe for concurrent use.
type Admission struct {
	opts    Options
	metrics *metrics

	mu    sync.Mutex
	lines map[regions.ModelName]*line // guarded by mu
}

// New makes an admission where nobody waits.
func New(o Options) *Admission {
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Admission{opts: o, lines: map[regions.ModelName]*line{}}
	a.metrics = newMetrics(o.Registry)
	return a
}

// Enter gets a place for a request that came at since, waiting if it must. The error
// is a [*RefusedError] or ctx's.
func (a *Admission) Enter(ctx context.Context, req regions.Request, since time.Time, try Try) error {
	now := a.opts.Now()
	t, err := a.enter(now, req, since, try)
	if t == nil || err != nil {
		a.metrics.entered(req.Model, err)
		return err
	}
	timer := time.NewTimer(t.due.Sub(now))
	defer timer.Stop()
	select {
	case err = <-t.done:
	case <-timer.C:
		err = a.withdraw(req.Model, t, Late)
	case <-ctx.Done():
		if err = a.withdraw(req.Model, t, Late); err != nil {
			err = context.Cause(ctx)
		}
	}
	a.metrics.entered(req.Model, err)
	a.metrics.waited.WithLabelValues(string(req.Model)).Observe(a.opts.Now().Sub(now).Seconds())
	return err
}

// enter tries at once, if nobody is ahead who waits for the same, or joins the line. The ticket is nil if
// there is nothing to wait for.
func (a *Admission) enter(now time.Time, req regions.Request, since time.Time, try Try) (*ticket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.lines[req.Model]
	if l == nil {
		l = &line{}
	}
	t := &ticket{
		class: req.Class, needs: needsOf(&req), since: since, came: now, due: now.Add(a.patience(req.MaxWait)),
		try: try, done: make(chan error, 1),
	}
	n := l.place(t)
	l.note(now, &a.opts)
	if n == 0 || l.passing {
		verdict := try(now, l.view())
		if verdict == Done {
			return nil, nil
		}
		l.passing = verdict == Pass
	}
	// By now the model is one that somebody knows, so that clients can't fill the map.
	a.lines[req.Model] = l
	if wait := l.wait(now, n); wait > t.due.Sub(now) {
		a.turn(l, now, &req)
		return nil, refuse(Late, wait)
	}
	if len(l.waiting) >= a.opts.Bound {
		last := l.last()
		a.turn(l, now, &req)
		if last == nil || last.class >= t.class {
			return nil, refuse(Full, l.wait(now, n))
		}
		l.leave(now, last)
		last.done <- refuse(Crowded, l.wait(now, len(l.waiting)))
	}
	l.join(now, t)
	a.armLocked(l)
	return t, nil
}

// patience is how long a request may wait.
func (a *Admission) patience(asked time.Duration) time.Duration {
	if asked <= 0 {
		return a.opts.MaxWait
	}
	return min(asked, a.opts.LongestWait)
}

// refuse makes the error of a request that can't wait. A second is the least that a
// client can be told; a fifth at random keeps those that were refused together from
// coming back together.
func refuse(why Reason, wait time.Duration) error {
	wait = min(max(wait, time.Second), time.Minute)
	return &RefusedError{why, wait + rand.N(wait/5+1)}
}

// withdraw takes a request out of the line, or gives the end that its wait has had in
// the meantime.
func (a *Admission) withdraw(m regions.ModelName, t *ticket, why Reason) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, l := a.opts.Now(), a.lines[m]
	if !l.leave(now, t) {
		return <-t.done
	}
	return refuse(why, l.wait(now, len(l.waiting)))
}

// Free says that a place for a model may have become free.
func (a *Admission) Free(m regions.ModelName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.lines[m]; l != nil {
		a.serveLocked(l)
	}
}

// passes bounds how many requests that can take none of the free places are tried at a
// time, so that a release costs the same whoever waits. Of those that need the same one
// is enough.
const passes = 16

// serveLocked lets those in for whom there is a place. Nobody who has none keeps another
// from one.
func (a *Admission) serveLocked(l *line) {
	now := a.opts.Now()
	var kinds [passes]needs
	passed, tried := kinds[:0], 0
	for i := 0; i < len(l.waiting); {
		t := l.waiting[i]
		if t.needs.tried && tried == passes || len(passed) == passes || slices.Contains(passed, t.needs) {
			i++
			continue
		}
		l.note(now, &a.opts)
		switch t.try(now, l.view()) {
		case Done:
			l.leave(now, t)
			l.drained.serve()
			t.done <- nil
		case Pass:
			if i++; t.needs.tried {
				tried++
			} else {
				passed = append(passed, t.needs)
			}
		default:
			l.passing = false
			return
		}
	}
	l.passing = len(l.waiting) > 0
}

// armLocked has the line tried again after a while, for as long as somebody waits.
func (a *Admission) armLocked(l *line) {
	if l.polled || len(l.waiting) == 0 {
		return
	}
	l.polled = true
	time.AfterFunc(a.opts.Poll, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		l.polled = false
		a.serveLocked(l)
		a.armLocked(l)
	})
}

// Waiting is how many requests of each model wait.
func (a *Admission) Waiting() map[regions.ModelName]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[regions.ModelName]int, len(a.lines))
	for m, l := range a.lines {
		out[m] = len(l.waiting)
	}
	return out
}
