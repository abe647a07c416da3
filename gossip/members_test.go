package gossip

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/rhumb-lb/rhumb/gossip/wire"
)

// TestWhoSeemsDeadIsStillSent walks one director through the states in which an
// agent can see it.
func TestWhoSeemsDeadIsStillSent(t *testing.T) {
	now := start
	m := newMembers(func() time.Time { return now })
	meta, err := wire.EncodeMeta(&wire.Meta{Protocol: 1, Role: wire.Role_DIRECTOR})
	if err != nil {
		t.Fatal(err)
	}
	node := &memberlist.Node{Name: "ns1", Addr: net.IPv4(10, 0, 0, 1), Port: 7946, Meta: meta}
	steps := []struct {
		what        string
		do          func()
		sent, alive int
	}{
		{"unknown", func() {}, 0, 0},
		{"joined", func() { m.NotifyJoin(node) }, 1, 1},
		{"seems dead", func() { m.NotifyLeave(node) }, 1, 0},
		{"seems dead for 59 min", func() { now = now.Add(59 * time.Minute) }, 1, 0},
		{"seems dead for an hour", func() { now = now.Add(time.Minute) }, 0, 0},
		{"back", func() { m.NotifyJoin(node) }, 1, 1},
		{"a region of its name said goodbye", func() { now = now.Add(time.Second); m.left("ns1", RoleAgent, now); m.NotifyLeave(node) }, 1, 0},
		{"back again", func() { m.NotifyJoin(node) }, 1, 1},
		{"said goodbye", func() { now = now.Add(time.Second); m.left("ns1", RoleDirector, now); m.NotifyLeave(node) }, 0, 0},
	}
	for _, s := range steps {
		s.do()
		if got := len(m.audience("a", Audience{Role: RoleDirector})); got != s.sent {
			t.Errorf("%s: sent to %d, want %d", s.what, got, s.sent)
		}
		if got := len(m.alive("a")); got != s.alive {
			t.Errorf("%s: %d alive, want %d", s.what, got, s.alive)
		}
		if got := len(m.audience("a", Audience{Role: RoleAgent})); got != 0 {
			t.Errorf("%s: %d agents", s.what, got)
		}
	}
}
