package discovery

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var errAway = errors.New("the server is away")

// drawAnswer is any answer of a family, over few addresses so that they return.
func drawAnswer(t *rapid.T, family int) answer {
	if rapid.IntRange(0, 3).Draw(t, "error") == 0 {
		return newAnswer(nil, errAway)
	}
	var addrs []netip.Addr
	for _, n := range rapid.SliceOfN(rapid.ByteRange(1, 6), 0, 6).Draw(t, "addresses") {
		a := netip.AddrFrom4([4]byte{10, 0, 0, n})
		if family == 1 {
			a = netip.AddrFrom16([16]byte{0: 0xfd, 15: n})
		}
		addrs = append(addrs, a)
	}
	return newAnswer(addrs, nil)
}

// TestSightingsWhateverIsHeard: what an answer has is there, what no answer of
// late had is not, errors change nothing, and nothing is emptied in a hurry.
func TestSightingsWhateverIsHeard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s sightings
		var heard [families][]answer // good answers, oldest first
		for range rapid.IntRange(1, 60).Draw(t, "lookups") {
			before := s.addresses()
			var now [families]answer
			for f := range now {
				now[f] = drawAnswer(t, f)
				if now[f].err == nil {
					heard[f] = append(heard[f], now[f])
				}
			}
			s.hear(now)
			after := s.addresses()
			if !slices.IsSortedFunc(after, netip.Addr.Compare) || len(slices.Compact(slices.Clone(after))) != len(after) {
				t.Fatalf("not in order, or twice: %v", after)
			}
			for f, a := range now {
				for _, addr := range a.addrs {
					if !slices.Contains(after, addr) {
						t.Fatalf("%v is in the newest answer and not in %v", addr, after)
					}
				}
				if of := func(all []netip.Addr) []netip.Addr {
					return slices.DeleteFunc(slices.Clone(all), func(x netip.Addr) bool { return family(x) != f })
				}; a.err != nil && now[1-f].err != nil && !slices.Equal(of(before), of(after)) {
					t.Fatalf("errors made %v of %v", after, before)
				}
			}
			for _, addr := range after {
				of := heard[family(addr)]
				recent := of[max(0, len(of)-missesToEmpty):]
				if !slices.ContainsFunc(recent, func(a answer) bool { return slices.Contains(a.addrs, addr) }) {
					t.Fatalf("%v is in none of the last %d answers", addr, missesToEmpty)
				}
			}
			for _, addr := range before {
				of := heard[family(addr)]
				recent := of[max(0, len(of)-missesToLeave):]
				if !slices.Contains(after, addr) && slices.ContainsFunc(recent, func(a answer) bool { return slices.Contains(a.addrs, addr) }) {
					t.Fatalf("%v has left, although one of the last %d answers has it", addr, missesToLeave)
				}
			}
		}
	})
}
