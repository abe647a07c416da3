package gossip_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/gossiptest"
	"github.com/rhumb-lb/rhumb/regions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(gossiptest.Patient{M: m}) }

var (
	gossipKey = bytes.Repeat([]byte{7}, gossip.KeySize)
	seedAddr  = netip.MustParseAddrPort("10.0.0.1:7946")
)

// world is a fleet on a network in memory, within a synctest bubble. The first
// member is everybody's seed.
type world struct {
	t     *testing.T
	net   *gossiptest.Network
	fleet *fleet.Authority
	roots *fleet.Roots
	ids   map[string]*fleet.Identity
	procs map[string]*proc
	addrs map[string]netip.AddrPort
	wg    sync.WaitGroup
}

// proc is one running member.
type proc struct {
	*gossip.Node
	registry *prometheus.Registry
	place    *gossiptest.Transport
	draining atomic.Bool // what an agent says from its next status on
	stop     context.CancelFunc
	ended    chan struct{}

	mu       sync.Mutex
	received []gossip.Received
}

// inWorld runs a test in virtual time, ends all members after it, and lets the
// rest of memberlist run out.
func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, net: gossiptest.NewNetwork(1), ids: map[string]*fleet.Identity{},
			procs: map[string]*proc{}, addrs: map[string]netip.AddrPort{},
		}
		var err error
		if w.fleet, err = fleet.NewAuthority("test", time.Now(), 365*24*time.Hour); err != nil {
			t.Fatal(err)
		}
		w.roots = fleet.NewRoots(w.fleet)
		defer func() {
			for _, p := range w.procs {
				p.stop()
			}
			w.wg.Wait()
			advance(time.Minute)
		}()
		f(w)
	})
}

// advance lets virtual time pass.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// until advances in small steps until cond holds, and gives the time it took.
func (w *world) until(within time.Duration, what string, cond func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for !cond() {
		if time.Since(start) > within {
			w.t.Fatalf("not within %v: %s", within, what)
		}
		advance(50 * time.Millisecond)
	}
	return time.Since(start)
}

// identity issues one certificate per subject: a director for names without a
// slash, else the region before it.
func (w *world) identity(member string) *fleet.Identity {
	w.t.Helper()
	name, _, agent := strings.Cut(member, "/")
	if id := w.ids[name]; id != nil {
		return id
	}
	r := fleet.Request{Role: fleet.RoleDirector, Name: name}
	if agent {
		r.Role, r.Grant.Endpoints, r.Grant.MaxSlots = fleet.RoleRegion, []regions.Endpoint{endpointOf(name)}, 10_000
	}
	id, err := w.fleet.Issue(r, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	w.ids[name] = id
	return id
}

func endpointOf(region string) regions.Endpoint {
	return regions.Endpoint{Scheme: "https", Host: region + ".example.com", Port: 443, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
}

// add starts a member; change may alter its options.
func (w *world) add(member string, change func(*gossip.Options)) *proc {
	w.t.Helper()
	addr, again := w.addrs[member]
	if !again {
		addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + len(w.addrs))}), 7946)
		w.addrs[member] = addr
	}
	p := &proc{registry: prometheus.NewRegistry(), ended: make(chan struct{})}
	o := gossip.DefaultOptions()
	o.Name, o.Identity, o.Roots = member, w.identity(member), w.roots
	o.Keys, o.Label = [][]byte{gossipKey}, "test"
	p.place = w.net.Transport(addr)
	o.Transport = p.place
	o.Seeds = gossip.StaticSeeds(seedAddr.String())
	o.Registry = p.registry
	o.OnRecord = func(r gossip.Received) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.received = append(p.received, r)
	}
	if os.Getenv("GOSSIP_LOG") != "" {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if change != nil {
		change(&o)
	}
	node, err := gossip.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	p.Node = node
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	w.procs[member] = p
	w.wg.Go(func() {
		defer close(p.ended)
		if err := node.Run(ctx); err != nil {
			w.t.Errorf("run %s: %v", member, err)
		}
	})
	return p
}

// agent starts an agent that renews its status until it ends.
func (w *world) agent(member string) *proc {
	w.t.Helper()
	p := w.add(member, nil)
	w.wg.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for load := uint32(0); ; load++ {
			s := statusOf(member, load)
			s.Draining = p.draining.Load()
			if err := p.PublishStatus(s); err != nil {
				w.t.Errorf("publish status of %s: %v", member, err)
			}
			select {
			case <-p.ended:
				return
			case <-tick.C:
			}
		}
	})
	return p
}

// statusOf is a small status; load is its in-flight.
func statusOf(member string, load uint32) regions.Status {
	region, _, _ := strings.Cut(member, "/")
	return regions.Status{
		Region: regions.ID(region), Endpoints: []regions.Endpoint{endpointOf(region)},
		Models: []regions.ModelStatus{{Name: "llama", Slots: regions.Slots(8), SlotsSource: regions.SlotsConfigured, InFlight: load}},
	}
}

// kill ends a member as a crash does.
func (w *world) kill(member string) {
	w.t.Helper()
	p := w.procs[member]
	p.Kill()
	<-p.ended
	delete(w.procs, member)
	p.stop()
}

// leave ends a member as SIGTERM does.
func (w *world) leave(member string) {
	w.t.Helper()
	p := w.procs[member]
	p.stop()
	<-p.ended
	delete(w.procs, member)
}

// ages are the ages of all statuses that a member knows.
func (p *proc) ages() map[regions.AgentID]time.Duration {
	out := map[regions.AgentID]time.Duration{}
	now := time.Now()
	for _, r := range p.Snapshot().Reports {
		out[r.Status.Agent] = r.Age(now)
	}
	return out
}

// fresh reports whether the statuses of exactly these agents are known, none
// older than the limit.
func (p *proc) fresh(limit time.Duration, agents ...regions.AgentID) bool {
	ages := p.ages()
	slices.Sort(agents)
	if !slices.Equal(slices.Sorted(maps.Keys(ages)), agents) {
		return false
	}
	for _, age := range ages {
		if age > limit {
			return false
		}
	}
	return true
}

func (p *proc) alive() int {
	alive := 0
	for _, m := range p.Members() {
		if m.State == gossip.MemberAlive {
			alive++
		}
	}
	return alive
}

func (p *proc) state(member string) gossip.MemberState {
	for _, m := range p.Members() {
		if m.Name == member {
			return m.State
		}
	}
	return "unknown"
}

func (p *proc) report(agent regions.AgentID) *regions.Status {
	for _, r := range p.Snapshot().Reports {
		if r.Status.Agent == agent {
			return r.Status
		}
	}
	return nil
}

func (p *proc) records() []gossip.Received {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.received)
}

// metric is the sum of a metric's samples whose labels hold all given pairs
// ("reason=forged").
func (p *proc) metric(name string, pairs ...string) float64 {
	families, err := p.registry.Gather()
	if err != nil {
		panic(err)
	}
	total := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			have := map[string]bool{}
			for _, l := range m.GetLabel() {
				have[fmt.Sprintf("%s=%s", l.GetName(), l.GetValue())] = true
			}
			all := true
			for _, pair := range pairs {
				all = all && have[pair]
			}
			if all {
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return total
}
