package pool_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// clinic is a pool whose pods answer as they are told, one request after the other.
type clinic struct {
	*pool.Pool
	t    *testing.T
	now  time.Time
	ttft map[regions.PodID]time.Duration
	ends map[regions.PodID]regions.End
	got  map[regions.PodID]int
}

func newClinic(t *testing.T, text string) *clinic {
	return &clinic{
		Pool: ready(text), t: t, now: epoch,
		ttft: map[regions.PodID]time.Duration{}, ends: map[regions.PodID]regions.End{}, got: map[regions.PodID]int{},
	}
}

// serve lets n requests come, a hundred at a time 10 ms apart, and end.
func (c *clinic) serve(n int) {
	c.t.Helper()
	for range n {
		c.now = c.now.Add(10 * time.Millisecond)
		l, refusal := c.Claim(c.now, regions.Request{Model: "llama", Replayable: true})
		if refusal != pool.Claimed {
			c.t.Fatalf("at %v: %v", c.now.Sub(epoch), refusal)
		}
		id := l.Pod().ID
		c.got[id]++
		ttft, end := c.ttft[id], c.ends[id]
		if ttft == 0 {
			ttft = 200 * time.Millisecond
		}
		if end == 0 {
			end = regions.EndServed
		}
		if end == regions.EndServed {
			l.Began(c.now, ttft, 1000)
		}
		l.Done(c.now, regions.Outcome{End: end, TTFT: ttft, Took: ttft, Prompt: 1000})
	}
}

// states is "abc eject": who is how.
func (c *clinic) states(st regions.PodState) string {
	var out []string
	for _, i := range c.Pods() {
		if i.State == st {
			out = append(out, string(i.ID))
		}
	}
	return strings.Join(out, " ")
}

func TestErrorsEject(t *testing.T) {
	for _, end := range []regions.End{regions.EndPodError, regions.EndPodLost, regions.EndTimeout} {
		c := newClinic(t, "a=llama:8 b=llama:8 c=llama:8 d=llama:8")
		changed(c.Pool)
		c.ends["b"] = end
		c.serve(40)
		if got := c.states(regions.PodEjected); got != "b" || c.got["b"] != 5 {
			t.Errorf("%v: %q is ejected after %d requests, want b after 5", end, got, c.got["b"])
		}
		if !changed(c.Pool) {
			t.Error("nobody is told")
		}
		// It is tried by one request after 5 s, then after 10 s more, and when that
		// is served it is back.
		c.now = epoch.Add(6 * time.Second)
		c.serve(40)
		if got := c.states(regions.PodEjected); got != "b" || c.got["b"] != 6 {
			t.Errorf("%v: on trial %q is ejected after %d requests, want b after 6", end, got, c.got["b"])
		}
		c.now = epoch.Add(17 * time.Second)
		c.ends["b"] = regions.EndServed
		c.serve(40)
		if got := c.states(regions.PodWarming); got != "b" {
			t.Errorf("%v: warming are %q", end, got)
		}
		c.now = epoch.Add(30 * time.Second)
		c.serve(40)
		if got := c.states(regions.PodReady); got != "a b c d" {
			t.Errorf("%v: ready are %q", end, got)
		}
	}
}

// TestClientsDoNotEject: what clients do never counts, nor what nobody did.
func TestClientsDoNotEject(t *testing.T) {
	c := newClinic(t, "a=llama:8 b=llama:8 c=llama:8")
	for _, end := range []regions.End{regions.EndClientGone, regions.EndNotStarted} {
		c.ends["b"] = end
		c.serve(100)
	}
	if got := c.states(regions.PodReady); got != "a b c" {
		t.Errorf("ready are %q", got)
	}
}

func TestSlowIsEjected(t *testing.T) {
	c := newClinic(t, "a=llama:8 b=llama:8 c=llama:8 d=llama:8 e=llama:8")
	c.serve(100)
	c.ttft["c"] = 2 * time.Second
	c.serve(200)
	if got := c.states(regions.PodEjected); got != "c" {
		t.Fatalf("ejected are %q, want c", got)
	}
	for _, i := range c.Pods() {
		if i.ID == "c" && !strings.Contains(i.Why, "times as long") {
			t.Errorf("why: %q", i.Why)
		}
	}
	before := c.got["c"]
	c.serve(200) // within its 5 s
	if c.got["c"] != before {
		t.Errorf("an ejected pod was given %d requests", c.got["c"]-before)
	}
	// One request is enough to see that it is slow still.
	c.now = c.now.Add(5 * time.Second)
	c.serve(200)
	if got := c.states(regions.PodEjected); got != "c" || c.got["c"] != before+1 {
		t.Errorf("after its trial %q is ejected, %d requests", got, c.got["c"]-before)
	}
	c.ttft["c"] = 0
	c.now = c.now.Add(10 * time.Second)
	c.serve(200)
	c.now = c.now.Add(10 * time.Second)
	c.serve(200)
	if got := c.states(regions.PodReady); got != "a b c d e" {
		t.Errorf("fast again, yet ready are only %q", got)
	}
}

// TestLongPromptsAreNotSlow: a pod that happens to get the long prompts is
// compared with what those take.
func TestLongPromptsAreNotSlow(t *testing.T) {
	p := ready("a=llama:8 b=llama:8 c=llama:8 d=llama:8")
	now := epoch
	for i := range 400 {
		now = now.Add(20 * time.Millisecond)
		l, _ := p.Claim(now, regions.Request{Model: "llama"})
		out := regions.Outcome{End: regions.EndServed, TTFT: 100 * time.Millisecond, Took: time.Second, Prompt: 500}
		// From the second round on the pod b has nearly all of the long ones.
		if l.Pod().ID == "b" && i > 3 || i%97 == 0 {
			out.TTFT, out.Prompt = 2*time.Second, 50_000
		}
		l.Done(now, out)
	}
	for _, i := range p.Pods() {
		if i.State != regions.PodReady {
			t.Errorf("%s is %v: %s", i.ID, i.State, i.Why)
		}
	}
}

// TestAllSlowTogether: a pool that becomes slow as a whole loses nobody.
func TestAllSlowTogether(t *testing.T) {
	c := newClinic(t, "a=llama:8 b=llama:8 c=llama:8 d=llama:8 e=llama:8")
	c.serve(200)
	for _, id := range []regions.PodID{"a", "b", "c", "d", "e"} {
		c.ttft[id] = 5 * time.Second
	}
	for range 50 {
		c.serve(20)
		if got := c.states(regions.PodEjected); got != "" {
			t.Fatalf("ejected are %q", got)
		}
	}
}

// TestNeverMoreThanHalf: all pods fail all requests, and yet half of them stay.
func TestNeverMoreThanHalf(t *testing.T) {
	for n := 1; n <= 6; n++ {
		text := ""
		for i := range n {
			text += fmt.Sprintf("%c=llama:8 ", 'a'+i)
		}
		c := newClinic(t, text)
		for i := range n {
			c.ends[regions.PodID(rune('a'+i))] = regions.EndPodError
		}
		for range 40 {
			c.serve(10)
			if out := len(strings.Fields(c.states(regions.PodEjected))); out > n/2 {
				t.Fatalf("%d of %d are ejected", out, n)
			}
		}
		if out := len(strings.Fields(c.states(regions.PodEjected))); out != n/2 {
			t.Errorf("%d of %d are ejected, want half", out, n)
		}
	}
}

// TestPardon: when others leave by evidence, those that are out by opinion come
// back, the first that was ejected first.
func TestPardon(t *testing.T) {
	for name, leave := range map[string]func(*clinic){
		"probes": func(c *clinic) {
			c.SetState(c.now, "c", "llama", regions.PodGone)
			c.SetState(c.now, "d", "llama", regions.PodDraining)
		},
		"discovery": func(c *clinic) { c.SetPods(c.now, pods("a=llama:8 b=llama:8")) },
		"shutdown":  func(c *clinic) { c.SetPods(c.now, pods("a=llama:8 b=llama:8 c!=llama:8 d!=llama:8")) },
	} {
		c := newClinic(t, "a=llama:8 b=llama:8 c=llama:8 d=llama:8")
		c.ends["b"] = regions.EndPodError
		c.serve(40)
		c.ends["a"] = regions.EndPodError
		c.serve(40)
		if got := c.states(regions.PodEjected); got != "a b" {
			t.Fatalf("ejected are %q", got)
		}
		leave(c)
		if got := c.states(regions.PodWarming); got != "b" {
			t.Errorf("%s: warming are %q, want b", name, got)
		}
	}
}

// TestFullNeedsTheSlow: a pool that has been full for half a minute takes slow
// pods back, and keeps them until it has room.
func TestFullNeedsTheSlow(t *testing.T) {
	c := newClinic(t, "a=llama:2 b=llama:2 c=llama:2 d=llama:2")
	c.serve(60)
	c.ttft["d"] = 2 * time.Second
	c.serve(60)
	if got := c.states(regions.PodEjected); got != "d" {
		t.Fatalf("ejected are %q", got)
	}
	// With its seventh trial it is out for longer than this takes.
	clear(c.got)
	for c.states(regions.PodEjected) == "" || c.got["d"] < 7 {
		c.now = c.now.Add(time.Second)
		c.serve(8)
		if c.now.Sub(epoch) > time.Hour {
			t.Fatalf("d has had %d requests", c.got["d"])
		}
	}
	var held []*pool.Lease
	for range 6 {
		l, refusal := c.Claim(c.now, regions.Request{Model: "llama"})
		if refusal != pool.Claimed {
			t.Fatal(refusal)
		}
		held = append(held, l)
	}
	full := c.now
	for c.states(regions.PodEjected) == "d" {
		c.now = c.now.Add(100 * time.Millisecond)
		c.Tick(c.now)
		if c.now.Sub(full) > time.Minute {
			t.Fatal("it is not taken back")
		}
	}
	if took := c.now.Sub(full); took < 29*time.Second || took > 31*time.Second {
		t.Errorf("taken back after %v", took)
	}
	for range 2 {
		l, refusal := c.Claim(c.now, regions.Request{Model: "llama"})
		if refusal != pool.Claimed || l.Pod().ID != "d" {
			t.Fatal(refusal)
		}
		l.Began(c.now, 2*time.Second, 1000)
		if got := c.states(regions.PodEjected); got != "" {
			t.Fatal("it is ejected while it is needed")
		}
		held = append(held, l)
	}
	_ = held
}

// TestTrialOfOneSlot: who is back from an ejection is given one request at a time.
func TestTrialOfOneSlot(t *testing.T) {
	c := newClinic(t, "a=llama:8 b=llama:8 c=llama:8 d=llama:8")
	c.ends["b"] = regions.EndPodError
	c.serve(40)
	c.now = c.now.Add(5 * time.Second)
	count := map[regions.PodID]int{}
	for {
		l, refusal := c.Claim(c.now, regions.Request{Model: "llama"})
		if refusal != pool.Claimed {
			break
		}
		count[l.Pod().ID]++
	}
	if count["b"] != 1 || count["a"] != 8 {
		t.Errorf("%v, want one on b", count)
	}
}

// TestTrialByWhatCanBeReplayed: a request that must not run twice is not what a
// pod is tried with.
func TestTrialByWhatCanBeReplayed(t *testing.T) {
	c := newClinic(t, "a=llama:8 b=llama:8 c=llama:8 d=llama:8")
	c.ends["b"] = regions.EndPodError
	c.serve(40)
	c.now = c.now.Add(5 * time.Second)
	for _, x := range []struct {
		req  regions.Request
		want bool
	}{
		{regions.Request{Model: "llama"}, false},
		{regions.Request{Model: "llama", Replayable: true, Tried: []regions.PodID{"a"}}, false},
		{regions.Request{Model: "llama", Replayable: true}, true},
		{regions.Request{Model: "llama", Replayable: true}, false},
	} {
		l, refusal := c.Claim(c.now, x.req)
		if refusal != pool.Claimed || (l.Pod().ID == "b") != x.want {
			t.Errorf("%+v: %v, given b: %v", x.req, refusal, l.Pod().ID == "b")
		}
	}
}

// TestClientsThatLeaveDoNotHoldAPod: a warming pod whose first client left before
// the first byte opens on.
func TestClientsThatLeaveDoNotHoldAPod(t *testing.T) {
	p := ready("a=llama:8")
	p.SetState(epoch, "a", "llama", regions.PodGone)
	p.SetState(epoch, "a", "llama", regions.PodWarming)
	l := claim(t, p, "llama")
	if got := room(p, at(5*time.Second)); got != 0 {
		t.Fatalf("while its first byte is waited for there is room for %d more", got)
	}
	l.Done(at(5*time.Second), regions.Outcome{End: regions.EndClientGone})
	if got := room(p, at(10*time.Second)); got != 4 {
		t.Errorf("five seconds later it has room for %d, want 4", got)
	}
}
