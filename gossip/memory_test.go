package gossip

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
)

// heardAll is a director that was told all of the statuses a while ago.
func heardAll(t *testing.T, a *fleet.Authority, all statuses) *Node {
	t.Helper()
	o := of(t, a, fleet.RoleDirector, "d1")
	o.Now = func() time.Time { return start }
	i := newNode(t, o).newIntake()
	i.merge(inbound{message: all.state, at: start})
	return i.Node
}

// TestMemory restores what a director knew in another process of it.
func TestMemory(t *testing.T) {
	a := testFleet(t)
	all := newStatuses(t, a, "eu", "sa", "us")
	before := heardAll(t, a, all)
	memory := before.Memory()
	if len(memory.Certs) != 3 || len(memory.Records) != 3 || len(memory.Marks) != 3 {
		t.Fatalf("%d certificates, %d records, %d marks; want 3 of each", len(memory.Certs), len(memory.Records), len(memory.Marks))
	}

	o := of(t, a, fleet.RoleDirector, "d1")
	o.Memory, o.Now = memory, func() time.Time { return start.Add(time.Hour) }
	after := newNode(t, o)
	if !after.Synced() {
		t.Error("a director that remembers the fleet does not know that")
	}
	if got, want := after.Snapshot().Regions(), before.Snapshot().Regions(); !reflect.DeepEqual(got, want) {
		t.Errorf("remembered\n%+v\nof\n%+v", got, want)
	}
	if got := after.Memory(); !reflect.DeepEqual(got, memory) {
		t.Errorf("the memory of the memory is another:\n%+v\n%+v", got, memory)
	}

	// What was said before is a replay to the new process too.
	i := after.newIntake()
	i.message(inbound{message: all.direct[0], at: i.now()})
	if heard := after.Snapshot().Reports[0].Heard; !heard.Equal(start) {
		t.Errorf("a replay made a status as young as %v", heard)
	}
}

// TestMemoryIsNotBelieved: the disk may be anybody's.
func TestMemoryIsNotBelieved(t *testing.T) {
	a := testFleet(t)
	honest := heardAll(t, a, newStatuses(t, a, "eu")).Memory()
	other := testFleet(t)
	strangers := heardAll(t, other, newStatuses(t, other, "eu")).Memory()
	for name, tt := range map[string]struct {
		change   func(m *Memory)
		after    time.Duration
		statuses int
		age      time.Duration
	}{
		"as it was":       {func(*Memory) {}, time.Minute, 1, time.Minute},
		"forged":          {func(m *Memory) { m.Records[0].Envelope[40] ^= 1 }, time.Minute, 0, 0},
		"cut":             {func(m *Memory) { m.Records[0].Envelope = m.Records[0].Envelope[:20] }, time.Minute, 0, 0},
		"no certificate":  {func(m *Memory) { m.Certs = nil }, time.Minute, 0, 0},
		"another fleet's": {func(m *Memory) { *m = strangers }, time.Minute, 0, 0},
		"from tomorrow":   {func(m *Memory) { m.Records[0].Heard = start.Add(24 * time.Hour) }, time.Minute, 1, 0},
		"older than 7 days": {
			func(m *Memory) { m.Records[0].Heard = start.Add(-8 * 24 * time.Hour) }, time.Minute, 0, 0,
		},
		"certificate expired": {func(*Memory) {}, 100 * 365 * 24 * time.Hour, 0, 0},
		"empty":               {func(m *Memory) { *m = Memory{} }, 0, 0, 0},
		"nonsense": {func(m *Memory) {
			m.Marks = append(m.Marks, Mark{}, Mark{Role: "x", Kind: -1, Origin: "y", Epoch: 1 << 63, NotAfter: start.Add(time.Hour)})
		}, time.Minute, 1, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			m := Memory{Certs: slices.Clone(honest.Certs), Marks: slices.Clone(honest.Marks)}
			for _, r := range honest.Records {
				m.Records = append(m.Records, Remembered{slices.Clone(r.Envelope), r.Heard})
			}
			tt.change(&m)
			o := of(t, a, fleet.RoleDirector, "d1")
			now := start.Add(min(tt.after, 24*time.Hour))
			o.Now, o.Memory = func() time.Time { return now }, m
			if tt.after > 24*time.Hour {
				// The director's own certificate is as old: only what restore does is looked at.
				o.Memory = Memory{}
				n := newNode(t, o)
				now = start.Add(tt.after)
				if n.restore(m); n.Synced() {
					t.Error("a status of an expired certificate was restored")
				}
				return
			}
			n := newNode(t, o)
			reports := n.Snapshot().Reports
			if len(reports) != tt.statuses || n.Synced() != (tt.statuses > 0) {
				t.Fatalf("%d statuses, synced %v; want %d", len(reports), n.Synced(), tt.statuses)
			}
			if tt.statuses > 0 && now.Sub(reports[0].Heard) != tt.age {
				t.Errorf("aged %v, want %v", now.Sub(reports[0].Heard), tt.age)
			}
		})
	}
}
