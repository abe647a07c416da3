package pool_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// epoch is where the tests' time begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// pods reads "a=llama:8,mistral:4 b=llama:8": IDs with models and slots. A "!"
// after the ID marks a terminating pod, an "@n" another address than the ID's.
func pods(text string) []regions.Pod {
	var out []regions.Pod
	for _, field := range strings.Fields(text) {
		id, models, _ := strings.Cut(field, "=")
		id, terminating := strings.CutSuffix(id, "!")
		id, place, _ := strings.Cut(id, "@")
		host := id[0]
		if place != "" {
			host = place[0]
		}
		p := regions.Pod{
			ID: regions.PodID(id), Terminating: terminating,
			HTTP: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, host}), 8000),
		}
		for _, m := range strings.Split(models, ",") {
			name, slots, _ := strings.Cut(m, ":")
			pm := regions.PodModel{Name: regions.ModelName(name)}
			_, _ = fmt.Sscan(slots, &pm.Slots)
			p.Models = append(p.Models, pm)
		}
		out = append(out, p)
	}
	return out
}

// ready makes a pool in which every pod is ready for every model.
func ready(text string) *pool.Pool { return readyWith(pool.DefaultOptions(), text) }

func readyWith(o pool.Options, text string) *pool.Pool {
	p := pool.New(o)
	set := pods(text)
	p.SetPods(epoch, set)
	for _, pod := range set {
		for _, m := range pod.Models {
			p.SetState(epoch, pod.ID, m.Name, regions.PodReady)
		}
	}
	return p
}

// claim claims or fails the test.
func claim(t *testing.T, p *pool.Pool, model regions.ModelName) *pool.Lease {
	t.Helper()
	l, refusal := p.Claim(epoch, regions.Request{Model: model})
	if refusal != pool.Claimed {
		t.Fatalf("claim of %s: %v", model, refusal)
	}
	return l
}

// show renders the pool as "a/llama ready 1/8; ...".
func show(p *pool.Pool) string {
	var out []string
	for _, i := range p.Pods() {
		out = append(out, fmt.Sprintf("%s/%s %v %d/%d", i.ID, i.Model, i.State, i.InFlight, i.Slots))
	}
	return strings.Join(out, "; ")
}

func wantShow(t *testing.T, p *pool.Pool, want string) {
	t.Helper()
	if got := show(p); got != want {
		t.Fatalf("pool is\n%s\nwant\n%s", got, want)
	}
}

// changed reports whether a token waits, and takes it.
func changed(p *pool.Pool) bool {
	select {
	case <-p.Changed():
		return true
	default:
		return false
	}
}

func TestSetPodsDiff(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    string // after a=llama:8,mistral:4 b=llama:8, all ready, each model of each pod with one request
		want   string
		after  string // when all requests have ended
		tokens bool   // a change is told
	}{
		{
			"the same", "a=llama:8,mistral:4 b=llama:8",
			"a/llama ready 1/8; a/mistral ready 1/4; b/llama ready 1/8",
			"a/llama ready 0/8; a/mistral ready 0/4; b/llama ready 0/8", false,
		},
		{
			"another order", "b=llama:8 a=mistral:4,llama:8",
			"a/llama ready 1/8; a/mistral ready 1/4; b/llama ready 1/8",
			"a/llama ready 0/8; a/mistral ready 0/4; b/llama ready 0/8", false,
		},
		{
			"a new pod is gone until seen", "a=llama:8,mistral:4 b=llama:8 c=llama:8",
			"a/llama ready 1/8; a/mistral ready 1/4; b/llama ready 1/8; c/llama gone 0/8",
			"a/llama ready 0/8; a/mistral ready 0/4; b/llama ready 0/8; c/llama gone 0/8", true,
		},
		{
			"a removed pod drains", "a=llama:8,mistral:4",
			"a/llama ready 1/8; a/mistral ready 1/4; b/llama draining 1/8",
			"a/llama ready 0/8; a/mistral ready 0/4", true,
		},
		{
			"a terminating pod drains and stays", "a=llama:8,mistral:4 b!=llama:8",
			"a/llama ready 1/8; a/mistral ready 1/4; b/llama draining 1/8",
			"a/llama ready 0/8; a/mistral ready 0/4; b/llama draining 0/8", true,
		},
		{
			"a model is taken off a pod", "a=llama:8 b=llama:8",
			"a/llama ready 1/8; a/mistral draining 1/4; b/llama ready 1/8",
			"a/llama ready 0/8; b/llama ready 0/8", true,
		},
		{
			"a model is added to a pod", "a=llama:8,mistral:4 b=llama:8,mistral:4",
			"a/llama ready 1/8; a/mistral ready 1/4; b/llama ready 1/8; b/mistral gone 0/4",
			"a/llama ready 0/8; a/mistral ready 0/4; b/llama ready 0/8; b/mistral gone 0/4", true,
		},
		{
			"other slots", "a=llama:8,mistral:2 b=llama:8",
			"a/llama ready 1/8; a/mistral ready 1/2; b/llama ready 1/8",
			"a/llama ready 0/8; a/mistral ready 0/2; b/llama ready 0/8", true,
		},
		{
			"another server under a known ID", "a=llama:8,mistral:4 b@z=llama:8",
			"a/llama ready 1/8; a/mistral ready 1/4; b/llama gone 0/8; b/llama draining 1/8",
			"a/llama ready 0/8; a/mistral ready 0/4; b/llama gone 0/8", true,
		},
		{
			"scaled to zero", "",
			"a/llama draining 1/8; a/mistral draining 1/4; b/llama draining 1/8", "", true,
		},
		{
			"twins", "a=llama:8,mistral:4 b=llama:8 b@z=llama:1",
			"a/llama ready 1/8; a/mistral ready 1/4; b/llama ready 1/8",
			"a/llama ready 0/8; a/mistral ready 0/4; b/llama ready 0/8", false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := ready("a=llama:8,mistral:4 b=llama:8")
			leases := []*pool.Lease{claim(t, p, "mistral"), claim(t, p, "llama"), claim(t, p, "llama")}
			wantShow(t, p, "a/llama ready 1/8; a/mistral ready 1/4; b/llama ready 1/8")
			changed(p)
			p.SetPods(epoch, pods(c.set))
			wantShow(t, p, c.want)
			if got := changed(p); got != c.tokens {
				t.Errorf("change told: %v, want %v", got, c.tokens)
			}
			for _, l := range leases {
				l.Done(epoch, regions.Outcome{End: regions.EndServed})
			}
			wantShow(t, p, c.after)
		})
	}
}

// TestReturn: a pod that is missing from one set only must prove itself again,
// but its requests count on.
func TestReturn(t *testing.T) {
	p := ready("a=llama:8")
	l := claim(t, p, "llama")
	p.SetPods(epoch, nil)
	p.SetPods(epoch, pods("a=llama:8"))
	wantShow(t, p, "a/llama gone 1/8")
	l.Done(epoch, regions.Outcome{End: regions.EndServed})
	wantShow(t, p, "a/llama gone 0/8")
}

func TestSetState(t *testing.T) {
	p := pool.New(pool.DefaultOptions())
	p.SetPods(epoch, pods("a=llama:8 b!=llama:8"))
	changed(p)
	for i, c := range []struct {
		id       regions.PodID
		model    regions.ModelName
		to, old  regions.PodState
		isState  string
		announce bool
	}{
		{"a", "llama", regions.PodReady, regions.PodGone, "a/llama ready 0/8; b/llama gone 0/8", true},
		{"a", "llama", regions.PodReady, regions.PodReady, "a/llama ready 0/8; b/llama gone 0/8", false},
		{"a", "llama", regions.PodEjected, regions.PodReady, "a/llama ejected 0/8; b/llama gone 0/8", true},
		{"a", "mistral", regions.PodReady, regions.PodGone, "a/llama ejected 0/8; b/llama gone 0/8", false},
		{"x", "llama", regions.PodReady, regions.PodGone, "a/llama ejected 0/8; b/llama gone 0/8", false},
		{"b", "llama", regions.PodReady, regions.PodGone, "a/llama ejected 0/8; b/llama draining 0/8", true},
		{"b", "llama", regions.PodWarming, regions.PodDraining, "a/llama ejected 0/8; b/llama draining 0/8", false},
		{"b", "llama", regions.PodGone, regions.PodDraining, "a/llama ejected 0/8; b/llama gone 0/8", true},
	} {
		if old := p.SetState(epoch, c.id, c.model, c.to); old != c.old {
			t.Errorf("step %d: was %v, want %v", i+1, old, c.old)
		}
		wantShow(t, p, c.isState)
		if got := changed(p); got != c.announce {
			t.Errorf("step %d: change told: %v, want %v", i+1, got, c.announce)
		}
	}
}

func TestRefusals(t *testing.T) {
	o := pool.DefaultOptions()
	o.Models = []regions.ModelName{"configured"}
	o.Registry = prometheus.NewRegistry()
	p := pool.New(o)
	p.SetPods(epoch, pods("a=llama:8 b=llama:8,mistral:8"))
	p.SetState(epoch, "a", "llama", regions.PodReady)
	p.SetState(epoch, "b", "mistral", regions.PodReady)
	for _, c := range []struct {
		model regions.ModelName
		tried []regions.PodID
		want  pool.Refusal
	}{
		{"llama", nil, pool.Claimed},
		{"llama", []regions.PodID{"b"}, pool.Claimed},
		{"llama", []regions.PodID{"a"}, pool.AllTried},
		{"mistral", []regions.PodID{"a"}, pool.Claimed},
		{"configured", nil, pool.NoPod},
		{"made up by a client", nil, pool.UnknownModel},
		{"Llama", nil, pool.UnknownModel},
	} {
		l, refusal := p.Claim(epoch, regions.Request{Model: c.model, Tried: c.tried})
		if refusal != c.want || (l != nil) != (refusal == pool.Claimed) {
			t.Errorf("claim of %q, tried %v: %v (lease %v), want %v", c.model, c.tried, refusal, l != nil, c.want)
		}
	}
	p.SetState(epoch, "a", "llama", regions.PodDraining)
	if _, refusal := p.Claim(epoch, regions.Request{Model: "llama", Tried: []regions.PodID{"a"}}); refusal != pool.NoPod {
		t.Errorf("none takes requests, yet %v", refusal)
	}
	p.SetPods(epoch, nil)
	if _, refusal := p.Claim(epoch, regions.Request{Model: "llama"}); refusal != pool.NoPod {
		t.Errorf("a model whose pods are all gone is %v", refusal)
	}
	families, err := o.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if text := f.String(); strings.Contains(text, "made up") || !strings.HasPrefix(f.GetName(), "rhumb_pool_") {
			t.Errorf("metric %s", text)
		}
	}
}

func TestDoneOnce(t *testing.T) {
	o := pool.DefaultOptions()
	o.Registry = prometheus.NewRegistry()
	p := pool.New(o)
	p.SetPods(epoch, pods("a=llama:8"))
	p.SetState(epoch, "a", "llama", regions.PodReady)
	l, other := claim(t, p, "llama"), claim(t, p, "llama")
	for range 3 {
		l.Done(epoch, regions.Outcome{End: regions.EndServed})
	}
	wantShow(t, p, "a/llama ready 1/8")
	if got := p.Models(epoch, nil)[0].Completions; got != 1 {
		t.Errorf("%d completions", got)
	}
	other.Done(epoch, regions.Outcome{End: regions.EndServed})
	families, err := o.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	doubles := 0.0
	for _, f := range families {
		if f.GetName() == "rhumb_pool_double_releases_total" {
			doubles = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if doubles != 2 {
		t.Errorf("%v double releases are counted, want 2", doubles)
	}
}

func TestOutcomesThatCount(t *testing.T) {
	p := ready("a=llama:8")
	for _, end := range []regions.End{
		regions.EndServed, regions.EndClientGone, regions.EndNotStarted, // not the pod's doing
		regions.EndPodLost, regions.EndPodError, regions.EndTimeout,
	} {
		claim(t, p, "llama").Done(epoch, regions.Outcome{End: end, Took: time.Second})
	}
	if got := p.Pods()[0]; got.Served != 1 || got.Failed != 3 || got.InFlight != 0 || got.State != regions.PodReady {
		t.Fatalf("%+v", got)
	}
}

// TestSuspectsComeLast: a pod that may be lost is given requests when the others have no
// free slot, whichever way they are chosen, and like them once it has answered.
func TestSuspectsComeLast(t *testing.T) {
	for _, way := range balance.Names() {
		o := pool.DefaultOptions()
		o.Selector = func(regions.ModelName) balance.Selector {
			s, err := balance.ByName(way, rand.New(rand.NewPCG(1, 2)))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		p := readyWith(o, "a=llama:4 b=llama:4 c=llama:4")
		p.SetSuspect("b", "llama", true)
		for range 8 {
			if l := claim(t, p, "llama"); l.Pod().ID == "b" {
				t.Errorf("%s: it is given one before the others are full: %s", way, show(p))
			}
		}
		if l := claim(t, p, "llama"); l.Pod().ID != "b" {
			t.Errorf("%s: %s", way, show(p))
		}
		p = readyWith(o, "a=llama:4 b=llama:4")
		p.SetSuspect("a", "llama", true)
		p.SetSuspect("b", "llama", true)
		for range 8 { // all are
			claim(t, p, "llama")
		}
		p = readyWith(o, "a=llama:4 b=llama:4")
		p.SetSuspect("a", "llama", true)
		p.SetSuspect("b", "llama", true)
		p.SetSuspect("b", "llama", false)
		for range 4 {
			claim(t, p, "llama") // b is full
		}
		// It goes and comes back with its requests.
		p.SetSuspect("b", "llama", true)
		p.SetPods(epoch, pods("a=llama:4"))
		p.SetPods(epoch, pods("a=llama:4 b=llama:8"))
		p.SetState(epoch, "b", "llama", regions.PodReady)
		if l := claim(t, p, "llama"); l.Pod().ID != "b" {
			t.Errorf("%s: %s", way, show(p))
		}
		p.SetSuspect("stranger", "llama", true)
	}
}
