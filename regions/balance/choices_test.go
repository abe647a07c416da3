package balance

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
)

// candidates are n idle pods of the given slots, the last for all that follow.
func candidates(n int, slots ...int) []Candidate {
	var out []Candidate
	for i := range n {
		s := regions.Slots(slots[min(i, len(slots)-1)])
		out = append(out, Candidate{Pod: regions.PodID(fmt.Sprintf("pod-%d", i)), Slots: s, ModelSlots: s})
	}
	return out
}

// rng draws the same in every run.
func rng() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func TestByName(t *testing.T) {
	for _, name := range []string{"least-connections", "round-robin", "weighted", "ip-hash", "uri-hash", "hash", "peak-ewma", "lanes"} {
		if s, err := ByName(name, rng()); err != nil || s == nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if _, err := ByName("random", rng()); err == nil || !strings.Contains(err.Error(), "there are least-connections, round-robin") {
		t.Errorf("random: %v", err)
	}
}

func TestRoundRobinTakesTurns(t *testing.T) {
	all := candidates(3, 8)
	var got []int
	for claim := range 7 {
		i := RoundRobin{}.Select(time.Time{}, regions.Request{}, all)
		all[i].LastClaim = uint64(claim + 1)
		got = append(got, i)
		all[i].InFlight++ // its load is nobody's business here
	}
	if fmt.Sprint(got) != "[0 1 2 0 1 2 0]" {
		t.Errorf("turns %v", got)
	}
}

func TestWeightedIsInProportion(t *testing.T) {
	w, all := NewWeighted(), candidates(3, 1, 2, 5)
	got := ""
	for range 16 {
		got += fmt.Sprint(w.Select(time.Time{}, regions.Request{}, all))
	}
	if n := [3]int{strings.Count(got, "0"), strings.Count(got, "1"), strings.Count(got, "2")}; n != [3]int{2, 4, 10} {
		t.Errorf("%v of %s, want 2, 4 and 10", n, got)
	}
	if strings.Contains(got, "222222") {
		t.Errorf("%s is not spread", got)
	}
}

// TestHashLosesOnlyTheLost: when a pod goes, only its keys move.
func TestHashLosesOnlyTheLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 20).Draw(t, "pods")
		gone := rapid.IntRange(0, n-1).Draw(t, "gone")
		h, all := Hash{Key: uriKey}, candidates(n, rapid.SliceOfN(rapid.IntRange(1, 32), n, n).Draw(t, "slots")...)
		left := append(append([]Candidate{}, all[:gone]...), all[gone+1:]...)
		for k := range 50 {
			req := regions.Request{URI: fmt.Sprintf("/v2/models/llama?%d", k)}
			before, after := all[h.Select(time.Time{}, req, all)].Pod, left[h.Select(time.Time{}, req, left)].Pod
			if before != after && before != all[gone].Pod {
				t.Fatalf("key %d moved from %s to %s, and %s is gone", k, before, after, all[gone].Pod)
			}
		}
	})
}

// TestHashIsBounded: however popular a key is, no pod has more than a quarter
// over its share, rounded up.
func TestHashIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "pods")
		h, all := Hash{Key: clientKey}, candidates(n, 8)
		hot := regions.Request{Client: netip.MustParseAddr("192.0.2.7")}
		for k := range rapid.IntRange(1, 200).Draw(t, "requests") {
			i := h.Select(time.Time{}, hot, all)
			all[i].InFlight++
			all[i].ModelInFlight++
			if most := ((k+1)*5 + n*4 - 1) / (n * 4); all[i].ModelInFlight > most {
				t.Fatalf("after %d requests a pod of %d has %d, want at most %d", k+1, n, all[i].ModelInFlight, most)
			}
		}
	})
}

// TestHashIsFair: keys are spread in proportion to slots.
func TestHashIsFair(t *testing.T) {
	h, all := Hash{Key: uriKey}, candidates(2, 8, 24)
	const keys = 4000
	n := 0
	for k := range keys {
		n += h.Select(time.Time{}, regions.Request{URI: fmt.Sprint(k)}, all)
	}
	// 3/4 of 4,000 with a standard deviation of 27.
	if n < 2850 || n > 3150 {
		t.Errorf("the pod of three quarters of the slots has %d of %d keys", n, keys)
	}
}
