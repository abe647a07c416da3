// Package vigil watches that a pod that is waited for does not keep silent for too
// long, and for a shorter time once the pod is known to be out.
package vigil

import (
	"errors"
	"sync"
	"time"
)

// ErrAbandoned ends a request that has left a pod which is out and silent.
var ErrAbandoned = errors.New("the pod is out and silent")

const (
	// abandonedWait is how long a pod that is out may be silent before a request that
	// can go on elsewhere does: some ten times the pause between two tokens, while a
	// pod that only takes no new requests goes on.
	abandonedWait = time.Second
	// abandonedLast is the same for requests that can't: the client is told then, rather
	// than after the whole of the pod's time.
	abandonedLast = 30 * time.Second
)

// Vigil is the watch over one attempt. It rests while the client is waited for.
type Vigil struct {
	mu        sync.Mutex
	timer     *time.Timer
	waits     bool
	since     time.Time // of the present wait
	limit     time.Duration
	why       error // when the limit is reached
	abandoned bool
	movable   func() bool
	end       func(why error)
}

// New makes a vigil that rests. movable reports whether the request can go on
// elsewhere, and end ends the attempt for a reason; both are called from a goroutine
// of their own.
func New(movable func() bool, end func(why error)) *Vigil {
	return &Vigil{movable: movable, end: end}
}

// Wait begins a wait of at most limit, or begins it anew; why is what it ends with.
func (v *Vigil) Wait(limit time.Duration, why error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waits, v.since, v.limit, v.why = true, time.Now(), limit, why
	v.armLocked()
}

// Again begins the present wait anew, if there is one.
func (v *Vigil) Again() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.waits {
		v.since = time.Now()
		v.armLocked()
	}
}

// Rest ends a wait.
func (v *Vigil) Rest() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waits = false
	if v.timer != nil {
		v.timer.Stop()
	}
}

// Abandon says whether the pod is out.
func (v *Vigil) Abandon(out bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.abandoned = out
	if v.waits {
		v.armLocked()
	}
}

func (v *Vigil) armLocked() {
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

func (v *Vigil) fire() {
	v.mu.Lock()
	silent := time.Since(v.since)
	over, out, why := v.waits && silent >= v.limit, v.waits && v.abandoned, v.why
	v.mu.Unlock()
	switch {
	case over:
		v.end(why)
	case out && silent >= abandonedLast, out && silent >= abandonedWait && v.movable():
		v.end(ErrAbandoned)
	default:
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.waits {
			v.armLocked()
		}
	}
}
