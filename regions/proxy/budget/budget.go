// Package budget bounds how much more work retries make. Repeating what a pod's death
// interrupted is bounded by what was running, so that one death can be made good and a
// wave of them can't double the load; repeating what failed is bounded by what comes,
// so that a pool in trouble is not asked ever more.
package budget

import "time"

const (
	// span is the time for which a budget is given.
	span = 10 * time.Second
	// deathShare of the requests that there are, waiting ones too, may be repeated within a
	// span, and deathLeast in any case: of three pods one may die, and a small pool may
	// lose what it has.
	deathNum, deathDen, deathLeast = 3, 10, 3
	// errorShare of the requests of a span may be repeated after errors, and errorLeast
	// in any case (Google's SRE book, chapter 21, allows a tenth).
	errorNum, errorDen, errorLeast = 1, 10, 3
	// doubtShare of them may be repeated to find out whether an error is the pod's or the
	// request's own, apart from the others: clients can bring such errors about, and must
	// not take from what is for pods in trouble.
	doubtNum, doubtDen, doubtLeast = 1, 20, 3
)

// Budget is what may be repeated of one model's requests. The zero value is full. It
// has no lock and no clock.
type Budget struct {
	requests, deaths, errors, doubts window
}

// Request counts a request that came.
func (b *Budget) Request(now time.Time) { b.requests.add(now) }

// Death takes from the budget for repeating what a pod's death interrupted, with so
// many requests running when it died.
func (b *Budget) Death(now time.Time, running int) bool {
	return b.deaths.take(now, max(deathLeast, running*deathNum/deathDen))
}

// Error takes from the budget for repeating what failed otherwise.
func (b *Budget) Error(now time.Time) bool {
	return b.errors.take(now, max(errorLeast, b.requests.sum(now)*errorNum/errorDen))
}

// Doubt takes from the budget for repeating what failed with an error that may be its own.
func (b *Budget) Doubt(now time.Time) bool {
	return b.doubts.take(now, max(doubtLeast, b.requests.sum(now)*doubtNum/doubtDen))
}

// parts is how many pieces a window has: what was spent comes back after the span,
// within a tenth of it.
const parts = 10

// window counts events of the last span.
type window struct {
	counts [parts + 1]int // the newest is not full yet
	begins time.Time      // of the newest part
	newest int
}

func (w *window) roll(now time.Time) {
	const part = span / parts
	passed := now.Sub(w.begins)
	if w.begins.IsZero() || passed >= span+part {
		*w = window{begins: now}
		return
	}
	for ; passed >= part; passed -= part {
		w.newest = (w.newest + 1) % len(w.counts)
		w.counts[w.newest] = 0
		w.begins = w.begins.Add(part)
	}
}

func (w *window) add(now time.Time) {
	w.roll(now)
	w.counts[w.newest]++
}

func (w *window) sum(now time.Time) int {
	w.roll(now)
	n := 0
	for _, c := range w.counts {
		n += c
	}
	return n
}

// take counts an event unless there were enough of them.
func (w *window) take(now time.Time, most int) bool {
	if w.sum(now) >= most {
		return false
	}
	w.counts[w.newest]++
	return true
}
