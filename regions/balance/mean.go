package balance

import (
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Mean is a mean of durations in which each sample's weight halves with every
// half-life that has passed since. Unlike a mean that moves by a part of each
// new sample, a burst counts in it by its size, and it needs no exponential, so
// that it is integer arithmetic throughout. The zero value is ready for use.
type Mean struct {
	sum    int64 // of µs × weight
	weight int64
	faded  time.Time
}

// sampleWeight is the weight of a fresh sample: enough that it can be halved ten
// times before it is lost, small enough that 10^6 samples of an hour fit.
const sampleWeight = 1 << 10

// Add takes in a sample.
func (m *Mean) Add(now time.Time, sample regions.Micros, halfLife time.Duration) {
	m.fade(now, halfLife)
	m.sum += int64(sample) * sampleWeight
	m.weight += sampleWeight
}

// fade halves all weights once for each half-life that has passed. It never
// fades below half a sample: what a pool was like before a quiet hour is
// better than nothing, and the next samples outweigh it.
func (m *Mean) fade(now time.Time, halfLife time.Duration) {
	if m.faded.IsZero() || halfLife <= 0 {
		m.faded = now
		return
	}
	lives := int64(now.Sub(m.faded) / halfLife)
	if lives <= 0 {
		return
	}
	m.faded = m.faded.Add(time.Duration(lives * int64(halfLife)))
	for ; lives > 0 && m.weight > sampleWeight; lives-- {
		m.sum /= 2
		m.weight /= 2
	}
}

// Samples is how many samples the mean still stands on.
func (m *Mean) Samples(now time.Time, halfLife time.Duration) int {
	m.fade(now, halfLife)
	return int(m.weight / sampleWeight)
}

// Value is the mean, zero without samples.
func (m *Mean) Value() regions.Micros {
	if m.weight == 0 {
		return 0
	}
	return regions.Micros(m.sum / m.weight)
}
