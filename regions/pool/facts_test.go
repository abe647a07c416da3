package pool_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// room counts how many requests a pool takes at a time, and releases them.
func room(p *pool.Pool, now time.Time) int {
	var held []*pool.Lease
	for {
		l, refusal := p.Claim(now, regions.Request{Model: "llama"})
		if refusal != pool.Claimed {
			break
		}
		held = append(held, l)
	}
	for _, l := range held {
		l.Done(now, regions.Outcome{End: regions.EndNotStarted})
	}
	return len(held)
}

// silent are facts of a pod that says nothing of its load.
func silent(slots int, source regions.SlotsSource) regions.Facts {
	return regions.Facts{Slots: slots, Source: source, Waiting: -1, Active: -1}
}

func TestSlotsOfWhoKnowsBest(t *testing.T) {
	for _, c := range []struct {
		configured int
		facts      regions.Facts
		slots      int
		source     regions.SlotsSource
	}{
		{4, silent(0, 0), 4, regions.SlotsConfigured},
		{4, silent(16, regions.SlotsReported), 16, regions.SlotsReported},
		{4, silent(16, regions.SlotsLearned), 4, regions.SlotsConfigured},
		{0, silent(16, regions.SlotsLearned), 16, regions.SlotsLearned},
		{0, silent(16, regions.SlotsReported), 16, regions.SlotsReported},
		{0, silent(0, regions.SlotsReported), 8, regions.SlotsLearned},
		{0, silent(-3, regions.SlotsLearned), 8, regions.SlotsLearned},
		{-1, silent(0, 0), 8, regions.SlotsLearned},
	} {
		p := ready(fmt.Sprintf("a=llama:%d", c.configured))
		p.Learn(epoch, "a", "llama", c.facts)
		s := p.Models(epoch, nil)[0]
		if s.Slots != regions.Slots(c.slots) || s.SlotsSource != c.source || room(p, epoch) != c.slots {
			t.Errorf("configured %d, learnt %+v: %d milli-slots, %v", c.configured, c.facts, s.Slots, s.SlotsSource)
		}
	}
}

// TestLeastFirmSource: the pool's slots are as firm as the least firm pod's.
func TestLeastFirmSource(t *testing.T) {
	p := ready("a=llama:4 b=llama:4 c=llama:0")
	p.Learn(epoch, "a", "llama", silent(8, regions.SlotsReported))
	if got := p.Models(epoch, nil)[0].SlotsSource; got != regions.SlotsLearned {
		t.Errorf("%v", got)
	}
	p.Learn(epoch, "c", "llama", silent(8, regions.SlotsReported))
	if got := p.Models(epoch, nil)[0].SlotsSource; got != regions.SlotsReported {
		t.Errorf("%v", got)
	}
}

func TestFewerSlotsThanRequests(t *testing.T) {
	p := ready("a=llama:8")
	var held []*pool.Lease
	for range 8 {
		held = append(held, claim(t, p, "llama"))
	}
	p.Learn(epoch, "a", "llama", silent(3, regions.SlotsReported))
	for i, l := range held {
		_, refusal := p.Claim(epoch, regions.Request{Model: "llama"})
		if refusal != pool.Full {
			t.Fatalf("with %d in flight on 3 slots: %v", 8-i, refusal)
		}
		l.Done(epoch, regions.Outcome{End: regions.EndServed})
		if 8-i-1 < 3 {
			break
		}
	}
	if got := room(p, epoch); got != 1 {
		t.Errorf("room for %d, want 1", got)
	}
}

func TestFingerprints(t *testing.T) {
	one, two := regions.Fingerprint{Version: 1, ConfigHash: 7}, regions.Fingerprint{Version: 2, ConfigHash: 7}
	p := ready("a=llama:1 b=llama:1 c=llama:1")
	same := func(f regions.Fingerprint) pool.Refusal {
		l, refusal := p.Claim(epoch, regions.Request{Model: "llama", Same: f})
		if refusal == pool.Claimed {
			if l.Fingerprint() != f {
				t.Errorf("given %+v, want %+v", l.Fingerprint(), f)
			}
			l.Done(epoch, regions.Outcome{End: regions.EndNotStarted})
		}
		return refusal
	}
	if got := same(one); got != pool.NoPod {
		t.Errorf("of unknown fingerprints: %v", got)
	}
	p.Learn(epoch, "a", "llama", regions.Facts{Fingerprint: one, Active: -1, Waiting: -1})
	p.Learn(epoch, "b", "llama", regions.Facts{Fingerprint: two, Active: -1, Waiting: -1})
	if same(one) != pool.Claimed || same(two) != pool.Claimed {
		t.Error("no pod of a fingerprint that there is")
	}
	if got := p.Models(epoch, nil)[0].Fingerprint; got != (regions.Fingerprint{}) {
		t.Errorf("the pool's is %+v in the middle of a rollout", got)
	}
	for _, id := range []regions.PodID{"a", "b", "c"} {
		p.Learn(epoch, id, "llama", regions.Facts{Fingerprint: two, Active: -1, Waiting: -1})
	}
	if got := p.Models(epoch, nil)[0].Fingerprint; got != two {
		t.Errorf("the pool's is %+v, want %+v", got, two)
	}
	// Another server under the same ID has told nothing yet.
	p.SetPods(epoch, pods("a@z=llama:1 b=llama:1 c=llama:1"))
	p.SetState(epoch, "a", "llama", regions.PodReady)
	if got := p.Models(epoch, nil)[0].Fingerprint; got != (regions.Fingerprint{}) {
		t.Errorf("the pool's is %+v though one pod's is not known", got)
	}
}

// TestRefusalsByKind: full only where a slot that frees would help.
func TestRefusalsByKind(t *testing.T) {
	set := pods("a=llama:1 b=llama:1")
	set[0].GRPC = netip.MustParseAddrPort("192.0.2.1:8001")
	for _, c := range []struct {
		name string
		held int // of the two pods' slots, a's first
		req  regions.Request
		want pool.Refusal
	}{
		{"a free slot", 0, regions.Request{}, pool.Claimed},
		{"one of two", 1, regions.Request{}, pool.Claimed},
		{"none", 2, regions.Request{}, pool.Full},
		{"the tried one is full", 1, regions.Request{Tried: []regions.PodID{"a"}}, pool.Claimed},
		{"the other is full", 1, regions.Request{Tried: []regions.PodID{"b"}}, pool.Full},
		{"all tried and full", 2, regions.Request{Tried: []regions.PodID{"a", "b"}}, pool.AllTried},
		{"by gRPC", 0, regions.Request{Frontend: regions.GRPC}, pool.Claimed},
		{"by gRPC, and the only one is full", 1, regions.Request{Frontend: regions.GRPC}, pool.Full},
		{"by gRPC, and the only one was tried", 0, regions.Request{Frontend: regions.GRPC, Tried: []regions.PodID{"a"}}, pool.AllTried},
		{"by a frontend that nobody has", 2, regions.Request{Frontend: regions.OpenAI}, pool.NoPod},
		{"of a load that nobody has", 2, regions.Request{Same: regions.Fingerprint{Version: 1}}, pool.NoPod},
		{"aside on full pods", 2, regions.Request{Aside: true}, pool.Claimed},
		{"aside by a frontend that nobody has", 0, regions.Request{Aside: true, Frontend: regions.OpenAI}, pool.NoPod},
		{"aside, all tried", 0, regions.Request{Aside: true, Tried: []regions.PodID{"a", "b"}}, pool.AllTried},
	} {
		p := pool.New(pool.DefaultOptions())
		p.SetPods(epoch, set)
		for _, id := range []regions.PodID{"a", "b"}[:c.held] {
			p.SetState(epoch, id, "llama", regions.PodReady)
			claim(t, p, "llama")
		}
		p.SetState(epoch, "a", "llama", regions.PodReady)
		p.SetState(epoch, "b", "llama", regions.PodReady)
		c.req.Model = "llama"
		if _, got := p.Claim(epoch, c.req); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestAside: requests that take no slot are not counted, take turns, and keep
// their pod.
func TestAside(t *testing.T) {
	p := ready("a=llama:2 b=llama:2")
	var held []*pool.Lease
	var turns []regions.PodID
	for range 6 {
		l, refusal := p.Claim(epoch, regions.Request{Model: "llama", Aside: true})
		if refusal != pool.Claimed {
			t.Fatal(refusal)
		}
		held, turns = append(held, l), append(turns, l.Pod().ID)
	}
	if fmt.Sprint(turns) != "[a b a b a b]" {
		t.Errorf("turns %v", turns)
	}
	if s := p.Models(epoch, nil)[0]; s.InFlight != 0 || len(p.Loads()) != 0 || room(p, epoch) != 4 {
		t.Errorf("asides are counted: %+v", s)
	}
	p.SetPods(epoch, pods("b=llama:2"))
	wantShow(t, p, "a/llama draining 0/2; b/llama ready 0/2")
	for _, l := range held {
		l.Done(epoch, regions.Outcome{End: regions.EndServed, TTFT: time.Second, Took: time.Second})
	}
	wantShow(t, p, "b/llama ready 0/2")
	if s := p.Models(epoch, nil)[0]; s.Completions != 0 || s.TTFT != 0 {
		t.Errorf("an answer about metadata is no generation: %+v", s)
	}
}

// TestReports: what a pod says of its load is a floor, moved by what was sent and
// ended since.
func TestReports(t *testing.T) {
	said := func(waiting, active int, at time.Time) regions.Facts {
		return regions.Facts{Waiting: waiting, Active: active, At: at}
	}
	p := ready("a=llama:8")
	var held []*pool.Lease
	for range 2 {
		held = append(held, claim(t, p, "llama"))
	}
	p.Learn(at(100*time.Millisecond), "a", "llama", said(1, 5, at(100*time.Millisecond)))
	if got := room(p, at(200*time.Millisecond)); got != 2 {
		t.Errorf("six are on it: room for %d", got)
	}
	l, _ := p.Claim(at(200*time.Millisecond), regions.Request{Model: "llama"})
	if got := room(p, at(200*time.Millisecond)); got != 1 {
		t.Errorf("and one was sent since: room for %d", got)
	}
	held[0].Done(at(300*time.Millisecond), regions.Outcome{End: regions.EndServed})
	if got := room(p, at(300*time.Millisecond)); got != 2 {
		t.Errorf("and one ended since: room for %d", got)
	}
	p.Learn(at(400*time.Millisecond), "a", "llama", said(0, 20, at(50*time.Millisecond)))
	if got := room(p, at(400*time.Millisecond)); got != 2 {
		t.Errorf("an older report is believed: room for %d", got)
	}
	if got := room(p, at(2100*time.Millisecond)); got != 2 {
		t.Errorf("two seconds old: room for %d", got)
	}
	if got := room(p, at(2101*time.Millisecond)); got != 6 {
		t.Errorf("too old: room for %d", got)
	}
	p.Learn(at(3*time.Second), "a", "llama", said(0, 0, at(3*time.Second)))
	if got := room(p, at(3*time.Second)); got != 6 {
		t.Errorf("a pod that says less than we know: room for %d", got)
	}
	p.Learn(at(4*time.Second), "a", "llama", said(-1, -1, at(4*time.Second)))
	if got := room(p, at(4*time.Second)); got != 6 {
		t.Errorf("a pod that does not say: room for %d", got)
	}
	l.Done(at(4*time.Second), regions.Outcome{End: regions.EndServed})
}

// TestPeers: the other agents' requests take slots, while their word is good.
func TestPeers(t *testing.T) {
	load := func(n uint32) []regions.PodLoad {
		return []regions.PodLoad{{Pod: "a", Model: "llama", InFlight: n}, {Pod: "x", Model: "llama", InFlight: 9}, {Pod: "a", Model: "x", InFlight: 9}}
	}
	p := ready("a=llama:8")
	p.SetPeers(epoch, "two", load(3))
	p.SetPeers(at(time.Second), "three", load(2))
	for _, c := range []struct {
		at   time.Duration
		want int
	}{
		{1300 * time.Millisecond, 3}, {2 * time.Second, 3}, {2100 * time.Millisecond, 3}, {2500 * time.Millisecond, 4},
		{3 * time.Second, 6}, {3400 * time.Millisecond, 6}, {3500 * time.Millisecond, 7}, {4 * time.Second, 8},
	} {
		if got := room(p, at(c.at)); got != c.want {
			t.Errorf("after %v: room for %d, want %d", c.at, got, c.want)
		}
	}
	p.SetPeers(at(7*time.Second), "two", load(3))
	p.SetPeers(at(7*time.Second), "two", load(1))
	if got := room(p, at(7300*time.Millisecond)); got != 7 {
		t.Errorf("its newest word replaces the one before: room for %d", got)
	}
	p.SetPeers(at(7*time.Second), "two", nil)
	if got := room(p, at(7300*time.Millisecond)); got != 8 {
		t.Errorf("it has none in flight: room for %d", got)
	}
	p.SetPeers(at(7*time.Second), "two", load(5))
	p.SetPeers(at(7*time.Second), "three", load(2))
	p.ForgetPeer("two")
	if got := room(p, at(7300*time.Millisecond)); got != 6 {
		t.Errorf("it has left: room for %d", got)
	}
	p.ForgetPeer("three")
	p.ForgetPeer("nobody")
	if got := room(p, at(7*time.Second)); got != 8 {
		t.Errorf("all have left: room for %d", got)
	}
	p.SetPeers(at(7*time.Second), "two", load(1<<32-1))
	if _, refusal := p.Claim(at(7*time.Second), regions.Request{Model: "llama"}); refusal != pool.Full {
		t.Errorf("a peer that says everything is full: %v", refusal)
	}
}

// TestPeersUnheard: just after its report a peer is taken to do as this agent does,
// so that together they fill the pod and no more.
func TestPeersUnheard(t *testing.T) {
	p := ready("a=llama:8")
	load := func(n uint32) []regions.PodLoad { return []regions.PodLoad{{Pod: "a", Model: "llama", InFlight: n}} }
	p.SetPeers(epoch, "two", load(2))
	if got := room(p, at(250*time.Millisecond)); got != 3 {
		t.Errorf("room for %d of 6, of which the peer takes as many", got)
	}
	if got := room(p, at(251*time.Millisecond)); got != 6 {
		t.Errorf("the peer has had nothing to say: room for %d of 6", got)
	}
	first := claim(t, p, "llama")
	p.SetPeers(at(time.Second), "two", load(2))
	if got := room(p, at(time.Second)); got != 3 {
		t.Errorf("what was claimed before the report is in it: room for %d", got) // 5 are free
	}
	first.Done(at(time.Second), regions.Outcome{End: regions.EndServed})
	if got := room(p, at(time.Second)); got != 4 {
		t.Errorf("what has ended is not taken to end elsewhere: room for %d", got)
	}
	p.SetPeers(at(time.Second), "three", nil)
	if got := room(p, at(time.Second)); got != 3 { // the third request is the last but not the peers'
		t.Errorf("three agents: room for %d", got)
	}
	if got := p.Loads(); len(got) != 0 {
		t.Errorf("what others have is not this pool's: %+v", got)
	}
}

// TestLoaded: each change of what is in flight leaves a token.
func TestLoaded(t *testing.T) {
	p := ready("a=llama:8")
	token := func() bool {
		select {
		case <-p.Loaded():
			return true
		default:
			return false
		}
	}
	if token() {
		t.Error("before the first request")
	}
	one, _ := claim(t, p, "llama"), claim(t, p, "llama")
	if !token() || token() {
		t.Error("two claims, want one token")
	}
	one.Done(epoch, regions.Outcome{End: regions.EndServed})
	if !token() {
		t.Error("no token for a release")
	}
	p.SetPeers(epoch, "two", nil)
	if token() {
		t.Error("a token for another agent's requests")
	}
}

func TestLoads(t *testing.T) {
	p := ready("a=llama:8,mistral:8 b=llama:8")
	for range 3 {
		claim(t, p, "llama")
	}
	claim(t, p, "mistral")
	got := p.Loads()
	total := uint32(0)
	for _, l := range got {
		total += l.InFlight
	}
	if total != 4 || !slices.IsSortedFunc(got, func(a, b regions.PodLoad) int {
		if a.Pod != b.Pod {
			return int(a.Pod[0]) - int(b.Pod[0])
		}
		return int(a.Model[0]) - int(b.Model[0])
	}) {
		t.Errorf("%+v", got)
	}
	other := ready("a=llama:8,mistral:8 b=llama:8")
	other.SetPeers(epoch, "p", got)
	if room := room(other, at(time.Second)); room != 13 {
		t.Errorf("room for %d of 16 with three in flight elsewhere", room)
	}
}

// TestOnFree: whoever waits is told when there may be room.
func TestOnFree(t *testing.T) {
	freed := map[regions.ModelName]int{}
	o := pool.DefaultOptions()
	var p *pool.Pool
	o.OnFree = func(m regions.ModelName) {
		freed[m]++
		p.Loads() // the lock is free
	}
	p = pool.New(o)
	for name, do := range map[string]func(){
		"a set":    func() { p.SetPods(epoch, pods("a=llama:1,mistral:1")) },
		"a state":  func() { p.SetState(epoch, "a", "llama", regions.PodReady) },
		"learning": func() { p.Learn(epoch, "a", "llama", silent(2, regions.SlotsReported)) },
		"peers":    func() { p.SetPeers(epoch, "two", nil) },
		"time":     func() { p.Tick(at(time.Second)) },
	} {
		p.SetPods(epoch, pods("a=llama:1,mistral:1"))
		clear(freed)
		if do(); freed["llama"] == 0 {
			t.Errorf("%s: nobody is told", name)
		}
	}
	p.SetState(epoch, "a", "llama", regions.PodReady)
	l := claim(t, p, "llama")
	clear(freed)
	l.Done(epoch, regions.Outcome{End: regions.EndServed})
	if freed["llama"] != 1 || freed["mistral"] != 1 {
		t.Errorf("an end frees %v, want both of the pod's models", freed)
	}
	l.Done(epoch, regions.Outcome{End: regions.EndServed})
	if freed["llama"] != 1 {
		t.Error("a lease that is released twice frees twice")
	}
}

func TestOnDone(t *testing.T) {
	var got []string
	o := pool.DefaultOptions()
	o.OnDone = func(now time.Time, r pool.Result) {
		got = append(got, fmt.Sprintf("%v %s %s %d %d %v", now.Sub(epoch), r.Pod, r.Model, r.InFlight, r.Ahead, r.Outcome.End))
	}
	p := pool.New(o)
	p.SetPods(epoch, pods("a=llama:8"))
	p.SetState(epoch, "a", "llama", regions.PodReady)
	p.Learn(epoch, "a", "llama", regions.Facts{Waiting: 2, Active: 1, At: epoch})
	l, _ := p.Claim(epoch, regions.Request{Model: "llama"})
	aside, _ := p.Claim(epoch, regions.Request{Model: "llama", Aside: true})
	aside.Done(at(time.Second), regions.Outcome{End: regions.EndServed})
	l.Done(at(2*time.Second), regions.Outcome{End: regions.EndPodLost})
	l.Done(at(3*time.Second), regions.Outcome{End: regions.EndPodLost})
	if want := "[2s a llama 3 2 pod-lost]"; fmt.Sprint(got) != want {
		t.Errorf("told %v, want %s", got, want)
	}
}

// TestSelectorsOfModels: each model has a selector of its own.
func TestSelectorsOfModels(t *testing.T) {
	o := pool.DefaultOptions()
	made := map[regions.ModelName]int{}
	o.Selector = func(m regions.ModelName) balance.Selector {
		made[m]++
		if m == "mistral" {
			return balance.RoundRobin{}
		}
		return balance.LeastConnections{}
	}
	p := pool.New(o)
	set := pods("a=llama:16,mistral:16 b=llama:8,mistral:8")
	p.SetPods(epoch, set)
	p.SetPods(epoch, set)
	for _, id := range []regions.PodID{"a", "b"} {
		p.SetState(epoch, id, "llama", regions.PodReady)
		p.SetState(epoch, id, "mistral", regions.PodReady)
	}
	count := map[regions.PodID]int{}
	for range 12 {
		count[claim(t, p, "mistral").Pod().ID]++
	}
	if count["a"] != 6 || made["llama"] != 1 || made["mistral"] != 1 {
		t.Errorf("by turns a had %d of 12; made %v", count["a"], made)
	}
}

// TestOnePodOneGPU: what is left of a model that a pod takes no requests for any
// more is on its GPU still.
func TestOnePodOneGPU(t *testing.T) {
	p := ready("a=llama:4,mistral:4")
	for range 3 {
		claim(t, p, "mistral")
	}
	if got := room(p, epoch); got != 4 {
		t.Errorf("eight slots for two models: room for %d", got)
	}
	p.SetState(epoch, "a", "mistral", regions.PodGone)
	if got := room(p, epoch); got != 1 {
		t.Errorf("four slots, and three taken by the other: room for %d", got)
	}
}

// TestMore: a request that asks for several things at once takes as many slots, as far as
// there are some, and gives all back at its end.
func TestMore(t *testing.T) {
	p := ready("a=llama:3")
	l := claim(t, p, "llama")
	for n, want := range []bool{true, true, false} {
		if got := l.More(epoch); got != want {
			t.Errorf("one more beside %d: %v, want %v", n+1, got, want)
		}
	}
	if n := room(p, epoch); n != 0 {
		t.Errorf("a pod whose slots are all taken has room for %d", n)
	}
	l.Less()
	if n := room(p, epoch); n != 1 || !l.More(epoch) {
		t.Errorf("room for %d after one was given back, want 1", n)
	}
	l.Done(epoch, regions.Outcome{End: regions.EndServed})
	l.Less()
	if n := room(p, epoch); n != 3 || l.More(epoch) || len(p.Loads()) > 0 {
		t.Errorf("room for %d after the end, and %v is held", n, p.Loads())
	}
}
