package gossip

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// statuses are messages and a push/pull's state with one status of each of some
// regions.
type statuses struct {
	direct       [][]byte
	state, whole []byte // of an agent, and of a director that is synced
}

func newStatuses(t *testing.T, a *fleet.Authority, names ...string) statuses {
	t.Helper()
	var out statuses
	state := &wire.State{}
	for _, name := range names {
		id := testIdentity(t, a, fleet.RoleRegion, name)
		payload, err := wire.EncodeStatus(&regions.Status{Region: regions.ID(name), Protocol: 1, Endpoints: id.Cert.Grant.Endpoints})
		if err != nil {
			t.Fatal(err)
		}
		body, err := wire.EncodeBody(&wire.Body{Kind: wire.Kind_STATUS, Origin: name, Epoch: 9, Version: 1, Payload: payload})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := wire.EncodeEnvelope(&wire.Envelope{Body: body, KeyId: id.Cert.KeyID[:], Sig: id.Sign(fleet.EnvelopeDomain, body)})
		if err != nil {
			t.Fatal(err)
		}
		out.direct = append(out.direct, message(typeEnvelope, raw))
		state.Certs = append(state.Certs, id.Cert.DER)
		state.Held = append(state.Held, &wire.Held{Envelope: raw})
	}
	var err error
	if out.state, err = wire.EncodeState(state); err != nil {
		t.Fatal(err)
	}
	state.Whole = true
	if out.whole, err = wire.EncodeState(state); err != nil {
		t.Fatal(err)
	}
	return out
}

// certs are the certificates of a state, without its records.
func certs(t *testing.T, state []byte) []byte {
	t.Helper()
	s, err := wire.DecodeState(state)
	if err != nil {
		t.Fatal(err)
	}
	s.Held = nil
	b, err := wire.EncodeState(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// of makes options of a member of the given fleet.
func of(t *testing.T, a *fleet.Authority, role fleet.Role, name string) Options {
	t.Helper()
	o := testOptions(t)
	o.Name, o.Identity, o.Roots = name, testIdentity(t, a, role, name), fleet.NewRoots(a)
	return o
}

// TestSynced is a director's start, one event after another.
func TestSynced(t *testing.T) {
	a := testFleet(t)
	three := newStatuses(t, a, "eu", "sa", "us")
	direct := func(k int) func(*intake) {
		return func(i *intake) { i.message(inbound{message: three.direct[k], at: i.now()}) }
	}
	state := func(b []byte) func(*intake) {
		return func(i *intake) { i.merge(inbound{message: b, at: i.now()}) }
	}
	type step struct {
		at   time.Duration
		do   func(*intake)
		want bool
	}
	nothing := func(*intake) {}
	for name, steps := range map[string][]step{
		"by time": {
			{0, nothing, false},
			{time.Hour, state(certs(t, three.state)), false}, // of a member that knows nothing itself
			{time.Hour, direct(0), false},
			{time.Hour + time.Second, direct(1), false},
			{time.Hour + 2199*time.Millisecond, nothing, false},
			{time.Hour + 2200*time.Millisecond, nothing, true},
			{2 * time.Hour, direct(2), true},
		},
		"by state": {
			{0, state([]byte("broken")), false},
			{0, state(three.whole), true},
		},
		"by an agent's state, which may be all that it knows": {
			{0, state(newStatuses(t, a, "us").state), false},
			{time.Second, state(three.state), false},
			{2200 * time.Millisecond, nothing, true},
		},
		"by a state of what is known": {
			{0, state(certs(t, three.state)), false},
			{0, direct(0), false},
			{0, direct(1), false},
			{0, direct(2), false},
			{time.Second, state(three.whole), true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			now := start
			o := of(t, a, fleet.RoleDirector, "d1")
			o.Now = func() time.Time { return now }
			i := newNode(t, o).newIntake()
			for k, s := range steps {
				now = start.Add(s.at)
				if s.do(i); i.Synced() != s.want {
					t.Errorf("step %d: synced is %v", k, !s.want)
				}
			}
			if n := len(i.Snapshot().Reports); n != 3 {
				t.Errorf("%d statuses", n)
			}
		})
	}
	t.Run("not by one's own status", func(t *testing.T) {
		i := newNode(t, of(t, a, fleet.RoleRegion, "eu")).newIntake()
		state(newStatuses(t, a, "eu").whole)(i)
		if i.Synced() {
			t.Error("an agent that met its own record from before takes itself for synced")
		}
	})
}

// TestNobodySeesHalfOfAState looks at the node from within a merge: at each record
// the clock is read.
func TestNobodySeesHalfOfAState(t *testing.T) {
	a := testFleet(t)
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("region-", i))
	}
	all := newStatuses(t, a, names...)
	o := of(t, a, fleet.RoleDirector, "d1")
	var n *Node
	looks, looking := 0, false
	look := func() {
		looks++
		got := len(n.Snapshot().Reports)
		if got != 0 && got != len(names) {
			t.Errorf("%d of %d statuses are seen", got, len(names))
		}
		if got == 0 && (n.Synced() || len(n.changes) > 0) {
			t.Error("told of a change, or synced, before all is merged")
		}
	}
	o.Now = func() time.Time {
		if n != nil && len(n.store.slots) > 0 && !looking { // looking asks for the time too
			looking = true
			look()
			looking = false
		}
		return start
	}
	n = newNode(t, o)
	n.newIntake().merge(inbound{message: all.whole, at: start})
	if looks < len(names)-1 {
		t.Errorf("looked %d times", looks)
	}
	if len(n.Snapshot().Reports) != len(names) || len(n.changes) != 1 || !n.Synced() {
		t.Errorf("after the merge: %d statuses, %d changes, synced %v", len(n.Snapshot().Reports), len(n.changes), n.Synced())
	}
}

// TestChangesWhenSyncedByTime: who waits for changes hears of it.
func TestChangesWhenSyncedByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testFleet(t)
		one := newStatuses(t, a, "eu")
		o := of(t, a, fleet.RoleDirector, "d1")
		zero := time.Now()
		o.Now = func() time.Time { return start.Add(time.Since(zero)) }
		n := newNode(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { n.newIntake().run(ctx) })
		(*delegate)(n).MergeRemoteState(certs(t, one.state), false)
		synctest.Wait()
		(*delegate)(n).NotifyMsg(one.direct[0])
		<-n.Changes()
		if n.Synced() {
			t.Error("synced by the first status")
		}
		<-n.Changes()
		if !n.Synced() || time.Since(zero) != syncGrace {
			t.Errorf("a change after %v, synced is %v", time.Since(zero), n.Synced())
		}
		cancel()
		wg.Wait()
	})
}
