package node

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/dnsserver"
	"github.com/rhumb-lb/rhumb/regions"
)

// The first IPv4 addresses of the regions of three, in the order of their making.
const (
	atUS = "192.0.2.1"
	atEU = "192.0.2.2"
	atAP = "192.0.2.3"
)

// british and japanese are clients with a region near them.
var british, japanese = from("81.2.69.160"), from("133.242.0.1")

// first is the first address of an answer.
func first(a *dnsserver.Answer) string {
	if a == nil || len(a.Targets) == 0 || len(a.Targets[0].Addrs) == 0 {
		return "nothing"
	}
	return a.Targets[0].Addrs[0].String()
}

func TestLookup(t *testing.T) {
	r := three(t, Host{"chat", "llama"}, Host{"api", regions.Apex})
	a := r.answers()
	for _, c := range []struct {
		name   string // relative to the zone
		client netip.Prefix
		want   dnsserver.Result
		addr   string // the first of the answer; empty for texts
		fixed  bool   // the same for everybody
	}{
		{name: "", client: british, want: dnsserver.Found, addr: atEU},
		{name: "", client: from("8.8.8.8"), want: dnsserver.Found, addr: atUS},
		{name: "chat", client: british, want: dnsserver.Found, addr: atEU},
		{name: "api", client: british, want: dnsserver.Found, addr: atEU},
		{name: "mistral", client: british, want: dnsserver.Found, addr: atEU},
		{name: "mistral", client: japanese, want: dnsserver.Found, addr: atEU}, // Tokyo has none, Dublin is nearer than Virginia
		{name: "llama", client: british, want: dnsserver.NotFound},             // it is called chat
		{name: "eu-west.region", client: japanese, want: dnsserver.Found, addr: atEU, fixed: true},
		{name: "eu-west.route", client: japanese, want: dnsserver.Found, addr: atEU, fixed: true},
		{name: "route", client: japanese, want: dnsserver.Found, addr: "192.0.2.53", fixed: true},
		{name: "region", client: british, want: dnsserver.Empty},
		{name: "_why", client: british, want: dnsserver.Found},
		{name: "_why.chat", client: british, want: dnsserver.Found},
		{name: "_why.mistral", client: british, want: dnsserver.Found},
		{name: "_why.route", client: british, want: dnsserver.NotFound},
		{name: "_why.llama", client: british, want: dnsserver.NotFound},
		{name: "gpt", client: british, want: dnsserver.NotFound},
		{name: "sa-east.region", client: british, want: dnsserver.NotFound},
		{name: "x.chat", client: british, want: dnsserver.NotFound},
		{name: "eu-west", client: british, want: dnsserver.NotFound},
		{name: "x.eu-west.region", client: british, want: dnsserver.NotFound},
	} {
		name := strings.TrimPrefix(c.name+".inference.test.", ".")
		answer, scope, result := a.Lookup(name, c.client)
		if result != c.want {
			t.Errorf("%s: %v, want %v", name, result, c.want)
			continue
		}
		if (answer != nil) != (result == dnsserver.Found) {
			t.Errorf("%s: %v with the answer %v", name, result, answer)
		}
		if c.addr != "" && first(answer) != c.addr {
			t.Errorf("%s for %s: %s, want %s", name, c.client, first(answer), c.addr)
		}
		if c.addr != "" && (answer.TTL != 20*time.Second || answer.Stale) {
			t.Errorf("%s: TTL %v, stale %v", name, answer.TTL, answer.Stale)
		}
		if c.fixed != (scope == 0) && result == dnsserver.Found {
			t.Errorf("%s: scope %d", name, scope)
		}
	}
}

// TestAnswersHaveAllCandidates is for HTTPS records: the next regions follow by
// priority, each with both families and its port.
func TestAnswersHaveAllCandidates(t *testing.T) {
	answer, _, _ := three(t).answers().Lookup("llama.inference.test.", british)
	var got []string
	for i, target := range answer.Targets {
		if int(target.Priority) != i+1 || target.Port != 443 || len(target.Addrs) != 2 {
			t.Errorf("target %d: %+v", i, target)
		}
		got = append(got, target.Addrs[0].String())
	}
	if want := []string{atEU, atUS, atAP}; !slices.Equal(got, want) {
		t.Errorf("candidates %v, want %v", got, want)
	}
}

func TestWhy(t *testing.T) {
	a := three(t).answers()
	answer, scope, _ := a.Lookup("_why.llama.inference.test.", british)
	if scope != 24 || answer.TTL != 0 || len(answer.Targets) != 0 {
		t.Errorf("scope %d, TTL %v, targets %v", scope, answer.TTL, answer.Targets)
	}
	text := strings.Join(answer.TXT, "\n")
	for _, want := range []string{"director=ns1", "client=81.2.69.0/24", "cell=GB", "region=eu-west", "rtt=28ms", "reason=nearest"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	again, _, _ := a.Lookup("_why.llama.inference.test.", from("81.2.69.1"))
	if !slices.Equal(answer.TXT, again.TXT) {
		t.Errorf("two clients of a unit are told\n%s\nand\n%s", answer.TXT, again.TXT)
	}
}

// TestBeforeTheFirstSync is a director that has heard of no region: it is silent
// for a while, so that another is asked, then says what its configuration
// says, and never denies what it can't know.
func TestBeforeTheFirstSync(t *testing.T) {
	r := newRig(t, Host{"chat", "llama"})
	a := r.answers()
	names := []string{"", "chat.", "route.", "region.", "mistral.", "eu-west.region.", "_why.", "gpt."}
	for _, c := range []struct {
		what string
		at   time.Duration
		do   func()
		want []dnsserver.Result
	}{
		{"just started", 0, nil, []dnsserver.Result{
			dnsserver.Unready, dnsserver.Unready, dnsserver.Unready, dnsserver.Unready, dnsserver.Unready, dnsserver.Unready, dnsserver.Unready, dnsserver.Unready}},
		{"still hoping", firstSync - time.Millisecond, nil, []dnsserver.Result{
			dnsserver.Unready, dnsserver.Unready, dnsserver.Unready, dnsserver.Unready, dnsserver.Unready, dnsserver.Unready, dnsserver.Unready, dnsserver.Unready}},
		{"alone", firstSync, nil, []dnsserver.Result{
			dnsserver.Unsure, dnsserver.Unsure, dnsserver.Found, dnsserver.Empty, dnsserver.Unsure, dnsserver.Unsure, dnsserver.Unsure, dnsserver.Unsure}},
		{"heard of a region", firstSync + time.Second, func() { r.region("eu-west", dublin, serves("llama", 8, 0)) }, []dnsserver.Result{
			dnsserver.Found, dnsserver.Found, dnsserver.Found, dnsserver.Empty, dnsserver.NotFound, dnsserver.Found, dnsserver.Found, dnsserver.NotFound}},
	} {
		r.now = epoch.Add(c.at)
		if c.do != nil {
			c.do()
		}
		r.step(r.now)
		for i, name := range names {
			if _, _, got := a.Lookup(name+"inference.test.", british); got != c.want[i] {
				t.Errorf("%s: %q is %v, want %v", c.what, name, got, c.want[i])
			}
		}
	}
	// A first sync within the wait ends it.
	early := newRig(t).region("eu-west", dublin, serves("llama", 8, 0))
	if _, _, got := early.answers().Lookup("llama.inference.test.", british); got != dnsserver.Found {
		t.Errorf("synced at once: %v", got)
	}
}

// TestHealthNeverHidesAName goes through everything that can be wrong with
// regions; a name that is known keeps its answer, with addresses in it.
func TestHealthNeverHidesAName(t *testing.T) {
	names := []string{"", "llama.", "mistral.", "eu-west.region.", "ap-northeast.route.", "route.", "_why.", "_why.mistral."}
	drained := func(s *regions.Status) { s.Draining = true }
	empty := func(s *regions.Status) {
		for i := range s.Models {
			m := &s.Models[i]
			m.Pods, m.Slots, m.InFlight, m.Queued = regions.PodCounts{Gone: 3}, 0, 0, 0
		}
	}
	for _, c := range []struct {
		what  string
		do    func(*rig)
		stale bool // a guess
	}{
		{"all is well", func(*rig) {}, false},
		{"all are lost", func(r *rig) {
			for id := range r.reports {
				r.probe(id, 2, 0)
			}
			r.now = r.now.Add(time.Hour)
		}, true},
		{"all are drained", func(r *rig) { r.everybody(drained) }, false},
		{"no pod anywhere", func(r *rig) { r.everybody(empty) }, true},
		{"none can be connected to", func(r *rig) {
			for id := range r.reports {
				r.probe(id, 100, 0)
			}
		}, false},
		{"no status, but answers", func(r *rig) {
			for id := range r.reports {
				r.probe(id, 0, 5)
			}
			r.now = r.now.Add(time.Hour)
		}, false},
		{"drained, empty and lost", func(r *rig) {
			r.say("us-east", drained)
			r.say("eu-west", empty)
			r.probe("ap-northeast", 9, 0)
			r.now = r.now.Add(time.Second)
			r.reports["ap-northeast"] = regions.Report{Status: r.reports["ap-northeast"].Status, Heard: r.now.Add(-time.Hour)}
		}, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := three(t)
			a := r.answers()
			c.do(r)
			r.after(planEvery)
			for _, name := range names {
				for _, client := range []netip.Prefix{british, japanese, from("2001:db8::1"), from("10.0.0.1")} {
					answer, _, result := a.Lookup(name+"inference.test.", client)
					if result != dnsserver.Found {
						t.Fatalf("%q for %s: %v", name, client, result)
					}
					switch {
					case strings.HasPrefix(name, "_why"):
						if len(answer.TXT) == 0 {
							t.Errorf("%q for %s is empty", name, client)
						}
					case first(answer) == "nothing":
						t.Errorf("%q for %s is empty", name, client)
					case !strings.Contains(name, "ro") && !strings.Contains(name, "region") && answer.Stale != c.stale:
						t.Errorf("%q for %s: stale is %v", name, client, answer.Stale)
					}
				}
			}
		})
	}
}

// TestTheSameDecisionIsTheSameAnswer is what packed replies hang on.
func TestTheSameDecisionIsTheSameAnswer(t *testing.T) {
	r := three(t)
	a := r.answers()
	a.decided = func(regions.ModelName, regions.CellID) {} // demand would move the split
	names := []string{"", "llama.", "eu-west.region.", "route."}
	clients := []netip.Prefix{british, from("81.2.69.1"), japanese, from("2001:db8::1")}
	look := func() (out []*dnsserver.Answer) {
		for _, name := range names {
			for _, client := range clients {
				answer, _, _ := a.Lookup(name+"inference.test.", client)
				out = append(out, answer)
			}
		}
		return out
	}
	const askers = 8
	var all [askers][]*dnsserver.Answer
	var wg sync.WaitGroup
	for i := range askers {
		wg.Go(func() { all[i] = look() })
	}
	wg.Wait()
	for i := range askers {
		if !slices.Equal(all[i], all[0]) {
			t.Fatal("two askers have different answers in one world")
		}
	}
	if all[0][0] == all[0][2] {
		t.Error("Britain and Japan have one answer")
	}
	gen := a.Generation()
	r.everybody(nil)
	r.after(planEvery)
	if a.Generation() != gen {
		t.Error("another generation of the same table")
	}
	r.everybody(func(s *regions.Status) { s.Draining = s.Region == "eu-west" })
	r.after(planEvery)
	if a.Generation() == gen {
		t.Error("the generation stays when a region is drained")
	}
	if again := look(); again[0] == all[0][0] {
		t.Error("an answer outlives its world")
	}
}

// TestAnswersOfOneGenerationAreOne keeps answers over plans that change nothing,
// and makes new ones with a new generation.
func TestAnswersOfOneGenerationAreOne(t *testing.T) {
	r := three(t)
	r.after(planEvery)
	a := r.answers()
	a.decided = func(regions.ModelName, regions.CellID) {} // demand would change the plan
	ask := func() *dnsserver.Answer {
		answer, _, _ := a.Lookup("llama.inference.test.", british)
		return answer
	}
	r.everybody(nil)
	r.after(planEvery)
	gen, before := a.Generation(), ask()
	r.everybody(nil)
	r.after(planEvery)
	if a.Generation() != gen || ask() != before {
		t.Errorf("generation %d became %d, the answer is the same: %v", gen, a.Generation(), ask() == before)
	}
	r.say("eu-west", func(s *regions.Status) { s.Draining = true })
	r.after(judgeEvery)
	if a.Generation() == gen || ask() == before {
		t.Error("a drain left generation or answer as they were")
	}
}
