package balance

import (
	"math"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Lanes sorts pods into a hot and a cold lane by their in-flight and chooses the
// fastest of the cold ones; if all are hot, the least loaded. (Prequal, Wydrowski
// and others, 2024, but over the full table: an agent sees all of its pods at each
// claim, where Prequal probes a few of thousands.)
//
// How fast a pod is, is the median time to first byte that requests found there
// at about the in-flight it has now. Since a claim counts at once, a fast pod
// turns hot before it is run over.
type Lanes struct{ loads []float64 }

// hotQuantile is the share of pods that are cold: 2^-0.25, the middle of what the
// paper finds good.
const hotQuantile = 0.84

// NewLanes makes a selector for one pool.
func NewLanes() *Lanes { return &Lanes{} }

// Select implements [Selector].
func (l *Lanes) Select(now time.Time, _ regions.Request, among []Candidate) int {
	l.loads = l.loads[:0]
	for i := range among {
		l.loads = append(l.loads, relative(&among[i]))
	}
	slices.Sort(l.loads)
	theta := l.loads[int(hotQuantile*float64(len(l.loads)-1))]
	best, least := -1, regions.Permille(math.MaxInt32)
	for i := range among {
		c := &among[i]
		if relative(c) > theta {
			continue
		}
		pace := pace(now, c)
		if best < 0 || pace < least || pace == least && calmer(c, &among[best]) {
			best, least = i, pace
		}
	}
	return best // theta is somebody's load, so that one is cold
}

// relative is a candidate's in-flight by its slots.
func relative(c *Candidate) float64 {
	return max(float64(c.InFlight)/float64(c.Slots), float64(c.ModelInFlight)/float64(c.ModelSlots))
}

// pace is the time to first byte to expect of a candidate, in proportion. One of which
// nothing is known is the best while it is idle, and the worst until the request
// by which it is tried is answered.
func pace(now time.Time, c *Candidate) regions.Permille {
	if pace, known := c.Record.at(now, c.ModelInFlight); known {
		return pace
	}
	if c.InFlight == 0 {
		return 0
	}
	return math.MaxInt32
}

// calmer decides between two equally fast candidates.
func calmer(a, b *Candidate) bool {
	x, y := relative(a), relative(b)
	return x < y || x == y && older(a, b)
}
