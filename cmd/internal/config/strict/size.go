package strict

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. It is written with its unit, as in "64KiB".
type Size int64

// units of a Size, longest suffix first so that "B" is tried last.
var units = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}}

// errSize tells a reader how to write a size; the caller knows where.
var errSize = errors.New("not a size with a unit")

// UnmarshalText reads "100MiB". A number without unit is refused: the reader of
// a file should not have to know which one was meant.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range units {
		digits, found := strings.CutSuffix(string(text), u.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.bytes || digits[0] == '+' {
			return errSize
		}
		*s = Size(n * u.bytes)
		return nil
	}
	return errSize
}

// String writes the size in the largest unit that leaves no fraction.
func (s Size) String() string {
	for i := len(units) - 2; i >= 0; i-- {
		if u := units[i]; s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}
