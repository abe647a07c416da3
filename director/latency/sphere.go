package latency

import "github.com/rhumb-lb/rhumb/regions"

// Distance is the length in metres of the great circle between two places on a
// sphere with the Earth's mean radius. It is computed in integers: the same on
// every machine, equal in both directions, 0 from a place to itself, and within
// a metre of the exact value on that sphere. The Earth's flattening makes the
// way on the ground up to 0.6 % longer or shorter.
func Distance(a, b regions.Location) int64 { return distance(vectorOf(a), vectorOf(b)) }

// Angles are in 1,024ths of a microdegree (6 mm of arc are 54 of them), sines
// and coordinates in 2^30ths.
const (
	unitsPerMicrodegree = 1 << 10
	rightAngle          = 90_000_000 * unitsPerMicrodegree
	one                 = 1 << 30
)

// metresPerUnit is two (the angle is halved) times the arc of one unit on the
// mean radius R1 = 6,371,009 m of the GRS 80 ellipsoid (Moritz, Geodetic
// Reference System 1980), in 2^38ths of a metre: 2*pi*R1/180/10^6/1024*2^38.
const (
	metresPerUnit = 59_697_406
	metresShift   = 38
)

// vector is a place as a unit vector from the Earth's centre.
type vector struct{ x, y, z int64 }

func vectorOf(l regions.Location) vector {
	sinLat, cosLat := sincos(int64(l.Lat))
	sinLon, cosLon := sincos(int64(l.Lon))
	return vector{times(cosLat, cosLon), times(cosLat, sinLon), sinLat}
}

// distance is twice the arc tangent of the difference over the sum: that holds
// its accuracy for neighbours and antipodes alike, where the arc cosine of the
// dot product loses it.
func distance(a, b vector) int64 {
	apart := root(square(a.x-b.x) + square(a.y-b.y) + square(a.z-b.z))
	along := root(square(a.x+b.x) + square(a.y+b.y) + square(a.z+b.z))
	half := arctan(apart, along)
	return (half*metresPerUnit + 1<<(metresShift-1)) >> metresShift
}

// times multiplies two 2^30ths and rounds.
func times(a, b int64) int64 { return (a*b + one/2) >> 30 }

func square(a int64) uint64 { return uint64(a * a) }

// root is the integer square root, digit by digit in base two.
func root(n uint64) int64 {
	var r uint64
	for bit := uint64(1) << 62; bit != 0; bit >>= 2 {
		if n >= r+bit {
			n -= r + bit
			r = r>>1 + bit
		} else {
			r >>= 1
		}
	}
	return int64(r)
}

// sincos gives sine and cosine of an angle in microdegrees, at most 180 degrees
// either way. It works on the first quadrant and mirrors, so that east and west
// of the antimeridian are one.
func sincos(microdegrees int64) (sin, cos int64) {
	a := microdegrees * unitsPerMicrodegree
	signSin, signCos := int64(1), int64(1)
	if a < 0 {
		a, signSin = -a, -1
	}
	if a > rightAngle {
		a, signCos = 2*rightAngle-a, -1
	}
	switch a {
	case 0:
		return 0, signCos * one
	case rightAngle:
		return signSin * one, 0
	}
	x, y := int64(cordicStart), int64(0)
	for i, step := range arctans {
		if a >= 0 {
			x, y, a = x-y>>i, y+x>>i, a-step
		} else {
			x, y, a = x+y>>i, y-x>>i, a+step
		}
	}
	return signSin * narrow(y), signCos * narrow(x)
}

// arctan is the angle, in units, whose tangent is y over x. Neither is negative
// or above 2^31.
func arctan(y, x int64) int64 {
	switch {
	case y == 0:
		return 0
	case x == 0:
		return rightAngle
	}
	x, y = x<<guardBits, y<<guardBits
	angle := int64(0)
	for i, step := range arctans {
		if y >= 0 {
			x, y, angle = x+y>>i, y-x>>i, angle+step
		} else {
			x, y, angle = x-y>>i, y+x>>i, angle-step
		}
	}
	return max(0, min(angle, rightAngle))
}

// The rotations of CORDIC (Volder, The CORDIC Trigonometric Computing
// Technique, 1959): by the angles whose tangents are powers of two, a vector is
// turned with shifts and additions alone. Coordinates carry ten more bits on
// the way, so that the rounding of 31 steps stays below the last one kept.
const guardBits = 10

// cordicStart is the product of the cosines of all steps, in 2^40ths: what the
// rotations stretch is shrunk beforehand.
const cordicStart = 667_681_663_043

// arctans are the angles of the steps in units: the arc tangent of 2^-i.
var arctans = [...]int64{
	46_080_000_000, 27_202_612_405, 14_373_113_311, 7_296_016_741, 3_662_166_400, 1_832_868_463,
	916_657_879, 458_356_911, 229_181_952, 114_591_413, 57_295_761, 28_647_887,
	14_323_945, 7_161_972, 3_580_986, 1_790_493, 895_247, 447_623,
	223_812, 111_906, 55_953, 27_976, 13_988, 6_994,
	3_497, 1_749, 874, 437, 219, 109,
	55,
}

func narrow(v int64) int64 { return min((v+1<<(guardBits-1))>>guardBits, one) }
