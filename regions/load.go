package regions

import (
	"math"
	"time"
)

// Micros is a time span in microseconds, the unit of every decided duration.
type Micros int64

// MicrosOf converts a duration, cutting below a microsecond.
func MicrosOf(d time.Duration) Micros { return Micros(d / time.Microsecond) }

// Duration converts back, saturating.
func (m Micros) Duration() time.Duration {
	if m > math.MaxInt64/1000 {
		return math.MaxInt64
	}
	return time.Duration(m) * time.Microsecond
}

// MilliSlots is load or capacity in thousandths of a slot. A slot is one
// sequence that a pod runs at a time; as demand it is slot-seconds per second.
type MilliSlots int64

// Slots converts whole slots.
func Slots(n int) MilliSlots { return MilliSlots(n) * 1000 }

// Permille is a share in thousandths.
type Permille int32

// Whole is the share of everything.
const Whole Permille = 1000
