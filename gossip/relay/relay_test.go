package relay_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/gossip/relay"
)

var start = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func message(class relay.Class, origin string, version uint64, raw string) relay.Message {
	return relay.Message{
		Name: relay.Name{Role: "region", Kind: 11, Origin: origin}, Class: class,
		Epoch: 1, Version: version, Raw: []byte(raw), Heard: start,
	}
}

func queue(count int) *relay.Queue {
	return relay.New(relay.Limits{Retransmit: 2, MaxSize: 100, MaxCount: count})
}

func put(t interface{ Fatal(...any) }, q *relay.Queue, all ...relay.Message) {
	for _, m := range all {
		if err := q.Put(m); err != nil {
			t.Fatal(err)
		}
	}
}

// take is a packet's content as text.
func take(q *relay.Queue, members, limit int) []string {
	var out []string
	for _, p := range q.Take(start, members, 3, limit) {
		out = append(out, string(p.Raw))
	}
	return out
}

// TestEqualLengths: the queue of the library that gossip is built on numbers
// messages afresh when it is empty for a moment, and then drops the first of
// equal length.
func TestEqualLengths(t *testing.T) {
	q := queue(10)
	put(t, q,
		message(relay.Digest, "a", 1, "A-state-1"),
		message(relay.Digest, "a", 2, "A-state-2"), // the queue is empty for a moment
		message(relay.Digest, "b", 1, "B-state-1"),
		message(relay.Digest, "c", 1, "C-state-1"))
	want := []string{"A-state-2", "B-state-1", "C-state-1"}
	for range 2 {
		if got := take(q, 9, 1000); !slices.Equal(got, want) {
			t.Errorf("took %q, want %q", got, want)
		}
	}
	if got := take(q, 9, 1000); got != nil || q.Len() != 0 {
		t.Errorf("took %q after all were sent, %d wait", got, q.Len())
	}
}

// TestTimes is Retransmit · ceil(log10(n+1)).
func TestTimes(t *testing.T) {
	for members, want := range map[int]int{0: 2, 1: 2, 9: 2, 10: 4, 24: 4, 99: 4, 100: 6, 200: 6, 999: 6, 1000: 8} {
		q := queue(1)
		put(t, q, message(relay.Digest, "a", 1, "x"))
		got := 0
		for len(take(q, members, 100)) > 0 {
			got++
		}
		if got != want {
			t.Errorf("%d members: sent %d times, want %d", members, got, want)
		}
	}
}

func TestOrder(t *testing.T) {
	q := queue(10)
	put(t, q,
		message(relay.Digest, "d1", 1, "d1"), message(relay.Other, "o1", 1, "o1"),
		message(relay.Digest, "d2", 1, "d2"), message(relay.Control, "c1", 1, "c1"))
	for i, want := range [][]string{
		{"c1", "d1"}, // control's turn, then by class
		{"d2", "c1"}, // the digests' turn: the one sent less
		{"o1", "d1"}, // the others' turn
		{"d2", "o1"},
		nil,
	} {
		if got := take(q, 5, 2*5); !slices.Equal(got, want) {
			t.Errorf("packet %d has %q, want %q", i, got, want)
		}
	}
}

// TestAge is counted from when the message was heard, and never below zero.
func TestAge(t *testing.T) {
	q := queue(2)
	put(t, q, message(relay.Digest, "a", 1, "x"))
	for _, c := range []struct{ at, want time.Duration }{{3 * time.Second, 3 * time.Second}, {-time.Second, 0}} {
		if got := q.Take(start.Add(c.at), 1, 0, 10); len(got) != 1 || got[0].Age != c.want {
			t.Errorf("%v later: %v", c.at, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	q := queue(2)
	var size *relay.SizeError
	if err := q.Put(message(relay.Control, "a", 1, string(make([]byte, 101)))); !errors.As(err, &size) || size.Size != 101 || size.Most != 100 {
		t.Errorf("a large message: %v", err)
	}
	put(t, q, message(relay.Digest, "a", 5, "a"), message(relay.Digest, "b", 1, "b"))
	for _, version := range []uint64{4, 5} {
		if err := q.Put(message(relay.Digest, "a", version, "old")); !errors.Is(err, relay.ErrOld) {
			t.Errorf("version %d after 5: %v", version, err)
		}
	}
	for _, class := range []relay.Class{relay.Digest, relay.Other} {
		if err := q.Put(message(class, "c", 1, "c")); !errors.Is(err, relay.ErrFull) {
			t.Errorf("class %d into a queue full of what was never sent: %v", class, err)
		}
	}
	put(t, q, message(relay.Digest, "a", 6, "a6"))  // replaces
	put(t, q, message(relay.Control, "x", 1, "x1")) // b gives way, the older
	if got := take(q, 5, 100); !slices.Equal(got, []string{"x1", "a6"}) {
		t.Errorf("took %q", got)
	}
	put(t, q, message(relay.Digest, "d", 1, "d")) // a was sent before and gives way
	if got := take(q, 5, 100); !slices.Equal(got, []string{"d", "x1"}) {
		t.Errorf("took %q", got)
	}
}

// TestNoClassStarves under a flood of the most urgent.
func TestNoClassStarves(t *testing.T) {
	q := queue(1000)
	put(t, q, message(relay.Other, "other", 1, "other"), message(relay.Digest, "digest", 1, "digest"))
	seen := map[string]int{}
	for i := range 18 { // 6 times each, in every third packet
		for j := range 10 {
			put(t, q, message(relay.Control, fmt.Sprint("c", i, j), 1, "control"))
		}
		for _, m := range take(q, 200, 2*10) {
			seen[m]++
		}
	}
	if seen["other"] != 6 || seen["digest"] != 6 {
		t.Errorf("sent %v", seen)
	}
}

// TestProperties: whatever is put and taken, no packet is over its limit or has
// a message twice; a replaced message is never seen again; each that is not
// replaced is taken exactly its number of times in the end; and the same puts
// and takes give the same packets.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q, twin := queue(1000), queue(1000)
		newest, sent, versions := map[string]string{}, map[string]int{}, map[string]uint64{}
		const members, times = 24, 4
		packet := func(limit int) int {
			got, again := q.Take(start, members, 3, limit), twin.Take(start, members, 3, limit)
			if !slices.EqualFunc(got, again, func(a, b relay.Passed) bool { return string(a.Raw) == string(b.Raw) }) {
				t.Fatalf("%q and %q of the same", got, again)
			}
			total, in := 0, map[string]bool{}
			for _, p := range got {
				raw := string(p.Raw)
				total += len(raw) + 3
				if in[raw] {
					t.Fatalf("%q twice in a packet", raw)
				}
				in[raw] = true
				origin := raw[:1]
				if newest[origin] != raw {
					t.Fatalf("took %q, and %q is newer", raw, newest[origin])
				}
				sent[raw]++
			}
			if total > limit {
				t.Fatalf("%d bytes in a packet of %d", total, limit)
			}
			return len(got)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "take") {
				packet(rapid.IntRange(0, 200).Draw(t, "limit"))
				continue
			}
			origin := string(rune('a' + rapid.IntRange(0, 9).Draw(t, "origin")))
			versions[origin]++
			raw := fmt.Sprintf("%s%d%s", origin, versions[origin], make([]byte, rapid.IntRange(0, 50).Draw(t, "size")))
			m := message(relay.Class(rapid.IntRange(0, 2).Draw(t, "class")), origin, versions[origin], raw)
			put(t, q, m)
			put(t, twin, m)
			newest[origin] = raw
		}
		for packet(103) > 0 {
		}
		if q.Len() != 0 {
			t.Fatalf("%d still wait", q.Len())
		}
		for _, raw := range newest {
			if sent[raw] != times {
				t.Fatalf("%q was sent %d times, want %d", raw, sent[raw], times)
			}
		}
	})
}
