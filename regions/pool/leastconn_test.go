package pool_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// TestFairness counts which pods get a row of requests.
func TestFairness(t *testing.T) {
	for _, c := range []struct {
		name string
		pods string
		hold bool // do not release
		n    int
		want map[regions.PodID]int
	}{
		{"idle pods take turns", "a=llama:8 b=llama:8 c=llama:8", false, 300, map[regions.PodID]int{"a": 100, "b": 100, "c": 100}},
		{"held requests spread evenly", "a=llama:8 b=llama:8 c=llama:8", true, 12, map[regions.PodID]int{"a": 4, "b": 4, "c": 4}},
		{"in proportion to slots", "a=llama:16 b=llama:8", true, 12, map[regions.PodID]int{"a": 8, "b": 4}},
		{"the larger of two idle ones", "a=llama:8 b=llama:16", false, 10, map[regions.PodID]int{"b": 10}},
		{"slots of an idle model are no room", "a=llama:8,mistral:8 b=llama:8", true, 16, map[regions.PodID]int{"a": 8, "b": 8}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, got := ready(c.pods), map[regions.PodID]int{}
			for range c.n {
				l := claim(t, p, "llama")
				got[l.Pod().ID]++
				if !c.hold {
					l.Done(epoch, regions.Outcome{End: regions.EndServed})
				}
			}
			for id, n := range c.want {
				if got[id] != n {
					t.Errorf("%s got %d of %d, want %d", id, got[id], c.n, n)
				}
			}
		})
	}
}

// TestModelsShareAPod: requests of one model keep the other model's off a pod.
func TestModelsShareAPod(t *testing.T) {
	p := ready("a=llama:8,mistral:8 b=llama:8,mistral:8 c=mistral:8")
	for range 4 {
		claim(t, p, "llama") // two on each of a and b
	}
	if got := claim(t, p, "mistral").Pod().ID; got != "c" {
		t.Fatalf("the idle pod was not used: %s", show(p))
	}
}

func TestTwoModelsInTurns(t *testing.T) {
	p := ready("a=llama:8,mistral:8 b=llama:8,mistral:8")
	got := map[regions.PodID]int{}
	for range 100 {
		llama, mistral := claim(t, p, "llama"), claim(t, p, "mistral")
		if llama.Pod().ID == mistral.Pod().ID {
			t.Fatal("two requests on one pod while the other is idle")
		}
		got[llama.Pod().ID]++
		llama.Done(epoch, regions.Outcome{End: regions.EndServed})
		mistral.Done(epoch, regions.Outcome{End: regions.EndServed})
	}
	if got["a"]+got["b"] != 100 {
		t.Fatal(got)
	}
}

// TestSlowStart: how many of a warming pod's slots fill.
func TestSlowStart(t *testing.T) {
	for _, c := range []struct {
		warm time.Duration
		want int
	}{
		{0, 1}, {1400 * time.Millisecond, 1}, {1500 * time.Millisecond, 2},
		{5 * time.Second, 4}, {9900 * time.Millisecond, 7}, {10 * time.Second, 8}, {time.Hour, 8},
	} {
		p := ready("a=llama:8 b=llama:8 c=llama:8")
		p.SetState(epoch, "c", "llama", regions.PodGone)
		p.SetState(epoch, "c", "llama", regions.PodWarming)
		count := map[regions.PodID]int{}
		for range 100 {
			l, refusal := p.Claim(at(c.warm), regions.Request{Model: "llama"})
			if refusal == pool.Full {
				break
			}
			count[l.Pod().ID]++
		}
		if count["a"] != 8 || count["b"] != 8 || count["c"] != c.want {
			t.Errorf("after %v: %v, want %d for c", c.warm, count, c.want)
		}
	}
}

func TestWarmingAloneServes(t *testing.T) {
	p := ready("a=llama:8")
	p.SetState(epoch, "a", "llama", regions.PodGone)
	p.SetState(epoch, "a", "llama", regions.PodWarming)
	claim(t, p, "llama")
	if _, refusal := p.Claim(epoch, regions.Request{Model: "llama"}); refusal != pool.Full {
		t.Errorf("a second request at once: %v", refusal)
	}
}

func BenchmarkClaim(b *testing.B) {
	text := ""
	for i := range 100 {
		text += string([]byte{' ', byte('a' + i/10), byte('0' + i%10)}) + "=llama:8,mistral:8"
	}
	for _, name := range balance.Names() {
		b.Run(name, func(b *testing.B) {
			o := pool.DefaultOptions()
			o.Selector = func(regions.ModelName) balance.Selector {
				s, err := balance.ByName(name, rand.New(rand.NewPCG(1, 2)))
				if err != nil {
					b.Fatal(err)
				}
				return s
			}
			p := readyWith(o, text)
			req := regions.Request{Model: "llama", Affinity: "session-7", Client: netip.MustParseAddr("192.0.2.7"), URI: "/v2/models/llama/generate"}
			out := regions.Outcome{End: regions.EndServed, TTFT: 200 * time.Millisecond, Took: 4 * time.Second, Prompt: 2000}
			now := epoch
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Millisecond)
				l, refusal := p.Claim(now, req)
				if refusal != pool.Claimed {
					b.Fatal(refusal)
				}
				l.Done(now, out)
			}
		})
	}
}
