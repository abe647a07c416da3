package admit

import "time"

const (
	// slice and memory are the drain rate's memory: the last ten seconds in which
	// anybody waited. That holds some ends of generations, which take 1 to 60 s each
	// and run by the dozen, and follows a pool that lost a pod within seconds.
	slice  = time.Second
	memory = 10
	// enough is how many must have been served for a rate: fewer are chance.
	enough = 4
	// calm is how long nobody may have waited before the rate is forgotten: as long as
	// one waits by default, and pods die and come back. A burst after that is no part of
	// the trouble before, and by a rate of then it would be refused for nothing.
	calm = 30 * time.Second
)

// drain measures how fast a line moves: how many were served per time in which
// anybody waited. Time in which nobody did tells nothing of it, but that the last times
// are over.
type drain struct {
	at     time.Time // up to when time was counted
	served [memory]int
	busy   [memory]time.Duration
	now    int           // the slice that fills
	rested time.Duration // in which nobody waited, up to at
}

// step counts the time since the last step, in which somebody waited or not.
func (d *drain) step(now time.Time, waited bool) {
	passed := now.Sub(d.at)
	d.at = now
	switch {
	case passed <= 0:
		return
	case !waited:
		if d.rested += passed; d.rested > calm {
			*d = drain{at: now}
		}
		return
	}
	d.rested = 0
	// A wait of longer than the memory is all of it.
	for passed = min(passed, memory*slice); passed > 0; {
		room := slice - d.busy[d.now]
		if room <= 0 {
			d.now = (d.now + 1) % memory
			d.served[d.now], d.busy[d.now] = 0, 0
			continue
		}
		part := min(room, passed)
		d.busy[d.now] += part
		passed -= part
	}
}

// serve counts one that waited and was served.
func (d *drain) serve() { d.served[d.now]++ }

// time is how long n will take to be served, zero while that is not known.
func (d *drain) time(n int) time.Duration {
	served, busy := 0, time.Duration(0)
	for i := range memory {
		served += d.served[i]
		busy += d.busy[i]
	}
	if served < enough {
		return 0
	}
	return busy / time.Duration(served) * time.Duration(n)
}
