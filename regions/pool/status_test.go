package pool_test

import (
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

func TestModels(t *testing.T) {
	p := ready("a=llama:4 b=llama:4 c=llama:4,mistral:2 d=llama:4 e=llama:4")
	p.SetState(epoch, "c", "llama", regions.PodWarming)
	p.SetState(epoch, "d", "llama", regions.PodEjected)
	p.SetState(epoch, "e", "llama", regions.PodGone)
	got := p.Models(at(5*time.Second), nil)
	if len(got) != 2 || got[0].Name != "llama" || got[1].Name != "mistral" {
		t.Fatalf("%+v", got)
	}
	llama, mistral := got[0], got[1]
	if want := (regions.PodCounts{Ready: 2, Warming: 1, Ejected: 1, Gone: 1}); llama.Pods != want {
		t.Errorf("pods %+v, want %+v", llama.Pods, want)
	}
	if want := regions.Slots(8 + 2); llama.Slots != want { // 10 % + half of 90 %, in whole slots
		t.Errorf("slots %d, want %d", llama.Slots, want)
	}
	if mistral.Slots != regions.Slots(2) || mistral.SlotsSource != regions.SlotsConfigured || mistral.Pods.Ready != 1 {
		t.Errorf("%+v", mistral)
	}
}

// TestLoad follows in-flight, wait and TTFT of one pod of four slots.
func TestLoad(t *testing.T) {
	p := ready("a=llama:4")
	queued := 0
	status := func() regions.ModelStatus {
		return p.Models(epoch, map[regions.ModelName]int{"llama": queued, "unheard of": 1})[0]
	}
	var leases []*pool.Lease
	for range 4 {
		p.Arrive("llama")
		leases = append(leases, claim(t, p, "llama"))
	}
	p.Arrive("llama")
	p.Arrive("nobody has it")
	if _, refusal := p.Claim(epoch, regions.Request{Model: "llama"}); refusal != pool.Full {
		t.Fatalf("a fifth on four slots: %v", refusal)
	}
	queued = 1
	if s := status(); s.InFlight != 4 || s.Queued != 1 || s.Wait != 0 || s.Arrivals != 5 || s.Completions != 0 {
		t.Errorf("four on four slots, and one waits: %+v", s)
	}
	for _, l := range leases[:3] {
		l.Done(at(2*time.Second), regions.Outcome{End: regions.EndServed, Took: 2 * time.Second, TTFT: 200 * time.Millisecond, SawBytes: true})
	}
	queued = 0
	if s := status(); s.TTFT != 200_000 || s.InFlight != 1 || s.Queued != 0 || s.Wait != 0 || s.Completions != 3 {
		t.Errorf("one left: %+v", s)
	}
	queued = 6
	if s := status(); s.Queued != 6 || s.Wait != 3_000_000 {
		t.Errorf("six wait for four slots that are each held for 2 s: %+v", s)
	}
	p.SetState(epoch, "a", "llama", regions.PodDraining)
	if s := status(); s.InFlight != 1 || s.Queued != 6 || s.Wait != 0 || s.Slots != 0 {
		t.Errorf("nobody takes requests: %+v", s)
	}
}

// TestFailuresDoNotLookFast: only served requests enter the means.
func TestFailuresDoNotLookFast(t *testing.T) {
	p := ready("a=llama:1")
	claim(t, p, "llama").Done(epoch, regions.Outcome{End: regions.EndServed, Took: 4 * time.Second, TTFT: time.Second})
	for _, end := range []regions.End{regions.EndPodError, regions.EndPodLost, regions.EndClientGone, regions.EndTimeout, regions.EndNotStarted} {
		claim(t, p, "llama").Done(epoch, regions.Outcome{End: end, Took: time.Millisecond, TTFT: time.Millisecond, SawBytes: true})
	}
	if s := p.Models(epoch, map[regions.ModelName]int{"llama": 1})[0]; s.TTFT != 1_000_000 || s.Wait != 4_000_000 || s.Completions != 1 {
		t.Errorf("%+v", s)
	}
}

// TestMeansForget: an old time weighs half with each half-life, and is kept
// while nothing newer is known.
func TestMeansForget(t *testing.T) {
	p := ready("a=llama:8")
	serve := func(now time.Time, ttft time.Duration, n int) {
		for range n {
			claim(t, p, "llama").Done(now, regions.Outcome{End: regions.EndServed, TTFT: ttft, Took: ttft})
		}
	}
	ttft := func() regions.Micros { return p.Models(epoch, nil)[0].TTFT }
	serve(epoch, 100*time.Millisecond, 8)
	serve(at(10*time.Second), 200*time.Millisecond, 4) // the eight weigh as four
	if got := ttft(); got != 150_000 {
		t.Errorf("TTFT %d µs, want 150000", got)
	}
	serve(at(time.Hour), 300*time.Millisecond, 99)
	if got := ttft(); got < 295_000 || got > 300_000 {
		t.Errorf("TTFT %d µs an hour later, want about 300000", got)
	}
	p.SetPods(at(2*time.Hour), nil)
	if got := ttft(); got < 295_000 {
		t.Errorf("TTFT %d µs: nothing newer is known", got)
	}
}

func TestPoolID(t *testing.T) {
	id := func(text string) uint64 { return ready(text).Models(epoch, nil)[0].PoolID }
	if id("a=llama:8 b=llama:8") != id("b=llama:4 a=llama:8") {
		t.Error("order and slots are no part of the ID")
	}
	for _, other := range []string{"a=llama:8", "a=llama:8 c=llama:8", "ab=llama:8", ""} {
		if other != "" && id(other) == id("a=llama:8 b=llama:8") {
			t.Errorf("%q has the same ID", other)
		}
	}
	p := ready("a=llama:8 b=llama:8")
	before := p.Models(epoch, nil)[0].PoolID
	p.SetState(epoch, "a", "llama", regions.PodEjected)
	if p.Models(epoch, nil)[0].PoolID != before {
		t.Error("states are no part of the ID")
	}
	l := claim(t, p, "llama") // on b, which then leaves
	p.SetPods(epoch, pods("a=llama:8"))
	if p.Models(epoch, nil)[0].PoolID != id("a=llama:8") {
		t.Error("a pod that left the set is no part of the ID, whatever it still has to finish")
	}
	l.Done(epoch, regions.Outcome{End: regions.EndServed})
}
