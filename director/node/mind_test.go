package node

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

// TestMindOverTime walks a mind through time. A plan that comes ahead of its
// time is urgent; a new generation is a table that answers differently.
func TestMindOverTime(t *testing.T) {
	type step struct {
		what    string
		after   time.Duration
		do      func(*rig)
		planned bool
		urgent  bool
		newGen  bool
		verdict string // of all changes: "region:before→after"
		first   string // where Britain is sent for llama
	}
	beat := func(r *rig) { r.everybody(nil) }
	load := func(r *rig) {
		r.say("eu-west", func(s *regions.Status) { s.Models[0].InFlight = 3 })
	}
	pods := func(n uint16) func(*rig) {
		return func(r *rig) {
			r.everybody(nil)
			r.say("eu-west", func(s *regions.Status) { s.Models[0].Pods = regions.PodCounts{Ready: n, Gone: 3 - n} })
		}
	}
	drain := func(on bool) func(*rig) {
		return func(r *rig) {
			r.everybody(nil)
			r.say("eu-west", func(s *regions.Status) { s.Draining = on })
		}
	}
	probe := func(failed, answered int) func(*rig) {
		return func(r *rig) { r.probe("eu-west", failed, answered) }
	}
	silence := func(r *rig) { // of eu-west
		for _, id := range []regions.ID{"us-east", "ap-northeast"} {
			r.say(id, nil)
		}
	}
	for _, c := range []struct {
		what  string
		steps []step
	}{
		{"no region", []step{
			{what: "a world of nothing", planned: true, newGen: true, first: "nothing"},
			{what: "nothing new", after: judgeEvery, first: "nothing"},
			{what: "the first regions", do: func(r *rig) {
				r.region("us-east", virginia, serves("llama", 24, 0)).region("eu-west", dublin, serves("llama", 24, 0)).
					region("ap-northeast", tokyo, serves("llama", 24, 0))
			}, planned: true, urgent: true, newGen: true, verdict: "ap-northeast:unknown→ready eu-west:unknown→ready us-east:unknown→ready", first: atEU},
		}},
		{"beats change nothing", []step{
			{what: "begin", do: begin, planned: true, urgent: true, newGen: true, verdict: "*", first: atEU},
			{what: "100 ms", after: judgeEvery, do: beat, first: atEU},
			{what: "load alone waits", after: judgeEvery, do: load, first: atEU},
			{what: "for the next plan", after: planEvery, do: beat, planned: true, newGen: true, first: atEU},
			{what: "and again", after: planEvery, do: beat, planned: true, first: atEU},
		}},
		{"pods come and go", []step{
			{what: "begin", do: begin, planned: true, urgent: true, newGen: true, verdict: "*", first: atEU},
			{what: "one goes: load waits", after: judgeEvery, do: pods(2), first: atEU},
			{what: "the last goes", after: judgeEvery, do: pods(0), planned: true, urgent: true, newGen: true, first: atUS},
			{what: "one is back", after: judgeEvery, do: pods(1), planned: true, urgent: true, newGen: true, first: atEU},
		}},
		{"a drain and its end", []step{
			{what: "begin", do: begin, planned: true, urgent: true, newGen: true, verdict: "*", first: atEU},
			{what: "drained", after: judgeEvery, do: drain(true), planned: true, urgent: true, newGen: true, verdict: "eu-west:ready→draining", first: atUS},
			{what: "stays so", after: judgeEvery, do: beat, first: atUS},
			{what: "undrained", after: judgeEvery, do: drain(false), planned: true, urgent: true, newGen: true, verdict: "eu-west:draining→ready", first: atEU},
		}},
		{"a region is lost and comes back", []step{
			{what: "begin", do: begin, planned: true, urgent: true, newGen: true, verdict: "*", first: atEU},
			{what: "one failed probe is nothing", after: judgeEvery, do: probe(1, 0), first: atEU},
			{what: "two are something", after: judgeEvery, do: probe(2, 0), planned: true, urgent: true, newGen: true, verdict: "eu-west:ready→degraded", first: atEU},
			{what: "three statuses are missed", after: 1800 * time.Millisecond, do: silence, planned: true, first: atEU},
			{what: "four are", after: judgeEvery, do: silence, planned: true, urgent: true, newGen: true, verdict: "eu-west:degraded→lost", first: atUS},
			{what: "one probe answers", after: judgeEvery, do: probe(0, 1), first: atUS},
			{what: "two do", after: judgeEvery, do: probe(0, 2), planned: true, urgent: true, newGen: true, verdict: "eu-west:lost→ready", first: atEU},
			{what: "its status is back, and full confidence", after: judgeEvery, do: beat, planned: true, urgent: true, newGen: true, first: atEU},
		}},
		{"a gateway hangs beside a gossip that lives", []step{
			{what: "begin", do: begin, planned: true, urgent: true, newGen: true, verdict: "*", first: atEU},
			{what: "seven probes fail", after: judgeEvery, do: probe(7, 0), planned: true, urgent: true, newGen: true, verdict: "eu-west:ready→degraded", first: atEU},
			{what: "eight do: it is shunned at once", after: judgeEvery, do: probe(8, 0), planned: true, urgent: true, newGen: true, first: atUS},
		}},
		{"an endpoint moves", []step{
			{what: "begin", do: begin, planned: true, urgent: true, newGen: true, verdict: "*", first: atEU},
			{what: "to another port", after: judgeEvery, do: func(r *rig) {
				r.say("eu-west", func(s *regions.Status) { s.Endpoints[0].Port = 8443 })
			}, planned: true, urgent: true, newGen: true, first: atEU},
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := newRig(t)
			a := &answerer{zone: canonical("inference.test"), now: func() time.Time { return r.now }, world: &r.world, decided: func(regions.ModelName, regions.CellID) {}}
			gen := uint64(0)
			for _, s := range c.steps {
				r.now = r.now.Add(s.after)
				if s.do != nil {
					s.do(r)
				}
				r.changes = nil
				before := r.world.Load()
				r.step(r.now)
				if planned := r.world.Load() != before; planned != s.planned || planned != (len(r.changes) == 1) {
					t.Fatalf("%s: planned is %v and told %d times, want %v", s.what, planned, len(r.changes), s.planned)
				}
				if s.planned {
					checkChange(t, s.what, r.changes[0], s.urgent, s.verdict)
				}
				if got := a.Generation(); (got != gen) != s.newGen {
					t.Errorf("%s: generation %d after %d", s.what, got, gen)
				}
				gen = a.Generation()
				answer, _, _ := a.Lookup("llama.inference.test.", british)
				if first(answer) != s.first {
					t.Errorf("%s: Britain is sent to %s, want %s", s.what, first(answer), s.first)
				}
			}
		})
	}
}

// begin is three regions with room for everybody.
func begin(r *rig) {
	r.region("us-east", virginia, serves("llama", 24, 0)).region("eu-west", dublin, serves("llama", 24, 0)).
		region("ap-northeast", tokyo, serves("llama", 24, 0))
}

func checkChange(t *testing.T, what string, c Change, urgent bool, verdicts string) {
	t.Helper()
	if c.Urgent != urgent {
		t.Errorf("%s: urgent is %v", what, c.Urgent)
	}
	if c.Table == nil {
		t.Errorf("%s: no table", what)
	}
	var got []string
	for _, v := range c.Verdicts {
		got = append(got, string(v.Region)+":"+v.Before.String()+"→"+v.State.String())
	}
	if all := strings.Join(got, " "); verdicts != "*" && all != verdicts {
		t.Errorf("%s: verdicts %q, want %q", what, all, verdicts)
	}
}

// TestDemandMovesThePlan has a country ask for more than its nearest region can
// take, and then fall silent.
func TestDemandMovesThePlan(t *testing.T) {
	r := newRig(t).region("us-east", virginia, serves("llama", 24, 0)).region("eu-west", dublin, serves("llama", 24, 30))
	a := r.answers()
	shareOf := func() int {
		e, _ := director.Explain(r.world.Load().table, "llama", r.set.geo.Locate(british.Addr()))
		return e.Shares["us-east"]
	}
	for range 5000 {
		a.Lookup("llama.inference.test.", british)
	}
	r.everybody(nil)
	r.after(planEvery)
	if got := shareOf(); got < 50 || got > 120 { // of 30 slots, 24 × 0.85 fit in the nearest region
		t.Errorf("%d of 256 British clients are sent to us-east", got)
	}
	r.everybody(func(s *regions.Status) { s.Models[0].InFlight, s.Models[0].Queued = 0, 0 })
	r.after(time.Hour)
	if got := shareOf(); got != 0 {
		t.Errorf("%d of 256 British clients are still sent to us-east after an hour of silence", got)
	}
}

// TestMindRuns checks what makes the loop step: news from probes and gossip, and
// time.
func TestMindRuns(t *testing.T) {
	r := newRig(t)
	begin(r)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		probed, heard := make(chan struct{}), make(chan struct{})
		started := time.Now()
		ended := make(chan error, 1)
		go func() {
			ended <- r.run(ctx, probed, heard, func() time.Time { return epoch.Add(time.Since(started)) })
		}()
		plans := func() int {
			synctest.Wait()
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.changes)
		}
		if got := plans(); got != 1 {
			t.Fatalf("%d plans at the start", got)
		}
		r.probe("eu-west", 2, 0)
		probed <- struct{}{}
		if got := plans(); got != 2 || time.Since(started) != 0 {
			t.Errorf("%d plans after a probe, %v later", got, time.Since(started))
		}
		r.say("us-east", func(s *regions.Status) { s.Draining = true })
		heard <- struct{}{}
		if got := plans(); got != 3 {
			t.Errorf("%d plans after a status", got)
		}
		r.say("us-east", func(s *regions.Status) { s.Draining = false })
		<-time.After(judgeEvery)
		if got := plans(); got != 4 {
			t.Errorf("%d plans after judgeEvery", got)
		}
		<-time.After(planEvery)
		if got := plans(); got != 5 {
			t.Errorf("%d plans after planEvery", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
