package balance

import (
	"math"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Record is what the requests of one model found on one pod. It has a fixed
// size. The zero value is a pod of which nothing is known.
type Record struct {
	// Residence is how long requests held a slot.
	Residence Mean

	recent [recentSamples]sample // a ring
	count  int                   // samples ever taken in
	open   int                   // requests whose first byte is waited for

	cost  float64 // peak EWMA of the pace
	stamp time.Time

	found found
}

// found is what was worked out for a claim. Most pods are the same at the next one.
type found struct {
	count, inFlight int
	when            time.Time
	pace            regions.Permille
	known           bool
}

// foundAge is how long it holds, in which no sample becomes too old by much.
const foundAge = time.Second

// sample is one request's time to first byte, in proportion to what the pool's
// pods take for a request of its size.
type sample struct {
	pace     regions.Permille
	inFlight int // on the pod when the request was claimed, without it
	at       time.Time
}

const (
	// recentSamples are kept of each pod: two generations of a pod of 8 slots, of
	// which a median is taken that two or three odd requests don't move.
	recentSamples = 16

	// sampleAge is how long a sample says how fast a pod is now. A pod that was slow
	// half a minute ago is asked again, by one request: that is the exploration which
	// finds a pod that has become fast.
	sampleAge = 30 * time.Second

	// paceAge is how long it counts when a pod is judged. A pod that is so slow that
	// it should be found holds each of its slots for minutes and gives few samples.
	paceAge = 2 * time.Minute

	// failurePace is what a failed request counts as. A pod that fails at once must
	// not look fast; ten times what others take is slower than any pod to which a
	// request should go while there is another.
	failurePace = 10 * regions.Whole

	// decay is the time constant of the peak EWMA, as in linkerd: a peak weighs a
	// third after ten seconds.
	decay = 10 * time.Second
)

// Claimed counts a request whose first byte is waited for from now on.
func (r *Record) Claimed() { r.open++ }

// Answered takes in the pace of a request that was claimed with inFlight others on
// the pod: its time to first byte, in proportion to what is expected of one of its
// size.
func (r *Record) Answered(now time.Time, pace regions.Permille, inFlight int) {
	r.Dropped()
	r.add(now, pace, inFlight)
}

// Failed takes in a request that ended by the pod's doing. Waited is whether its
// first byte was still waited for.
func (r *Record) Failed(now time.Time, inFlight int, waited bool) {
	if waited {
		r.Dropped()
	}
	r.add(now, failurePace, inFlight)
}

// Forget forgets what requests found, but not how many are on the pod.
func (r *Record) Forget() { *r = Record{open: r.open} }

// Dropped forgets a request that says nothing of the pod.
func (r *Record) Dropped() { r.open = max(0, r.open-1) }

// Waited is how many requests' first byte is waited for.
func (r *Record) Waited() int { return r.open }

func (r *Record) add(now time.Time, pace regions.Permille, inFlight int) {
	r.recent[r.count%recentSamples] = sample{pace, inFlight, now}
	r.count++
	r.observe(now, float64(pace))
}

// observe moves the peak EWMA: at once up to a slower sample, slowly down.
func (r *Record) observe(now time.Time, pace float64) {
	if pace > r.cost {
		r.cost = pace
	} else {
		w := math.Exp(-float64(max(0, now.Sub(r.stamp))) / float64(decay))
		r.cost = r.cost*w + pace*(1-w)
	}
	r.stamp = now
}

// peak is the peak EWMA of the pace at now. It falls to nothing while
// there are no samples, so that the pod is tried again.
func (r *Record) peak(now time.Time) float64 {
	if r == nil || r.cost == 0 {
		return 0
	}
	return r.cost * math.Exp(-float64(max(0, now.Sub(r.stamp)))/float64(decay))
}

// fresh copies the samples up to an age into out and says how many those are.
func (r *Record) fresh(now time.Time, age time.Duration, out *[recentSamples]sample) int {
	if r == nil {
		return 0
	}
	n := 0
	for i := range min(r.count, recentSamples) {
		if s := r.recent[i]; now.Sub(s.at) <= age {
			out[n] = s
			n++
		}
	}
	return n
}

// Pace is the median pace of the recent requests and of how many it is.
func (r *Record) Pace(now time.Time) (regions.Permille, int) {
	var buf [recentSamples]sample
	n := r.fresh(now, paceAge, &buf)
	return medianPace(buf[:n]), n
}

// near is how many samples say how a pod is at some in-flight: those nearest to
// it. Five have a median that two odd ones don't move.
const near = 5

// at is the median pace that requests found with about inFlight
// others on the pod, and whether there is any.
func (r *Record) at(now time.Time, inFlight int) (regions.Permille, bool) {
	if r == nil {
		return 0, false
	}
	f := &r.found
	if f.count != r.count || f.inFlight != inFlight || now.Sub(f.when) >= foundAge {
		*f = found{count: r.count, inFlight: inFlight, when: now}
		f.pace, f.known = r.nearest(now, inFlight)
	}
	return f.pace, f.known
}

func (r *Record) nearest(now time.Time, inFlight int) (regions.Permille, bool) {
	var buf [recentSamples]sample
	n := r.fresh(now, sampleAge, &buf)
	if n == 0 {
		return 0, false
	}
	all := buf[:n]
	slices.SortFunc(all, func(a, b sample) int { return distance(a.inFlight, inFlight) - distance(b.inFlight, inFlight) })
	return medianPace(all[:min(n, near)]), true
}

func distance(a, b int) int { return max(a-b, b-a) }

// medianPace sorts samples by pace; zero if there are none.
func medianPace(s []sample) regions.Permille {
	if len(s) == 0 {
		return 0
	}
	slices.SortFunc(s, func(a, b sample) int { return int(a.pace) - int(b.pace) })
	return s[len(s)/2].pace
}
