package node

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/director/geo"
	"github.com/rhumb-lb/rhumb/gossip/gossiptest"
	"github.com/rhumb-lb/rhumb/regions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(gossiptest.Patient{M: m}) }

// patience bounds waiting on a loaded machine.
const patience = 20 * time.Second

// epoch is when the worlds of these tests begin.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Where regions of these tests are.
var (
	virginia = regions.Location{Lat: 38_940_000, Lon: -77_450_000}
	dublin   = regions.Location{Lat: 53_350_000, Lon: -6_260_000}
	tokyo    = regions.Location{Lat: 35_680_000, Lon: 139_690_000}
)

// rig is a mind in virtual time, with what it hears in the test's hands.
type rig struct {
	*mind
	tb  testing.TB
	now time.Time

	mu      sync.Mutex // guards what follows where the mind runs by itself
	reports map[regions.ID]regions.Report
	probed  map[regions.ID]director.Probe
	changes []Change
}

func newRig(tb testing.TB, hosts ...Host) *rig {
	tb.Helper()
	earth, err := geo.Default()
	if err != nil {
		tb.Fatal(err)
	}
	r := &rig{tb: tb, now: epoch, reports: map[regions.ID]regions.Report{}, probed: map[regions.ID]director.Probe{}}
	r.mind = &mind{
		snapshot: func() regions.Snapshot {
			r.mu.Lock()
			defer r.mu.Unlock()
			var all []regions.Report
			for _, report := range r.reports {
				all = append(all, report)
			}
			return regions.NewSnapshot(all)
		},
		heard: func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.reports) > 0
		},
		probes: func() []director.Probe {
			r.mu.Lock()
			defer r.mu.Unlock()
			var all []director.Probe
			for _, p := range r.probed {
				all = append(all, p)
			}
			return all
		},
		demand: newDemand(), cells: earth.Cells(),
		set: &settings{geo: earth, ttl: 20 * time.Second, route: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, why: true},
		log: slog.New(slog.DiscardHandler), metrics: newMetrics(prometheus.NewRegistry()),
		labels: newLabels(hosts, nil), onPlan: func(c Change) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.changes = append(r.changes, c)
		},
	}
	return r
}

// three is a world of three regions, in which Asia is more than its region can
// take, so that some countries are split.
func three(tb testing.TB, hosts ...Host) *rig {
	tb.Helper()
	return newRig(tb, hosts...).
		region("us-east", virginia, serves("llama", 24, 10), serves("mistral", 24, 0)).
		region("eu-west", dublin, serves("llama", 24, 10), serves("mistral", 24, 0)).
		region("ap-northeast", tokyo, serves("llama", 24, 36))
}

// serves is a pool of ready pods with 8 slots each and some load.
func serves(m regions.ModelName, slots int, load uint32) regions.ModelStatus {
	return regions.ModelStatus{
		Name: m, Slots: regions.Slots(slots), SlotsSource: regions.SlotsConfigured,
		Pods: regions.PodCounts{Ready: uint16(slots / 8)}, InFlight: min(load, uint32(slots)), Queued: load - min(load, uint32(slots)),
	}
}

// region adds a region, heard of just now, that is reached at 192.0.2.N.
func (r *rig) region(id regions.ID, at regions.Location, models ...regions.ModelStatus) *rig {
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(len(r.reports) + 1)}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(len(r.reports) + 1)})}
	r.reports[id] = regions.Report{Heard: r.now, Status: &regions.Status{
		Agent: regions.AgentID(id + "/a"), Region: id, Epoch: 1, Version: 1, Location: at, Models: models,
		Endpoints: []regions.Endpoint{{Scheme: "https", Host: string(id) + ".example.com", Port: 443, Addrs: addrs}},
	}}
	return r
}

// say has a region publish a status that differs from the last one.
func (r *rig) say(id regions.ID, change func(*regions.Status)) {
	r.tb.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.reports[id]
	if !ok {
		r.tb.Fatalf("no region %s", id)
	}
	s := *old.Status
	s.Models, s.Endpoints = slices.Clone(s.Models), slices.Clone(s.Endpoints)
	s.Version++
	if change != nil {
		change(&s)
	}
	r.reports[id] = regions.Report{Status: &s, Heard: r.now}
}

// everybody has all regions publish a change.
func (r *rig) everybody(change func(*regions.Status)) {
	for id := range r.reports {
		r.say(id, change)
	}
}

// probe sets what the probes of a region found, in a row.
func (r *rig) probe(id regions.ID, failed, answered int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probed[id] = director.Probe{Region: id, Failed: failed, Answered: answered, Ever: failed+answered > 0}
}

// after lets time pass and steps the mind.
func (r *rig) after(d time.Duration) {
	r.now = r.now.Add(d)
	r.step(r.now)
}

// answers is an answerer of the rig's world, of a director that started at the
// epoch.
func (r *rig) answers() *answerer {
	if r.world.Load() == nil {
		r.step(r.now)
	}
	return &answerer{
		zone: canonical("Inference.test"), started: epoch, now: func() time.Time { return r.now },
		world: &r.world, decided: r.demand.decided, name: "ns1",
	}
}

// from is the client of an address.
func from(addr string) netip.Prefix {
	a := netip.MustParseAddr(addr)
	return netip.PrefixFrom(a, a.BitLen())
}
