package balance

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// epoch is where the tests' time begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// fleet are pods whose requests find the paces given: n idle pods of 8 slots.
type fleet struct {
	among []Candidate
	pace  []regions.Permille // in proportion; 0 fails
	got   []int
	claim uint64
}

func newFleet(paces ...regions.Permille) *fleet {
	f := &fleet{pace: paces, got: make([]int, len(paces)), among: candidates(len(paces), 8)}
	for i := range f.among {
		f.among[i].Record = &Record{}
	}
	return f
}

// send gives one request to a pod, which is answered at once but held if hold is
// true.
func (f *fleet) send(now time.Time, s Selector, hold bool) int {
	i := s.Select(now, regions.Request{}, f.among)
	c := &f.among[i]
	f.claim++
	c.LastClaim = f.claim
	f.got[i]++
	c.Record.Claimed()
	if f.pace[i] == 0 {
		c.Record.Failed(now, c.InFlight, true)
	} else {
		c.Record.Answered(now, f.pace[i], c.InFlight)
	}
	if hold {
		c.InFlight++
		c.ModelInFlight++
	}
	return i
}

// timed are the selectors that go by time to first byte.
func timed() map[string]Selector {
	return map[string]Selector{"peak-ewma": NewPeakEWMA(rng()), "lanes": NewLanes()}
}

func TestFastPodsAreChosen(t *testing.T) {
	for name, s := range timed() {
		f := newFleet(1000, 1000, 4000, 1000)
		for n := range 400 {
			f.send(at(time.Duration(n)*10*time.Millisecond), s, false)
		}
		if f.got[2] > 20 || f.got[0]+f.got[1]+f.got[3] < 380 {
			t.Errorf("%s: the slow pod of four had %d of 400", name, f.got[2])
		}
	}
}

// TestFailuresAreNotFast: a pod that fails at once is no attraction.
func TestFailuresAreNotFast(t *testing.T) {
	for name, s := range timed() {
		f := newFleet(1000, 0, 1000, 1000)
		for n := range 400 {
			f.send(at(time.Duration(n)*10*time.Millisecond), s, false)
		}
		if f.got[1] > 20 {
			t.Errorf("%s: the failing pod of four had %d of 400", name, f.got[1])
		}
	}
}

// TestFastAgainIsFound: a pod that was slow is asked again and gets its part.
func TestFastAgainIsFound(t *testing.T) {
	for name, s := range timed() {
		f := newFleet(1000, 1000, 5000)
		for n := range 300 {
			f.send(at(time.Duration(n)*100*time.Millisecond), s, false)
		}
		before := f.got[2]
		f.pace[2] = 500
		for n := range 1200 {
			f.send(at(30*time.Second+time.Duration(n)*100*time.Millisecond), s, false)
		}
		if got := f.got[2] - before; got < 300 {
			t.Errorf("%s: twice as fast as the others for two minutes, it had %d of 1,200", name, got)
		}
	}
}

// TestLoadCountsAtOnce: a row of requests between two answers does not all go to
// the fastest.
func TestLoadCountsAtOnce(t *testing.T) {
	for name, s := range timed() {
		f := newFleet(900, 1000, 1000, 1000)
		for n := range 200 {
			f.send(at(time.Duration(n)*time.Millisecond), s, false)
		}
		for i := range f.got {
			f.got[i] = 0
		}
		for range 40 {
			i := s.Select(at(time.Second), regions.Request{}, f.among)
			f.among[i].InFlight++
			f.among[i].ModelInFlight++
			f.among[i].Record.Claimed()
			f.got[i]++
		}
		for i, n := range f.got {
			if n > 15 {
				t.Errorf("%s: %d of 40 requests at once went to pod %d", name, n, i)
			}
		}
	}
}

// TestNewPodIsTriedByOne: of which nothing is known, a pod gets one request before
// its first answer.
func TestNewPodIsTriedByOne(t *testing.T) {
	for name, s := range timed() {
		f := newFleet(1000, 1000, 1000)
		for n := range 100 {
			f.send(at(time.Duration(n)*time.Millisecond), s, false)
		}
		f.among[1].Record = &Record{}
		f.among[0].InFlight, f.among[0].ModelInFlight = 1, 1
		f.among[2].InFlight, f.among[2].ModelInFlight = 1, 1
		got := 0
		for range 60 {
			if i := s.Select(at(time.Second), regions.Request{}, f.among); i == 1 {
				got++
				f.among[1].InFlight, f.among[1].ModelInFlight = 1, 1
				f.among[1].Record.Claimed()
			}
		}
		if got != 1 {
			t.Errorf("%s: a pod that has not answered yet had %d of 60", name, got)
		}
	}
}

// TestPaceCounts: a pod that takes three times as long is filled to a third.
func TestPaceCounts(t *testing.T) {
	all := candidates(3, 24)
	all[1].Pace, all[2].Pace = 3000, 1000
	got := [3]int{}
	for range 49 {
		i := LeastConnections{}.Select(epoch, regions.Request{}, all)
		all[i].InFlight++
		all[i].ModelInFlight++
		got[i]++
	}
	if got != [3]int{21, 7, 21} {
		t.Errorf("%v, want 21, 7 and 21", got)
	}
}

// TestDrawDecides: agents that see the same begin with different pods.
func TestDrawDecides(t *testing.T) {
	all := candidates(4, 8)
	for i := range all {
		all[i].Draw = uint32((i + 2) % 4)
	}
	for name, s := range map[string]Selector{"least-connections": LeastConnections{}, "round-robin": RoundRobin{}} {
		if got := s.Select(epoch, regions.Request{}, all); got != 2 {
			t.Errorf("%s: %d, want the one that was drawn first", name, got)
		}
	}
}

func TestHashOnAffinity(t *testing.T) {
	s, err := ByName("hash", rng())
	if err != nil {
		t.Fatal(err)
	}
	all, homes := candidates(8, 8), map[int]bool{}
	for k := range 100 {
		req := regions.Request{Affinity: fmt.Sprint("session-", k), URI: "/a"}
		home := s.Select(epoch, req, all)
		req.URI = "/b"
		if again := s.Select(at(time.Hour), req, all); again != home {
			t.Fatalf("session %d moved from %d to %d", k, home, again)
		}
		homes[home] = true
	}
	if len(homes) != 8 {
		t.Errorf("%d of 8 pods are used", len(homes))
	}
	all[3].InFlight, all[3].ModelInFlight = 7, 7
	if got := s.Select(epoch, regions.Request{}, all); got == 3 {
		t.Error("without affinity it goes where least is")
	}
}

// TestHashMovesFewKeys: a pod that is added takes about its share of the keys, and
// no other key moves.
func TestHashMovesFewKeys(t *testing.T) {
	s := Hash{Key: affinityKey}
	before, after := candidates(15, 8), candidates(16, 8)
	moved := 0
	const keys = 4000
	for k := range keys {
		req := regions.Request{Affinity: fmt.Sprint(k)}
		old, now := s.Select(epoch, req, before), s.Select(epoch, req, after)
		if old == now {
			continue
		}
		if now != 15 {
			t.Fatalf("key %d moved from %d to %d, and only 15 is new", k, old, now)
		}
		moved++
	}
	// A sixteenth of 4,000 with a standard deviation of 15.
	if moved < 190 || moved > 310 {
		t.Errorf("%d of %d keys moved, want about 250", moved, keys)
	}
}

func TestRecordIsAMedianOfTheRecent(t *testing.T) {
	var r Record
	for i, pace := range []regions.Permille{900, 1000, 1100, 9000, 1000} {
		r.Claimed()
		r.Answered(at(time.Duration(i)*time.Second), pace, i)
	}
	if pace, n := r.Pace(at(5 * time.Second)); pace != 1000 || n != 5 {
		t.Errorf("pace %d of %d, want 1000 of 5", pace, n)
	}
	if pace, n := r.Pace(at(122500 * time.Millisecond)); pace != 9000 || n != 2 {
		t.Errorf("two minutes later pace %d of %d, want 9000 of 2", pace, n)
	}
	if _, known := r.at(at(35*time.Second), 0); known {
		t.Error("half a minute later it is known how fast it is now")
	}
	for i := range 100 {
		r.Claimed()
		r.Answered(at(time.Minute), regions.Permille(500+10*i), i)
	}
	if pace, n := r.Pace(at(time.Minute)); n != recentSamples || pace != 1420 {
		t.Errorf("pace %d of %d", pace, n)
	}
	if pace, _ := r.at(at(time.Minute), 85); pace != 1360 {
		t.Errorf("at 85 in flight pace %d, want that of 84 to 88", pace)
	}
	if pace, _ := r.at(at(time.Minute), 99); pace != 1470 {
		t.Errorf("at 99 in flight pace %d, want that of 95 to 99", pace)
	}
	r.Claimed()
	r.Forget()
	if _, n := r.Pace(at(time.Minute)); n != 0 || r.Waited() != 1 {
		t.Errorf("%d samples, %d waited for", n, r.Waited())
	}
	r.Dropped()
	r.Dropped()
	if r.Waited() != 0 {
		t.Error("less than none is waited for")
	}
}

// TestPeak: up at once, down slowly, to nothing without samples.
func TestPeak(t *testing.T) {
	var r Record
	r.Answered(epoch, 1000, 0)
	r.Answered(at(time.Second), 4000, 0)
	if got := r.peak(at(time.Second)); got != 4000 {
		t.Errorf("a peak is %v", got)
	}
	r.Answered(at(2*time.Second), 1000, 0)
	if got := r.peak(at(2 * time.Second)); got < 3500 || got >= 4000 {
		t.Errorf("one fast request later %v", got)
	}
	if got := r.peak(at(2 * time.Minute)); got > 1 {
		t.Errorf("two minutes later %v", got)
	}
}

func BenchmarkSelect(b *testing.B) {
	for _, name := range Names() {
		b.Run(name, func(b *testing.B) {
			s, err := ByName(name, rng())
			if err != nil {
				b.Fatal(err)
			}
			all := candidates(100, 8)
			for i := range all {
				all[i].Record = &Record{}
				for n := range recentSamples {
					all[i].Record.Answered(epoch, regions.Permille(900+13*i%200), n)
				}
			}
			req := regions.Request{Affinity: "session-7", Client: netip.MustParseAddr("192.0.2.7"), URI: "/v2/models/llama/generate"}
			b.ReportAllocs()
			for b.Loop() {
				s.Select(epoch, req, all)
			}
		})
	}
}

// TestClientIsOneAddress: a client that comes by IPv4 is the same mapped into IPv6,
// and one of which nothing is known goes where least is.
func TestClientIsOneAddress(t *testing.T) {
	s, all := Hash{Key: clientKey}, candidates(32, 8)
	for last := range byte(20) {
		plain := netip.AddrFrom4([4]byte{192, 0, 2, last})
		mapped := netip.AddrFrom16(plain.As16())
		if a, b := s.Select(epoch, regions.Request{Client: plain}, all), s.Select(epoch, regions.Request{Client: mapped}, all); a != b {
			t.Errorf("%v is at pod %d, and mapped at %d", plain, a, b)
		}
	}
	for i := range all {
		all[i].InFlight, all[i].ModelInFlight = i+1, i+1
	}
	if got := s.Select(epoch, regions.Request{}, all); got != 0 {
		t.Errorf("nobody goes to pod %d, not to the least loaded", got)
	}
}
