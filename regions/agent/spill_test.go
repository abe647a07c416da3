package agent

import (
	"math"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// epoch is when these tests begin; nothing in them reads a clock.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at is a point of time, in milliseconds.
func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

// endpointOf is where a region is that nobody connects to.
func endpointOf(id regions.ID) regions.Endpoint {
	return regions.Endpoint{Scheme: "https", Host: string(id) + ".example.com", Port: 443, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
}

// room is a target of a row, with a budget in slots.
func room(id regions.ID, slots int) regions.SpillTarget {
	return regions.SpillTarget{Region: id, Endpoint: endpointOf(id), Budget: regions.Slots(slots)}
}

func rowFrom(source regions.ID, m regions.ModelName, targets ...regions.SpillTarget) regions.SpillRow {
	return regions.SpillRow{Source: source, Model: m, Targets: targets, Lifetime: director.SpillLifetime}
}

// known is a snapshot of regions on a line of latitude, at their degrees of
// longitude, each with 8 slots of llama.
func known(places map[regions.ID]int32) func() regions.Snapshot {
	return func() regions.Snapshot {
		var all []regions.Report
		for id, degrees := range places {
			all = append(all, regions.Report{Heard: epoch, Status: &regions.Status{
				Agent: regions.AgentID(id + "/a"), Region: id, Location: regions.Location{Lon: degrees * 1_000_000},
				Endpoints: []regions.Endpoint{endpointOf(id)},
				Models:    []regions.ModelStatus{{Name: "llama", Slots: regions.Slots(8), Pods: regions.PodCounts{Ready: 1}}},
			}})
		}
		return regions.NewSnapshot(all)
	}
}

// TestSpillOverTime walks a gateway in us through time.
func TestSpillOverTime(t *testing.T) {
	type step struct {
		at   int // ms
		row  *regions.SpillRow
		from regions.ID // take a place; the region expected, "none" if nobody is
		end  regions.ID // end the oldest place in that region
		lost bool       // by losing it
		part bool       // after a part of the answer
		m    regions.ModelName
	}
	us := func(targets ...regions.SpillTarget) *regions.SpillRow {
		r := rowFrom("us", "llama", targets...)
		return &r
	}
	other := rowFrom("eu", "llama", room("us", 9))
	mistral := rowFrom("us", "mistral", room("ap", 1))
	for _, c := range []struct {
		what  string
		knows map[regions.ID]int32
		steps []step
	}{
		{"the row's first has room, then the next, then the nearest is as good as any", nil, []step{
			{at: 0, row: us(room("eu", 2), room("ap", 1))},
			{at: 1, from: "eu"}, {at: 2, from: "eu"}, {at: 3, from: "ap"},
			{at: 4, from: "eu"}, {at: 5, from: "eu"},
			{at: 6, end: "ap"}, {at: 7, from: "ap"},
			{at: 8, end: "eu"}, {at: 9, end: "eu"}, {at: 10, from: "eu"}, // 3 of 2: the nearest again
			{at: 11, end: "eu"}, {at: 12, end: "eu"}, {at: 13, from: "eu"}, {at: 14, from: "eu"},
		}},
		{"a part of a slot is no room", nil, []step{
			{at: 0, row: us(regions.SpillTarget{Region: "eu", Endpoint: endpointOf("eu"), Budget: 999}, room("ap", 1))},
			{at: 1, from: "ap"}, {at: 2, from: "eu"},
		}},
		{"the newest row counts", nil, []step{
			{at: 0, row: us(room("eu", 2))}, {at: 1, from: "eu"},
			{at: 2, row: us(room("ap", 2))}, {at: 3, from: "ap"},
			{at: 4, row: us(room("eu", 1), room("ap", 2))}, {at: 5, from: "ap"}, // what it has in eu stays counted
		}},
		{"rows of other sources and models say nothing", nil, []step{
			{at: 0, row: &other}, {at: 1, from: "none"},
			{at: 2, row: &mistral}, {at: 3, from: "none"}, {at: 4, m: "mistral", from: "ap"},
		}},
		{"an empty row is an answer too", map[regions.ID]int32{"us": 0, "eu": 70}, []step{
			{at: 0, row: us()}, {at: 1, from: "none"},
		}},
		{"an old row gives way to the own plan", map[regions.ID]int32{"us": 0, "eu": 70, "ap": 140}, []step{
			{at: 0, row: us(room("ap", 9))},
			{at: 1, from: "ap"},
			{at: 29_999, from: "ap"},
			{at: 30_000, from: "eu"}, {at: 30_001, from: "eu"},
			{at: 31_000, row: us(room("ap", 9))}, {at: 31_001, from: "ap"},
		}},
		{"no row ever", map[regions.ID]int32{"us": 0, "eu": 70, "ap": 140}, []step{
			{at: 0, from: "eu"}, {at: 1, m: "mistral", from: "none"},
		}},
		{"nobody else is known", map[regions.ID]int32{"us": 0}, []step{{at: 0, from: "none"}}},
		{"this region is not known either", map[regions.ID]int32{"eu": 0}, []step{{at: 0, from: "none"}}},
		{"a lost region is passed over for three seconds", nil, []step{
			{at: 0, row: us(room("eu", 9), room("ap", 9))},
			{at: 1, from: "eu"}, {at: 2, from: "eu"},
			{at: 1000, end: "eu", lost: true},
			{at: 1001, from: "ap"}, {at: 3999, from: "ap"},
			{at: 4000, from: "eu"},
			{at: 4001, end: "eu"}, {at: 4002, from: "eu"}, // an end that is no loss changes nothing
		}},
		{"an answer that breaks off may be a pod's doing there", nil, []step{
			{at: 0, row: us(room("eu", 9), room("ap", 9))},
			{at: 1, from: "eu"}, {at: 1000, end: "eu", lost: true, part: true}, {at: 1001, from: "eu"},
		}},
		{"a loss renews the pause", nil, []step{
			{at: 0, row: us(room("eu", 9), room("ap", 9))},
			{at: 1, from: "eu"}, {at: 2, from: "eu"},
			{at: 1000, end: "eu", lost: true}, {at: 3000, end: "eu", lost: true},
			{at: 5999, from: "ap"}, {at: 6000, from: "eu"},
		}},
		{"all are lost", nil, []step{
			{at: 0, row: us(room("eu", 9), room("ap", 9))},
			{at: 1, from: "eu"}, {at: 2, end: "eu", lost: true},
			{at: 3, from: "ap"}, {at: 4, end: "ap", lost: true},
			{at: 5, from: "none"},
			{at: 3002, from: "eu"},
		}},
		{"a lost region is passed over in the own plan too", map[regions.ID]int32{"us": 0, "eu": 70, "ap": 140}, []step{
			{at: 0, from: "eu"}, {at: 1, end: "eu", lost: true}, {at: 2, from: "ap"}, {at: 3001, from: "eu"},
		}},
		{"beyond all budgets, a lost region is still passed over", nil, []step{
			{at: 0, row: us(room("eu", 1), room("ap", 1))},
			{at: 1, from: "eu"}, {at: 2, end: "eu", lost: true},
			{at: 3, from: "ap"}, {at: 4, from: "ap"},
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newSpiller("us", "us/a", known(c.knows))
			held := map[regions.ID][]proxy.SpillLease{}
			for _, step := range c.steps {
				now := at(step.at)
				switch {
				case step.row != nil:
					s.heard(*step.row, now)
				case step.end != "":
					end := regions.EndServed
					if step.lost {
						end = regions.EndPodLost
					}
					held[step.end][0].Done(now, regions.Outcome{End: end, SawBytes: step.part})
					held[step.end] = held[step.end][1:]
				default:
					m := step.m
					if m == "" {
						m = "llama"
					}
					s.replan(now)
					lease, ok := s.Spill(now, regions.Request{Model: m}, true)
					got := regions.ID("none")
					if ok {
						got = lease.Region()
						held[got] = append(held[got], lease)
					}
					if got != step.from {
						t.Fatalf("at %d ms: %s, want %s", step.at, got, step.from)
					}
					if ok && lease.Endpoint().Host != endpointOf(got).Host {
						t.Errorf("at %d ms: %s is at %s", step.at, got, lease.Endpoint().URL())
					}
				}
			}
			// All places end, each told twice: no slot may stay counted.
			for _, leases := range held {
				for _, l := range leases {
					l.Done(at(99_000), regions.Outcome{End: regions.EndServed})
					l.Done(at(99_000), regions.Outcome{End: regions.EndPodLost})
				}
			}
			if len(s.inFlight) != 0 {
				t.Errorf("still in flight: %v", s.inFlight)
			}
		})
	}
}

// TestOwnPlanIsRenewed lets the known world change under a gateway that hears no
// directors.
func TestOwnPlanIsRenewed(t *testing.T) {
	places := map[regions.ID]int32{"us": 0, "eu": 70}
	calls := 0
	s := newSpiller("us", "us/a", func() regions.Snapshot {
		calls++
		return known(places)()
	})
	spill := func(ms int) regions.ID {
		lease, ok := s.Spill(at(ms), regions.Request{Model: "llama"}, true)
		if !ok {
			return "none"
		}
		lease.Done(at(ms), regions.Outcome{End: regions.EndServed})
		return lease.Region()
	}
	if got := spill(0); got != "none" || calls != 0 {
		t.Errorf("spills to %s before any plan; requests planned %d times", got, calls)
	}
	s.replan(at(0))
	if got := spill(0); got != "eu" {
		t.Errorf("spills to %s", got)
	}
	places["br"] = 30
	s.replan(at(500))
	if got := spill(500); got != "br" || calls != 2 {
		t.Errorf("spills to %s, planned %d times", got, calls)
	}
	s.heard(rowFrom("us", "mistral"), at(600)) // a director speaks: no need for plans
	s.replan(at(700))
	if calls != 2 {
		t.Errorf("planned %d times although directors speak", calls)
	}
	delete(places, "br")
	delete(places, "eu")
	s.replan(at(40_000))
	if got := spill(40_000); got != "none" {
		t.Errorf("spills to %s, which nobody speaks of any more", got)
	}
	places["eu"] = 70
	s.replan(at(46_000)) // the report is of the beginning
	if got := spill(46_000); got != "none" {
		t.Errorf("spills to %s, which was not heard of for 46 s", got)
	}
}

// TestSpillKeepsToBudgets claims and ends at random: no region is given more
// than its budget while another has room, and what goes beyond all budgets goes
// where least is over.
func TestSpillKeepsToBudgets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := []regions.ID{"ap", "br", "eu", "za"}[:rapid.IntRange(1, 4).Draw(t, "regions")]
		budget := map[regions.ID]int{}
		row := regions.SpillRow{Source: "us", Model: "llama", Lifetime: director.SpillLifetime}
		for _, id := range ids {
			budget[id] = rapid.IntRange(0, 3).Draw(t, "slots")
			row.Targets = append(row.Targets, room(id, budget[id]))
		}
		s := newSpiller("us", "us/a", known(nil))
		s.heard(row, epoch)
		used := map[regions.ID]int{}
		var held []proxy.SpillLease
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if len(held) > 0 && rapid.Bool().Draw(t, "end one") {
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				used[held[i].Region()]--
				held[i].Done(epoch, regions.Outcome{End: regions.EndServed})
				held = slices.Delete(held, i, i+1)
				continue
			}
			want, least := ids[0], math.MaxInt
			for _, id := range ids {
				if used[id] < budget[id] {
					want = id
					break
				}
				if over := (used[id] + 1) * 1_000_000 / max(1, budget[id]*1000); over < least {
					want, least = id, over
				}
			}
			lease, ok := s.Spill(epoch, regions.Request{Model: "llama"}, true)
			if !ok || lease.Region() != want {
				t.Fatalf("got %v, want %s of %v with %v used", lease, want, budget, used)
			}
			used[want]++
			held = append(held, lease)
		}
		for _, l := range held {
			l.Done(epoch, regions.Outcome{End: regions.EndServed})
		}
		if len(s.inFlight) != 0 {
			t.Fatalf("still in flight: %v", s.inFlight)
		}
	})
}

func TestSpillByMany(t *testing.T) {
	s := newSpiller("us", "us/a", known(map[regions.ID]int32{"us": 0, "eu": 70, "ap": 140}))
	s.heard(rowFrom("us", "llama", room("eu", 2), room("ap", 2)), epoch)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 200 {
				now := at(k * 300) // beyond the row's life, too
				if i == 0 && k%10 == 0 {
					s.heard(rowFrom("us", "llama", room("ap", 1), room("eu", 1)), now)
				}
				if lease, ok := s.Spill(now, regions.Request{Model: "llama"}, true); ok {
					end := regions.EndServed
					if k%50 == i {
						end = regions.EndPodLost
					}
					lease.Done(now, regions.Outcome{End: end})
				}
			}
		})
	}
	wg.Wait()
	if len(s.inFlight) != 0 {
		t.Errorf("still in flight: %v", s.inFlight)
	}
}

// TestPartsOfABudget: the parts of all agents are the budget's whole slots, and as
// equal as whole slots are.
func TestPartsOfABudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := regions.MilliSlots(rapid.Int64Range(0, 1_000_000).Draw(t, "budget"))
		agents, target := rapid.IntRange(2, 50).Draw(t, "agents"), rapid.IntRange(0, 16).Draw(t, "target")
		sum, least, most := regions.MilliSlots(0), budget, regions.MilliSlots(0)
		for i := range agents {
			part := partOf(budget, i+target, agents)
			sum, least, most = sum+part, min(least, part), max(most, part)
		}
		if sum != budget/1000*1000 || most-least > regions.Slots(1) {
			t.Fatalf("%d agents have %d of %d, from %d to %d", agents, sum, budget, least, most)
		}
	})
	if got := partOf(1500, 3, 1); got != 1500 {
		t.Errorf("of the only agent: %d", got)
	}
}

// TestAgentsShareARow: what the agents of a region have in other regions together is
// within the row's budgets, while they are alive; those of other regions don't count.
func TestAgentsShareARow(t *testing.T) {
	heard := map[regions.AgentID]time.Time{"us/a": epoch, "us/b": epoch, "us/c": epoch, "eu/a": epoch, "ap/a": epoch}
	snapshot := func() regions.Snapshot {
		var all []regions.Report
		for agent, at := range heard {
			all = append(all, regions.Report{Heard: at, Status: &regions.Status{Agent: agent, Region: regions.ID(agent[:2])}})
		}
		return regions.NewSnapshot(all)
	}
	agents := []*spiller{newSpiller("us", "us/a", snapshot), newSpiller("us", "us/b", snapshot), newSpiller("us", "us/c", snapshot)}
	row := rowFrom("us", "llama", room("eu", 7), room("ap", 1))
	for _, s := range agents {
		s.heard(row, epoch)
	}
	// spent is what some agents get without need, by region.
	spent := func(ms int, agents ...*spiller) map[regions.ID]int {
		sum := map[regions.ID]int{}
		for _, s := range agents {
			s.divide(at(ms))
			for {
				l, ok := s.Spill(at(ms), regions.Request{Model: "llama"}, false)
				if !ok {
					break
				}
				sum[l.Region()]++
			}
		}
		return sum
	}
	if got := spent(10, agents...); got["eu"] != 7 || got["ap"] != 1 {
		t.Errorf("three agents have %v", got)
	}
	// Two of them die with what they had; the third has all after 5 s.
	heard["us/b"] = at(6000)
	if got := spent(4999, agents[1]); len(got) != 0 {
		t.Errorf("before the others are gone: %v", got)
	}
	if got := spent(5001, agents[1]); got["eu"] != 7-2 || got["ap"] != 1 {
		t.Errorf("when the others are gone: %v more", got)
	}
	// One that does not hear itself yet counts itself.
	if got := spent(6000, newSpiller("us", "us/d", snapshot)); len(got) != 0 {
		t.Errorf("without a row: %v", got)
	}
	late := newSpiller("us", "us/d", snapshot)
	late.heard(row, at(6000))
	if got := spent(6000, late); got["eu"] != 3 || got["ap"] != 1 {
		t.Errorf("one of two: %v", got)
	}
}
