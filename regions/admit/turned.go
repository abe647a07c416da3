package admit

import (
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// RefusedFor is how long a request counts as demand that was refused without a wait:
// about as long as one that is served takes a slot, 1 to 60 s. Longer, and a client
// that comes back each few seconds, as it is told to, would count as many.
const RefusedFor = 10 * time.Second

// turned counts the requests that were turned away lately, by seconds.
type turned struct {
	n      [RefusedFor / time.Second]int // by the second's number, modulo their count
	newest int64                         // the newest second that is counted, Unix
}

// step makes room for the second of now, and gives its place. A clock that was set
// back begins anew.
func (x *turned) step(now time.Time) *int {
	second, size := now.Unix(), int64(len(x.n))
	if passed := second - x.newest; passed < 0 || passed >= size {
		x.n = [len(x.n)]int{}
	} else {
		for s := x.newest + 1; s <= second; s++ {
			x.n[s%size] = 0
		}
	}
	x.newest = second
	return &x.n[second%size]
}

// recent is how many there were within the last RefusedFor, the second of now
// included.
func (x *turned) recent(now time.Time) int {
	x.step(now)
	sum := 0
	for _, n := range x.n {
		sum += n
	}
	return sum
}

// turn counts a request that is refused without a wait, or gave its place to one of a
// higher class. What another region has sent is that region's to count.
func (a *Admission) turn(l *line, now time.Time, req *regions.Request) {
	if req.From == "" {
		*l.turned.step(now)++
	}
}

// Refused is how many requests of each model were refused within [RefusedFor] that
// could not even wait: the line was full, or longer than they had time. Those that
// waited in vain counted while they did.
func (a *Admission) Refused() map[regions.ModelName]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.opts.Now()
	out := map[regions.ModelName]int{}
	for m, l := range a.lines {
		if n := l.turned.recent(now); n > 0 {
			out[m] = n
		}
	}
	return out
}
