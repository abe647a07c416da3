package discovery

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var errAway = errors.New("the server is away")

// drawAnswer is any answer of a family, over few addresses so that they return.
func drawAnswer(t *rapid.T, family int) answer {
	a := answer{ttl: time.Duration(rapid.IntRange(0, 100).Draw(t, "ttl")) * time.Second}
	if rapid.IntRange(0, 3).Draw(t, "error") == 0 {
		a.err = errAway
		if rapid.Bool().Draw(t, "nothing with the error") {
			return a
		}
	}
	var at []netip.AddrPort
	for _, n := range rapid.SliceOfN(rapid.ByteRange(1, 6), 0, 6).Draw(t, "pods") {
		ip := netip.AddrFrom4([4]byte{10, 0, 0, n})
		if family == 1 {
			ip = netip.AddrFrom16([16]byte{0: 0xfd, 15: n})
		}
		at = append(at, netip.AddrPortFrom(ip, 8000))
	}
	a.set(at)
	return a
}

// told is what was heard at one time.
type told struct {
	at      time.Time
	answers [families]answer
}

// lacking is how many good answers of the family in a row, the newest last, had
// pods of any family but not this one, and since when.
func lacking(all []told, pod netip.AddrPort) (n int, since time.Time) {
	f := family(pod.Addr())
	for _, x := range slices.Backward(all) {
		if slices.Contains(x.answers[f].at, pod) {
			return n, x.at
		}
		if x.answers[f].err == nil {
			n, since = n+1, x.at
		}
	}
	return n, since
}

// TestSightingsWhateverIsHeard: what an answer has is there, errors take nothing
// away, nothing leaves in a hurry, and what no answer has any more leaves.
func TestSightingsWhateverIsHeard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s sightings
		var all []told
		now := time.Unix(0, 0)
		for range rapid.IntRange(1, 60).Draw(t, "lookups") {
			now = now.Add(time.Duration(rapid.IntRange(1, 30).Draw(t, "seconds")) * time.Second)
			before := s.pods()
			x := told{at: now}
			for f := range x.answers {
				x.answers[f] = drawAnswer(t, f)
			}
			all = append(all, x)
			s.hear(now, x.answers)
			after := s.pods()
			if !slices.IsSortedFunc(after, netip.AddrPort.Compare) || len(slices.Compact(slices.Clone(after))) != len(after) {
				t.Fatalf("not in order, or twice: %v", after)
			}
			for _, a := range x.answers {
				for _, pod := range a.at {
					if !slices.Contains(after, pod) {
						t.Fatalf("%v is in the newest answer and not in %v", pod, after)
					}
				}
			}
			for _, pod := range before {
				n, since := lacking(all, pod)
				switch gone := !slices.Contains(after, pod); {
				case gone && (n < missesToLeave || now.Sub(since) < timeToLeave):
					t.Fatalf("%v has left after %d answers without it in %v", pod, n, now.Sub(since))
				case gone && len(after) == 0 && now.Sub(since) < timeToEmpty:
					t.Fatalf("the set is empty after %v", now.Sub(since))
				}
			}
		}
		for range 2 * missesToLeave { // whatever was, a single pod that stays is the only one at last
			now = now.Add(timeToLeave)
			a := answer{}
			a.set([]netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:8000")})
			s.hear(now, [families]answer{a, {}})
		}
		if got := s.pods(); len(got) != 1 {
			t.Fatalf("pods that no answer has linger: %v", got)
		}
	})
}

// TestSightingsPatience: no pods at all are believed after half a minute, or as long
// as the first such answer may be read from a cache; but not for ever.
func TestSightingsPatience(t *testing.T) {
	for _, c := range []struct{ holds, every, want time.Duration }{
		{0, time.Second, timeToEmpty},
		{5 * time.Second, 5 * time.Second, 35 * time.Second},
		{30 * time.Second, 30 * time.Second, 60 * time.Second},
		{15 * time.Minute, 30 * time.Second, 15 * time.Minute},
		{24 * time.Hour, 30 * time.Second, time.Hour},
		{0, time.Minute, 2 * time.Minute}, // three answers at least
	} {
		var s sightings
		now := time.Unix(0, 0)
		a := answer{}
		a.set([]netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:8000")})
		s.hear(now, [families]answer{a, {}})
		first := now.Add(c.every)
		for len(s.pods()) > 0 && now.Sub(first) < 2*time.Hour {
			now = now.Add(c.every)
			left := max(0, c.holds-now.Sub(first)) // as a cache counts down
			s.hear(now, [families]answer{{ttl: left}, {ttl: left}})
			s.hear(now, [families]answer{{err: errAway}, {err: errAway}})
		}
		if got := now.Sub(first); got != c.want {
			t.Errorf("an answer that holds for %v, asked for every %v: believed after %v, want %v", c.holds, c.every, got, c.want)
		}
	}
}
