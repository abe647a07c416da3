package gossip_test

import (
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
)

// TestLeaveAndDeath are told apart, and who left is not looked for.
func TestLeaveAndDeath(t *testing.T) {
	inWorld(t, func(w *world) {
		d := w.add("d1", nil)
		w.agent("eu-west/a")
		w.agent("us-east/a")
		w.until(10*time.Second, "all are members", func() bool { return d.alive() == 3 })
		advance(20 * time.Second) // new members exchange state a few times
		w.leave("eu-west/a")
		w.until(2*time.Second, "the leave is known", func() bool { return d.state("eu-west/a") == gossip.MemberLeft })
		advance(time.Second)
		tried := d.metric("rhumb_gossip_joins_total")
		advance(time.Minute)
		if more := d.metric("rhumb_gossip_joins_total") - tried; more > 0 {
			t.Errorf("%v attempts to join a member that left", more)
		}
		w.kill("us-east/a")
		w.until(30*time.Second, "the death is known", func() bool { return d.state("us-east/a") == gossip.MemberDead })
		tried = d.metric("rhumb_gossip_joins_total")
		advance(time.Minute)
		if more := d.metric("rhumb_gossip_joins_total") - tried; more < 20 {
			t.Errorf("%v attempts in a minute to join a member that died, want one each 2 to 3 s", more)
		}
		if n := len(d.Snapshot().Reports); n != 2 {
			t.Errorf("%d statuses known, want both", n)
		}
		if got := d.metric("rhumb_gossip_members", "role=agent", "state=left"); got != 1 {
			t.Errorf("the metric has %v agents that left", got)
		}
		w.agent("us-east/a")
		w.until(10*time.Second, "it is back", func() bool { return d.state("us-east/a") == gossip.MemberAlive })
	})
}

// TestForget: after Options.Forget an agent that was not heard of is gone, and a
// recording of it stays without effect.
func TestForget(t *testing.T) {
	inWorld(t, func(w *world) {
		d := w.add("d1", func(o *gossip.Options) { o.Forget = 10 * time.Minute })
		w.agent("eu-west/a")
		w.until(10*time.Second, "it is known", func() bool { return d.fresh(time.Second, "eu-west/a") })
		w.kill("eu-west/a")
		advance(9 * time.Minute)
		if len(d.Snapshot().Reports) != 1 {
			t.Error("forgotten too early")
		}
		advance(3 * time.Minute)
		if n := len(d.Snapshot().Reports); n != 0 {
			t.Errorf("%d statuses after they were to be forgotten", n)
		}
		if s := d.state("eu-west/a"); s != "unknown" {
			t.Errorf("the member is %s", s)
		}
	})
}
