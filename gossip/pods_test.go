package gossip_test

import (
	"slices"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// podsOf is the payload of a region that has some requests in flight on one pod.
func podsOf(t *testing.T, region regions.ID, inFlight uint32) []byte {
	t.Helper()
	b, err := wire.EncodePods(region, []regions.PodLoad{{Pod: "p", Model: "llama", InFlight: inFlight}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// says publishes pods as an agent does.
func (p *proc) says(t *testing.T, region regions.ID, inFlight uint32) {
	t.Helper()
	err := p.Publish(gossip.Record{
		Kind: wire.Kind_PODS, Payload: podsOf(t, region, inFlight),
		Audience: gossip.Audience{Role: gossip.RoleAgent, Region: region},
	})
	if err != nil {
		t.Error(err)
	}
}

// heardOf are the loads of the one pod that a member was told by another, and how
// old the newest is.
func (p *proc) heardOf(t *testing.T, origin string) (loads []uint32, age time.Duration) {
	t.Helper()
	for _, r := range p.records() {
		if r.Body.GetKind() != wire.Kind_PODS || r.Body.GetOrigin() != origin {
			continue
		}
		_, said, err := wire.DecodePods(r.Body.GetPayload())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range said {
			loads = append(loads, l.InFlight)
		}
		age = time.Since(r.Heard)
	}
	return loads, age
}

// TestPodsAreForTheRegionsAgents: they go to nobody else, by no way but directly.
func TestPodsAreForTheRegionsAgents(t *testing.T) {
	inWorld(t, func(w *world) {
		w.net.Delay(oneWay(10 * time.Millisecond))
		d, a, b, us := w.add("d1", nil), w.agent("eu-west/a"), w.agent("eu-west/b"), w.agent("us-east/a")
		w.until(10*time.Second, "all know all", func() bool { return a.alive() == 4 && b.alive() == 4 })
		for n := range uint32(3) {
			a.says(t, "eu-west", n+1)
			advance(50 * time.Millisecond)
		}
		loads, age := b.heardOf(t, "eu-west/a")
		if !slices.Equal(loads, []uint32{1, 2, 3}) || age != 40*time.Millisecond {
			t.Errorf("the other agent of the region heard %v, %v ago", loads, age)
		}
		// A newcomer learns of everything by push/pull but of pods.
		c := w.agent("eu-west/c")
		advance(2 * time.Minute)
		if a.alive() != 5 || !c.fresh(30*time.Second, "eu-west/a", "eu-west/b", "eu-west/c", "us-east/a") {
			t.Fatalf("the newcomer knows %v", c.ages())
		}
		for name, p := range map[string]*proc{"the newcomer": c, "the director": d, "the other region": us} {
			if loads, _ := p.heardOf(t, "eu-west/a"); len(loads) != 0 {
				t.Errorf("%s heard %v", name, loads)
			}
		}
		if n := w.sent("pods"); n != 3 {
			t.Errorf("sent %v times, want 3", n)
		}
		a.says(t, "eu-west", 4)
		advance(50 * time.Millisecond)
		if loads, _ := c.heardOf(t, "eu-west/a"); !slices.Equal(loads, []uint32{4}) {
			t.Errorf("the newcomer heard %v", loads)
		}
		w.leave("eu-west/a")
		advance(time.Second)
		b.says(t, "eu-west", 5)
		if n := w.sent("pods"); n != 1 {
			t.Errorf("%v were sent to the one agent that is left besides", n)
		}
	})
}

// sent is how often records of a kind were sent by all that run.
func (w *world) sent(kind string) (n float64) {
	for _, p := range w.procs {
		n += p.metric("rhumb_gossip_sent_total", "kind="+kind)
	}
	return n
}

// TestHostilePods: pods that are not the signer's, not for this region, or not from
// their origin, are counted and change nothing; neither do old ones.
func TestHostilePods(t *testing.T) {
	inWorld(t, func(w *world) {
		d, b := w.add("d1", nil), w.agent("eu-west/b")
		w.agent("us-east/a")
		x := newThief(w, "d9")
		defer func() { _ = x.list.Shutdown() }()
		both := []regions.AgentID{"eu-west/b", "us-east/a"}
		w.until(time.Minute, "all certificates are known", func() bool {
			return b.fresh(time.Minute, both...) && d.fresh(time.Minute, both...) && w.procs["us-east/a"].fresh(time.Minute, both...)
		})
		eu, us, director := w.identity("eu-west/a"), w.identity("us-east/a"), w.identity("d1")
		body := func(origin string, version uint64, payload []byte) *wire.Body {
			return &wire.Body{Kind: wire.Kind_PODS, Origin: origin, Epoch: 50, Version: version, Payload: payload}
		}
		good := func(version uint64, load uint32) []byte {
			return seal(t, body("eu-west/a", version, podsOf(t, "eu-west", load)), eu.Cert.KeyID, by(eu))
		}
		passed, err := wire.EncodeHeld(&wire.Held{Envelope: good(20, 9)[1:]})
		if err != nil {
			t.Fatal(err)
		}
		x.send(w, "eu-west/b", good(10, 7))
		want := []uint32{7}
		for _, c := range []struct {
			name, metric, label string
			to                  string
			message             []byte
		}{
			{"of another region by its own word", "records", "result=ignored", "eu-west/b", seal(t, body("us-east/a", 1, podsOf(t, "us-east", 9)), us.Cert.KeyID, by(us))},
			{"of this region by another's certificate", "refused", "reason=name", "eu-west/b", seal(t, body("eu-west/a", 30, podsOf(t, "eu-west", 9)), us.Cert.KeyID, by(us))},
			{"another region's under an own name", "refused", "reason=name", "eu-west/b", seal(t, body("us-east/a", 2, podsOf(t, "eu-west", 9)), us.Cert.KeyID, by(us))},
			{"by a director", "refused", "reason=role", "eu-west/b", seal(t, body("d1", 30, podsOf(t, "eu-west", 9)), director.Cert.KeyID, by(director))},
			{"forged", "refused", "reason=forged", "eu-west/b", seal(t, body("eu-west/a", 30, podsOf(t, "eu-west", 9)), eu.Cert.KeyID, by(us))},
			{"not pods", "refused", "reason=malformed", "eu-west/b", seal(t, body("eu-west/a", 30, []byte("x")), eu.Cert.KeyID, by(eu))},
			{"replayed", "refused", "reason=replayed", "eu-west/b", good(10, 7)},
			{"older", "refused", "reason=replayed", "eu-west/b", good(9, 9)},
			{"passed on", "records", "result=ignored", "eu-west/b", append([]byte{4}, passed...)},
			{"to a director", "records", "result=ignored", "d1", good(40, 9)},
			{"to another region", "records", "result=ignored", "us-east/a", good(40, 9)},
		} {
			p := w.procs[c.to]
			count := p.metric("rhumb_gossip_"+c.metric+"_total", c.label)
			x.send(w, c.to, c.message)
			if got := p.metric("rhumb_gossip_"+c.metric+"_total", c.label); got != count+1 {
				t.Errorf("%s: counted %v times as %s", c.name, got-count, c.label)
			}
			if got, _ := b.heardOf(t, "eu-west/a"); !slices.Equal(got, want) {
				t.Fatalf("%s: heard %v", c.name, got)
			}
			for _, p := range []*proc{b, d, w.procs["us-east/a"]} {
				if got, _ := p.heardOf(t, "us-east/a"); len(got) != 0 || p != b && len(p.records()) != 0 {
					t.Fatalf("%s: told %v", c.name, p.records())
				}
			}
		}
		x.send(w, "eu-west/b", good(11, 8))
		if got, _ := b.heardOf(t, "eu-west/a"); !slices.Equal(got, []uint32{7, 8}) {
			t.Errorf("the next version after all that: %v", got)
		}
	})
}
