package balance

import (
	"math/rand/v2"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// PeakEWMA draws two pods and chooses the one whose expected wait is less: the
// peak-sensitive moving average of its time to first byte, times its requests by
// its slots. (After twitter/finagle's PeakEwma, which takes whole response times;
// of a stream that would measure the length of answers.)
type PeakEWMA struct{ rng *rand.Rand }

// NewPeakEWMA makes a selector that draws from rng.
func NewPeakEWMA(rng *rand.Rand) *PeakEWMA { return &PeakEWMA{rng} }

// unknown is the cost of a pod of which nothing is known while it has a request:
// more than any real one, so that the first answer is waited for.
const unknown = 1e12

// Select implements [Selector].
func (p *PeakEWMA) Select(now time.Time, _ regions.Request, among []Candidate) int {
	if len(among) == 1 {
		return 0
	}
	i := p.rng.IntN(len(among))
	j := p.rng.IntN(len(among) - 1)
	if j >= i {
		j++
	}
	a, b := expected(now, &among[i]), expected(now, &among[j])
	if b < a || a == b && older(&among[j], &among[i]) {
		return j
	}
	return i
}

// expected is a candidate's cost with a request more.
func expected(now time.Time, c *Candidate) float64 {
	n, d := int64(c.InFlight), int64(c.Slots)
	cost := c.Record.peak(now)
	if cost == 0 && n > 0 {
		cost = unknown
	}
	return cost * float64(n+1) / float64(d)
}
