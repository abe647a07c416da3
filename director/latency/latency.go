// Package latency says how far clients are from regions, in time. What is here
// is the prior: an estimate from the distance on the globe, for every pair of
// which nothing is measured yet. It is pure and computes in integers, so that
// every director estimates alike to the microsecond.
package latency

import "github.com/rhumb-lb/rhumb/regions"

// The prior is a straight line through the round-trip times of 5,045 pairs of
// cloud regions (AWS, Google Cloud, Azure and IBM, early 2026): 23.4 ms plus
// 0.0148 ms per kilometre, which explains 76 % of their variance. Of the
// residuals a tenth is below -34 ms, half below -11 ms and a tenth above
// +53 ms: where two regions differ by less than that, only a measurement tells
// them apart.
//
// The line is used as it is from clients to regions. A client's last mile adds
// to the round trip, but the same to every region, so that it changes neither
// the order of the regions nor the difference between them, and these are what
// is decided by; a constant for it would be a guess that cancels out.
const (
	base     regions.Micros = 23_400
	perTenKm regions.Micros = 148
	tenKm                   = 10_000 // m
)

// fibrePace is how many metres of distance a round trip in fibre covers per
// microsecond: light goes 200 km per millisecond there (a refractive index of
// 1.5), and has to come back.
const fibrePace = 100

// Confidence of the values of this package: how much of the variance of
// round-trip times they explain. A measurement goes up to [regions.Whole].
const (
	// OfEstimate is the confidence of an estimate by distance.
	OfEstimate regions.Permille = 760
	// OfNothing is the confidence of the value for a cell that has no place.
	OfNothing regions.Permille = 0
)

// Estimate is the round-trip time to expect between two places, by their
// distance. It is never below [Floor].
func Estimate(a, b regions.Location) regions.Micros { return estimate(Distance(a, b)) }

func estimate(metres int64) regions.Micros {
	line := base + (regions.Micros(metres)*perTenKm+tenKm/2)/tenKm
	return max(line, Floor(metres))
}

// Floor is the shortest round trip over a distance in metres that light
// in fibre allows: 10 µs per kilometre. A measurement below it is wrong about
// where one of its ends is.
func Floor(metres int64) regions.Micros { return regions.Micros(metres / fibrePace) }

// Nowhere is the round-trip time from the unknown cell to every region: the
// estimate for a quarter of the globe's circumference, which is the mean
// distance of two random points on a sphere.
const Nowhere = base + 10_008*perTenKm/10

// Prior estimates every pair afresh and knows no measurement. It serves where
// there are few pairs; a [Matrix] holds many.
type Prior struct{}

// RTT is the estimate between a cell and a region that stands at the given
// place, with its confidence.
func (Prior) RTT(cell regions.Cell, _ regions.ID, at regions.Location) (regions.Micros, regions.Permille) {
	if !cell.Known {
		return Nowhere, OfNothing
	}
	return Estimate(cell.Location, at), OfEstimate
}
