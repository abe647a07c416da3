package director

import "math/bits"

// mulDiv is a*b/c for non-negative a and b and positive c without overflow in
// between; a result beyond int64 saturates.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	const most = 1<<63 - 1
	if hi >= uint64(c) {
		return most
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, most))
}
