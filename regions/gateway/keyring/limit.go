package keyring

import (
	"math"
	"sync/atomic"
	"time"
)

// Limiter holds each key to its rate. Its memory is one number per key.
type Limiter struct {
	limits map[string]*limit
}

// limit is one key's. The number is the theoretical arrival time of the generic
// cell rate algorithm, in Unix ns: when the key's bucket is empty again.
type limit struct {
	apart, slack int64 // ns
	tat          *atomic.Int64
}

// NewLimiter limits the keys of a ring. What the same keys owe under the limiter
// before, which may be nil, they still owe; a changed rate counts at once.
func NewLimiter(r *Ring, before *Limiter) *Limiter {
	l := &Limiter{limits: make(map[string]*limit, len(r.keys))}
	for id, k := range r.keys {
		if k.Rate == 0 {
			continue
		}
		apart, slack := shape(k.Rate, k.Burst)
		x := &limit{apart: apart, slack: slack, tat: new(atomic.Int64)}
		if before != nil && before.limits[id] != nil {
			x.tat = before.limits[id].tat
		}
		l.limits[id] = x
	}
	return l
}

// shape is a rate and a burst as times: between two requests, and how much too
// early one may come.
func shape(rate float64, burst int) (apart, slack int64) {
	if burst == 0 {
		burst = max(1, int(math.Ceil(rate)))
	}
	apart = max(1, int64(math.Round(float64(time.Second)/rate)))
	return apart, apart * int64(burst-1)
}

// Admit counts a request of a key, and says how long a refused one should wait:
// then it is admitted, unless another of the same key was meanwhile.
func (l *Limiter) Admit(k *Key, now time.Time) (wait time.Duration, ok bool) {
	x := l.limits[k.ID]
	if x == nil {
		return 0, true
	}
	for {
		tat := x.tat.Load()
		next, early := admit(tat, now.UnixNano(), x.apart, x.slack)
		if early > 0 {
			return time.Duration(early), false
		}
		if x.tat.CompareAndSwap(tat, next) {
			return 0, true
		}
	}
}

// admit is the generic cell rate algorithm in its virtual scheduling form (ITU-T
// I.371, annex A): a request may come up to slack before its theoretical time, and
// each puts that off by apart. early is by how much one came too early, 0 if it is
// admitted.
func admit(tat, now, apart, slack int64) (next, early int64) {
	if early = tat - slack - now; early > 0 {
		return tat, early
	}
	return max(tat, now) + apart, 0
}
