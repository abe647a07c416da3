package proxy

import (
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// abandonedWait is how long a pod that is out may be silent before a request that
	// can go on elsewhere does: some ten times the pause between two tokens, while a
	// pod that only takes no new requests goes on.
	abandonedWait = time.Second
	// abandonedLast is the same for requests that can't: the client is told then, rather
	// than after the whole of the pod's time.
	abandonedLast = 30 * time.Second
)

// vigil watches that a pod that is waited for does not keep silent for too long. It
// rests while the client is waited for.
type vigil struct {
	mu        sync.Mutex
	timer     *time.Timer
	waits     bool
	since     time.Time // of the present wait
	limit     time.Duration
	why       error // when the limit is reached
	abandoned bool
	// leave reports that the request is to leave the pod, which has been silent and out
	// for so long; end ends the attempt.
	leave func(silent time.Duration) bool
	end   func(why error)
}

// wait begins a wait, or begins it anew.
func (v *vigil) wait(limit time.Duration, why error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waits, v.since, v.limit, v.why = true, time.Now(), limit, why
	v.armLocked()
}

// again begins the present wait anew, if there is one.
func (v *vigil) again() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.waits {
		v.since = time.Now()
		v.armLocked()
	}
}

// rest ends a wait.
func (v *vigil) rest() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waits = false
	if v.timer != nil {
		v.timer.Stop()
	}
}

// abandon says whether the pod is out.
func (v *vigil) abandon(out bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.abandoned = out
	if v.waits {
		v.armLocked()
	}
}

func (v *vigil) armLocked() {
	left := v.limit - time.Since(v.since)
	if v.abandoned {
		left = min(left, abandonedWait)
	}
	left = max(left, 0)
	if v.timer == nil {
		v.timer = time.AfterFunc(left, v.fire)
		return
	}
	v.timer.Reset(left)
}

func (v *vigil) fire() {
	v.mu.Lock()
	silent := time.Since(v.since)
	over, out, why := v.waits && silent >= v.limit, v.waits && v.abandoned, v.why
	v.mu.Unlock()
	switch {
	case over:
		v.end(why)
	case out && silent >= abandonedWait && v.leave(silent):
		v.end(errAbandoned)
	default:
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.waits {
			v.armLocked()
		}
	}
}

// flights are the attempts under way at each pod.
type flights struct {
	mu  sync.Mutex
	at  map[seat]map[*attempt]struct{}
	out map[seat]bool // pods that are out
}

// seat is a pod and a model.
type seat struct {
	pod   regions.PodID
	model regions.ModelName
}

func (f *flights) begin(a *attempt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := a.seat()
	if f.at == nil {
		f.at, f.out = map[seat]map[*attempt]struct{}{}, map[seat]bool{}
	}
	if f.at[s] == nil {
		f.at[s] = map[*attempt]struct{}{}
	}
	f.at[s][a] = struct{}{}
	if f.out[s] {
		a.vigil.abandon(true)
	}
}

func (f *flights) end(a *attempt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := a.seat()
	delete(f.at[s], a)
	if len(f.at[s]) == 0 {
		delete(f.at, s)
	}
}

// PodOut says whether a pod is out for a model: it does not answer any more. Requests
// on it that can go on elsewhere do so once it has been silent for a while; those that
// still move stay.
func (p *Proxy) PodOut(pod regions.PodID, model regions.ModelName, out bool) {
	f, s := &p.flights, seat{pod, model}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == nil {
		f.at, f.out = map[seat]map[*attempt]struct{}{}, map[seat]bool{}
	}
	if f.out[s] == out {
		return
	}
	if out {
		f.out[s] = true
	} else {
		delete(f.out, s)
	}
	for a := range f.at[s] {
		a.vigil.abandon(out)
	}
}
