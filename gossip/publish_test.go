package gossip

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// newNode makes a node that does not run.
func newNode(t *testing.T, o Options) *Node {
	t.Helper()
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Kill)
	return n
}

// TestManySpillRows: a director has as many as regions times models, which is more
// than one certificate's share of a store.
func TestManySpillRows(t *testing.T) {
	n := newNode(t, testOptions(t))
	for round := range 2 {
		for i := range 1000 {
			r := Record{Kind: wire.Kind_SPILL, Key: fmt.Sprintf("region-%d/model", i), Payload: []byte("row")}
			if err := n.Publish(r); err != nil {
				t.Fatalf("round %d, row %d: %v", round, i, err)
			}
		}
	}
	if _, version := n.own.order(); version != 2000 || len(n.store.slots) != 0 || len(n.own.records) != 0 {
		t.Errorf("version %d, %d rows in the store, %d for push/pull", version, len(n.store.slots), len(n.own.records))
	}
	if err := n.Publish(Record{Kind: wire.Kind_RECORD, Key: "k"}); err != nil || len(n.store.slots) != 1 {
		t.Errorf("another record after them: %v, %d kept", err, len(n.store.slots))
	}
}

// TestPodsAreKeptByNobody: neither for push/pull nor to be said again.
func TestPodsAreKeptByNobody(t *testing.T) {
	o := testOptions(t)
	a := testFleet(t)
	o.Name, o.Identity, o.Roots = "eu-west/a", testIdentity(t, a, fleet.RoleRegion, "eu-west"), fleet.NewRoots(a)
	n := newNode(t, o)
	payload, err := wire.EncodePods("eu-west", nil)
	if err != nil {
		t.Fatal(err)
	}
	to := Audience{Role: RoleAgent, Region: "eu-west"}
	for i, member := range []string{"d1", "us-east/a", "eu-west/b"} {
		meta := &wire.Meta{Protocol: 1, Role: wire.Role_AGENT}
		if meta.Region, _, _ = strings.Cut(member, "/"); i == 0 {
			meta.Role, meta.Region = wire.Role_DIRECTOR, ""
		}
		b, err := wire.EncodeMeta(meta)
		if err != nil {
			t.Fatal(err)
		}
		n.members.NotifyJoin(&memberlist.Node{Name: member, Addr: net.IPv4(10, 0, 0, 9), Meta: b})
		if got := n.Heeds(to); got != (i == 2) {
			t.Errorf("with %s: somebody heeds it: %v", member, got)
		}
	}
	if err := n.Publish(Record{Kind: wire.Kind_PODS, Payload: payload, Audience: to}); err != nil {
		t.Fatal(err)
	}
	if len(n.store.slots) != 0 || len(n.own.records) != 0 {
		t.Errorf("%d in the store, %d for push/pull", len(n.store.slots), len(n.own.records))
	}
}

// TestOutrank: whatever own record is met that receivers accept, the next one goes
// above it, and receivers accept that too.
func TestOutrank(t *testing.T) {
	for name, c := range map[string]struct{ epoch, version, wantEpoch, wantVersion uint64 }{
		"before":     {1, 0, 1, 1},
		"same epoch": {1, 9, 2, 1},
		"higher":     {7, 3, 8, 1},
		"last epoch": {wire.MaxEpoch - 1, 5, wire.MaxEpoch - 1, 6},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t)
			saved := &savedEpoch{}
			o.Epochs = saved
			n := newNode(t, o)
			n.outrank(c.epoch, c.version)
			if err := n.Publish(Record{Kind: wire.Kind_RECORD, Key: "k"}); err != nil {
				t.Fatal(err)
			}
			env, err := wire.DecodeEnvelope(n.store.raw(slot{role: fleet.RoleDirector, kind: wire.Kind_RECORD, origin: "d1", key: "k"}))
			if err != nil {
				t.Fatal(err)
			}
			body, err := wire.DecodeBody(env.GetBody())
			if err != nil || body.GetEpoch() != c.wantEpoch || body.GetVersion() != c.wantVersion || saved.last != c.wantEpoch {
				t.Errorf("body %v, error %v, saved epoch %d", body, err, saved.last)
			}
			// After a restart there is an epoch to be had as well.
			o.Registry, o.Transport = nil, testOptions(t).Transport
			if epoch, _ := newNode(t, o).own.order(); epoch != min(c.wantEpoch+1, wire.MaxEpoch-1) {
				t.Errorf("epoch %d after a restart", epoch)
			}
		})
	}
}

type savedEpoch struct{ last uint64 }

func (e *savedEpoch) Load() (uint64, error)  { return e.last, nil }
func (e *savedEpoch) Save(last uint64) error { e.last = last; return nil }

// TestClamp: under whatever overload an agent says what receivers accept, and logs
// each kind of cut once.
func TestClamp(t *testing.T) {
	for name, c := range map[string]struct {
		maxSlots int
		slots    regions.MilliSlots
	}{
		"granted":  {8, regions.Slots(8)},
		"no limit": {0, wire.MaxSlots},
		"huge":     {math.MaxInt32, wire.MaxSlots},
	} {
		t.Run(name, func(t *testing.T) {
			a := testFleet(t)
			grant := testIdentity(t, a, fleet.RoleRegion, "eu-west").Cert.Grant
			grant.MaxSlots = c.maxSlots
			id, err := a.Issue(fleet.Request{Role: fleet.RoleRegion, Name: "eu-west", Grant: grant, Lifetime: time.Hour}, start)
			if err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			o := testOptions(t)
			o.Name, o.Identity, o.Roots, o.Logger = "eu-west/a", id, fleet.NewRoots(a), slog.New(slog.NewTextHandler(&log, nil))
			n := newNode(t, o)
			over := regions.ModelStatus{
				Slots: math.MaxInt64, InFlight: math.MaxUint32, Queued: math.MaxUint32, Wait: math.MaxInt64, TTFT: regions.MicrosOf(25 * time.Hour),
			}
			s := regions.Status{Region: "eu-west", Endpoints: grant.Endpoints, Models: []regions.ModelStatus{over, over, {Name: "c", InFlight: 3}}}
			s.Models[0].Name, s.Models[1].Name = "a", "b"
			for range 3 {
				if err := n.PublishStatus(s); err != nil {
					t.Fatal(err)
				}
			}
			if s.Models[0].Slots != math.MaxInt64 {
				t.Error("the caller's status was changed")
			}
			n.beatOnce()
			got := n.Snapshot().Reports[0].Status
			if err := grant.AllowsStatus(got); err != nil {
				t.Error(err)
			}
			want := regions.ModelStatus{
				Name: "b", Slots: c.slots, InFlight: wire.MaxRequests, Queued: wire.MaxRequests,
				Wait: regions.MicrosOf(time.Hour), TTFT: regions.MicrosOf(time.Hour),
			}
			if got.Models[1] != want || got.Models[2].InFlight != 3 {
				t.Errorf("published %+v\nwant      %+v", got.Models[1], want)
			}
			if lines := strings.Count(log.String(), "figure="); lines != 5 {
				t.Errorf("%d lines, want one for each of 5 kinds:\n%s", lines, log.String())
			}
		})
	}
}
