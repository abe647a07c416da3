package gossip_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// oneWay is a delay between regions that differ in their address's last byte.
func oneWay(d time.Duration) func(from, to netip.AddrPort) time.Duration {
	return func(netip.AddrPort, netip.AddrPort) time.Duration { return d }
}

func TestAgeOfStatusWithLoss(t *testing.T) {
	inWorld(t, func(w *world) {
		w.net.Delay(oneWay(50 * time.Millisecond))
		directors := []*proc{w.add("d1", nil), w.add("d2", nil)}
		var agents []regions.AgentID
		for i := range 8 {
			name := fmt.Sprintf("region-%d/a", i)
			w.agent(name)
			agents = append(agents, regions.AgentID(name))
		}
		for _, d := range directors {
			w.until(10*time.Second, "directors hear of all agents", func() bool { return d.fresh(time.Minute, agents...) })
		}
		w.net.Loss(100)
		var ages []time.Duration
		for range 600 {
			advance(100 * time.Millisecond)
			for _, d := range directors {
				for _, age := range d.ages() {
					ages = append(ages, age)
				}
			}
		}
		slices.Sort(ages)
		p50, p99 := ages[len(ages)/2], ages[len(ages)*99/100]
		t.Logf("age at 10 %% loss: p50 %v, p99 %v, most %v", p50, p99, ages[len(ages)-1])
		if p99 > 1200*time.Millisecond {
			t.Errorf("p99 of the age is %v, more than 1.2 s", p99)
		}
		// The region's own agents hear it too, other regions' do not need to.
		if age := w.procs["region-0/a"].ages()["region-0/a"]; age > 600*time.Millisecond {
			t.Errorf("the agent's own status is %v old in its own snapshot", age)
		}
	})
}

// TestChangeIsSentAtOnce looks for a change well before the next heartbeat, and
// for a change of load figures not before it.
func TestChangeIsSentAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.net.Delay(oneWay(10 * time.Millisecond))
		d, a := w.add("d1", nil), w.add("eu-west/a", nil)
		publish := func(load uint32, draining bool) {
			t.Helper()
			s := statusOf("eu-west/a", load)
			s.Draining = draining
			if err := a.PublishStatus(s); err != nil {
				t.Fatal(err)
			}
		}
		publish(0, false)
		w.until(10*time.Second, "a first status", func() bool { return d.report("eu-west/a") != nil })
		for range 2 { // past the burst
			advance(500 * time.Millisecond)
			publish(0, false)
		}
		version := d.report("eu-west/a").Version
		w.until(time.Second, "a heartbeat", func() bool { return d.report("eu-west/a").Version > version })
		publish(5, true)
		advance(40 * time.Millisecond) // the least gap between two is 50 ms
		advance(60 * time.Millisecond)
		if s := d.report("eu-west/a"); !s.Draining || s.Models[0].InFlight != 5 {
			t.Errorf("100 ms after a change the director has %+v", s)
		}
		version = d.report("eu-west/a").Version
		advance(350 * time.Millisecond)
		if got := d.report("eu-west/a").Version - version; got != 2 {
			t.Errorf("%d more statuses within 400 ms of a change, want 2", got)
		}
		publish(6, true)
		advance(100 * time.Millisecond)
		if load := d.report("eu-west/a").Models[0].InFlight; load != 5 {
			t.Errorf("a change of load alone was sent before its time: in-flight %d", load)
		}
		w.until(time.Second, "the load by the next heartbeat", func() bool { return d.report("eu-west/a").Models[0].InFlight == 6 })
	})
}

// TestSilenceOfAHungAgent: a status that nobody renews is not repeated.
func TestSilenceOfAHungAgent(t *testing.T) {
	inWorld(t, func(w *world) {
		d, a := w.add("d1", nil), w.add("eu-west/a", nil)
		if err := a.PublishStatus(statusOf("eu-west/a", 1)); err != nil {
			t.Fatal(err)
		}
		w.until(10*time.Second, "a first status", func() bool { return d.report("eu-west/a") != nil })
		advance(30 * time.Second)
		if age := d.ages()["eu-west/a"]; age < 27*time.Second {
			t.Errorf("30 s after the last renewal the status is only %v old", age)
		}
		if d.alive() != 2 {
			t.Errorf("%d members alive, want 2: the process itself is well", d.alive())
		}
	})
}

func TestPartitionHeals(t *testing.T) {
	inWorld(t, func(w *world) {
		w.net.Delay(oneWay(60 * time.Millisecond))
		west := []*proc{w.add("d1", nil), w.agent("us-east/a"), w.agent("us-east/b")}
		east := []*proc{w.add("d2", nil), w.agent("eu-west/a"), w.agent("eu-west/b")}
		all := slices.Concat(west, east)
		agents := []regions.AgentID{"us-east/a", "us-east/b", "eu-west/a", "eu-west/b"}
		everybody := func() bool {
			return !slices.ContainsFunc(all, func(p *proc) bool { return p.alive() != 6 })
		}
		informed := func() bool {
			return west[0].fresh(1500*time.Millisecond, agents...) && east[0].fresh(1500*time.Millisecond, agents...)
		}
		w.until(15*time.Second, "all see all", everybody)
		w.until(15*time.Second, "directors are informed", informed)

		w.net.Isolate(w.addrs["d2"], w.addrs["eu-west/a"], w.addrs["eu-west/b"])
		advance(90 * time.Second)
		if west[0].alive() != 3 || east[0].alive() != 3 {
			t.Errorf("after 90 s of partition the sides see %d and %d members, want 3 and 3", west[0].alive(), east[0].alive())
		}
		for agent, age := range west[0].ages() {
			if far := agent[:2] == "eu"; far != (age > 80*time.Second) {
				t.Errorf("after 90 s of partition the status of %s is %v old at d1", agent, age)
			}
		}
		if n := len(west[0].Snapshot().Reports); n != 4 {
			t.Errorf("d1 knows %d statuses, want all 4: the dead are not forgotten", n)
		}
		w.net.Heal()
		took := w.until(5*time.Second, "all see all after the heal", func() bool { return everybody() && informed() })
		t.Logf("healed after %v", took)
	})
}

// TestBlackHoledAgentAges while the others stay fresh.
func TestBlackHoledAgentAges(t *testing.T) {
	inWorld(t, func(w *world) {
		d := w.add("d1", nil)
		w.agent("eu-west/a")
		w.agent("us-east/a")
		w.until(10*time.Second, "both are known", func() bool { return d.fresh(time.Second, "eu-west/a", "us-east/a") })
		w.net.Isolate(w.addrs["eu-west/a"])
		advance(3 * time.Second)
		if d.state("eu-west/a") != gossip.MemberAlive {
			t.Error("memberlist was faster than the statuses; this test shows nothing")
		}
		for range 200 {
			advance(100 * time.Millisecond)
			if age := d.ages()["us-east/a"]; age > 600*time.Millisecond {
				t.Fatalf("the status of us-east/a is %v old", age)
			}
		}
		if age := d.ages()["eu-west/a"]; age < 22*time.Second {
			t.Errorf("23 s after it was cut off the agent's status is %v old", age)
		}
		if got := d.metric("rhumb_gossip_status_age_seconds", "region=eu-west"); got < 22 {
			t.Errorf("the metric says %v s", got)
		}
	})
}

// TestLateJoiner learns by push/pull what nobody sends any more, and never holds
// it for younger than who told it.
func TestLateJoiner(t *testing.T) {
	inWorld(t, func(w *world) {
		d1 := w.add("d1", nil)
		agents := []regions.AgentID{"eu-west/a", "us-east/a", "us-east/b"}
		for _, a := range agents {
			w.agent(string(a))
		}
		w.until(10*time.Second, "all are known", func() bool { return d1.fresh(time.Second, agents...) })
		for _, a := range agents {
			w.kill(string(a))
		}
		advance(40 * time.Second)
		d2 := w.add("d2", nil)
		if d2.Synced() {
			t.Error("synced before anything was heard")
		}
		w.until(2*time.Second, "the late joiner is synced", d2.Synced)
		if !d2.fresh(time.Hour, agents...) {
			t.Errorf("synced, and knows only %v", d2.ages())
		}
		first := d1.ages()
		for agent, age := range d2.ages() {
			if age < first[agent] {
				t.Errorf("%s is %v old at the late joiner and %v at who told it", agent, age, first[agent])
			}
			if age > first[agent]+time.Second {
				t.Errorf("%s is %v old at the late joiner, only %v at who told it", agent, age, first[agent])
			}
		}
	})
}

// TestRestart: with and without a stored epoch a restarted agent is believed
// again, in a higher epoch.
func TestRestart(t *testing.T) {
	for name, store := range map[string]gossip.EpochStore{"stored": &epochs{}, "forgotten": nil} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				d := w.add("d1", nil)
				start := func() {
					p := w.add("eu-west/a", func(o *gossip.Options) { o.Epochs = store })
					w.wg.Go(func() {
						for {
							if err := p.PublishStatus(statusOf("eu-west/a", 1)); err != nil {
								t.Error(err)
							}
							select {
							case <-p.ended:
								return
							case <-time.After(500 * time.Millisecond):
							}
						}
					})
				}
				start()
				w.until(10*time.Second, "a first status", func() bool { return d.report("eu-west/a") != nil })
				advance(20 * time.Second)
				before := d.report("eu-west/a")
				w.kill("eu-west/a")
				advance(5 * time.Second)
				start()
				took := w.until(5*time.Second, "the status of a higher epoch", func() bool { return d.report("eu-west/a").Newer(before) })
				after := d.report("eu-west/a")
				t.Logf("epoch %d version %d, after the restart %d and %d, believed after %v", before.Epoch, before.Version, after.Epoch, after.Version, took)
				if after.Epoch != before.Epoch+1 {
					t.Errorf("epoch %d after %d", after.Epoch, before.Epoch)
				}
				w.until(5*time.Second, "a fresh status", func() bool { return d.fresh(600*time.Millisecond, "eu-west/a") })
			})
		})
	}
}

type epochs struct{ last uint64 }

func (e *epochs) Load() (uint64, error)  { return e.last, nil }
func (e *epochs) Save(last uint64) error { e.last = last; return nil }

// TestSpillRows reach the agents of their region only, also after the director
// restarted without its epoch.
func TestSpillRows(t *testing.T) {
	inWorld(t, func(w *world) {
		d := w.add("d1", nil)
		near, far := w.agent("eu-west/a"), w.agent("us-east/a")
		w.until(10*time.Second, "all are members", func() bool { return d.alive() == 3 && near.alive() == 3 })
		publish := func(d *proc, leave regions.Permille) {
			t.Helper()
			payload, err := wire.EncodeSpillRow(&regions.SpillRow{
				Source: "eu-west", Model: "llama", Lifetime: 30 * time.Second, Leave: leave,
				Targets: []regions.SpillTarget{{Region: "us-east", Endpoint: endpointOf("us-east"), Budget: regions.Slots(2)}},
			})
			if err != nil {
				t.Fatal(err)
			}
			r := gossip.Record{Kind: wire.Kind_SPILL, Key: "eu-west/llama", Payload: payload, Audience: gossip.Audience{Role: gossip.RoleAgent, Region: "eu-west"}}
			if err := d.Publish(r); err != nil {
				t.Fatal(err)
			}
		}
		for range 5 {
			publish(d, 10)
			advance(time.Second)
		}
		got := near.records()
		if len(got) != 5 {
			t.Fatalf("the region's agent has %d rows, want 5", len(got))
		}
		row, err := wire.DecodeSpillRow(got[4].Body.GetPayload())
		if err != nil || row.Leave != 10 || got[4].From.Name != "d1" || time.Since(got[4].Heard) > 2*time.Second {
			t.Errorf("row %+v from %s, heard %v ago, error %v", row, got[4].From.Name, time.Since(got[4].Heard), err)
		}
		if n := len(far.records()); n != 0 {
			t.Errorf("another region's agent was given %d rows", n)
		}

		w.kill("d1")
		advance(15 * time.Second)
		d = w.add("d1", nil)
		w.until(15*time.Second, "the director is back", func() bool { return d.alive() == 3 && near.alive() == 3 })
		w.until(5*time.Second, "rows of the restarted director", func() bool {
			publish(d, 20)
			advance(time.Second)
			all := near.records()
			row, err := wire.DecodeSpillRow(all[len(all)-1].Body.GetPayload())
			return err == nil && row.Leave == 20
		})
		if err := near.Publish(gossip.Record{Kind: wire.Kind_SPILL}); err == nil {
			t.Error("an agent may publish spill rows")
		}
	})
}

// TestRecordsTravel: a kind that nobody knows yet reaches all by push/pull.
func TestRecordsTravel(t *testing.T) {
	inWorld(t, func(w *world) {
		d1 := w.add("d1", nil)
		a := w.agent("eu-west/a")
		w.until(10*time.Second, "both are members", func() bool { return d1.alive() == 2 })
		if err := a.Publish(gossip.Record{Kind: 99, Key: "k", Payload: []byte("new")}); err != nil {
			t.Fatal(err)
		}
		advance(time.Second)
		w.kill("eu-west/a")
		d2 := w.add("d2", nil)
		for _, d := range []*proc{d1, d2} {
			w.until(5*time.Second, "the record arrives", func() bool { return len(d.records()) > 0 })
			if r := d.records(); len(r) != 1 || r[0].Body.GetKind() != 99 || string(r[0].Body.GetPayload()) != "new" {
				t.Errorf("records %v", r)
			}
		}
	})
}

// TestLargeStatus goes by stream and still arrives, again and again.
func TestLargeStatus(t *testing.T) {
	inWorld(t, func(w *world) {
		d, a := w.add("d1", nil), w.add("eu-west/a", nil)
		s := statusOf("eu-west/a", 0)
		s.Models = nil
		for i := range 256 {
			s.Models = append(s.Models, regions.ModelStatus{Name: regions.ModelName(fmt.Sprintf("model-%03d-with-a-long-name", i)), PoolID: uint64(i)})
		}
		for range 20 {
			if err := a.PublishStatus(s); err != nil {
				t.Fatal(err)
			}
			advance(500 * time.Millisecond)
		}
		if !d.fresh(time.Second, "eu-west/a") || len(d.report("eu-west/a").Models) != 256 {
			t.Errorf("ages %v", d.ages())
		}
		if a.metric("rhumb_gossip_sent_total", "kind=status", "way=stream") == 0 {
			t.Error("nothing was sent by stream")
		}
	})
}
