package gossip_test

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// within bounds waiting on a loaded machine.
const within = 30 * time.Second

// live is a fleet on real sockets.
type live struct {
	t     *testing.T
	fleet *fleet.Authority
	seed  string
}

func newLive(t *testing.T) *live {
	t.Helper()
	a, err := fleet.NewAuthority("live", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &live{t: t, fleet: a}
}

func (l *live) options(member string) gossip.Options {
	l.t.Helper()
	name, _, agent := strings.Cut(member, "/")
	r := fleet.Request{Role: fleet.RoleDirector, Name: name}
	if agent {
		r.Role, r.Grant.Endpoints = fleet.RoleRegion, []regions.Endpoint{endpointOf(name)}
	}
	id, err := l.fleet.Issue(r, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
	o := gossip.DefaultOptions()
	o.Name, o.Identity, o.Roots = member, id, fleet.NewRoots(l.fleet)
	o.Bind = netip.MustParseAddrPort("127.0.0.1:0")
	o.Keys, o.Label = [][]byte{gossipKey}, "live"
	if l.seed != "" {
		o.Seeds = gossip.StaticSeeds(l.seed)
	}
	return o
}

// start runs a member until the test ends.
func (l *live) start(o gossip.Options) *gossip.Node {
	l.t.Helper()
	n, err := gossip.New(o)
	if err != nil {
		l.t.Fatal(err)
	}
	if l.seed == "" {
		l.seed = n.Addrs()[0].String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	l.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Error(err)
		}
	})
	return n
}

// publish renews an agent's status until the test ends.
func (l *live) publish(n *gossip.Node, member string) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := n.PublishStatus(statusOf(member, 1)); err != nil {
				l.t.Error(err)
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	l.t.Cleanup(func() { close(stop); <-ended })
}

func knows(n *gossip.Node, agent regions.AgentID, freshFor time.Duration) bool {
	for _, r := range n.Snapshot().Reports {
		if r.Status.Agent == agent {
			return r.Age(time.Now()) < freshFor
		}
	}
	return false
}

func TestLoopback(t *testing.T) {
	l := newLive(t)
	d1 := l.start(l.options("d1"))
	six := l.options("d2")
	six.Bind = netip.MustParseAddrPort("127.0.0.2:0")
	d2 := l.start(six)
	a := l.start(l.options("eu-west/a"))
	l.publish(a, "eu-west/a")
	regionstest.Eventually(t, within, func() bool {
		return knows(d1, "eu-west/a", time.Second) && knows(d2, "eu-west/a", time.Second) && len(d1.Members()) == 3
	}, "both directors have a fresh status")
	select {
	case <-d1.Changes():
	case <-time.After(within):
		t.Error("no change was told")
	}

	// Who has another key, no key or another label stays outside.
	strangers := map[string]*gossip.Node{}
	tries := map[string]*atomic.Int32{}
	for name, change := range map[string]func(*gossip.Options){
		"key":       func(o *gossip.Options) { o.Keys = [][]byte{bytes.Repeat([]byte{8}, 32)} },
		"plaintext": func(o *gossip.Options) { o.Keys, o.AllowPlaintext = nil, true },
		"label":     func(o *gossip.Options) { o.Label = "other" },
	} {
		o := l.options("d3")
		change(&o)
		count := &atomic.Int32{}
		o.Seeds = func() []string { count.Add(1); return []string{l.seed} }
		strangers[name], tries[name] = l.start(o), count
	}
	for name, outside := range strangers {
		regionstest.Eventually(t, within, func() bool { return tries[name].Load() >= 2 }, "a second attempt to join with another "+name)
		if n := len(outside.Members()); n != 1 {
			t.Errorf("with another %s a stranger sees %d members", name, n)
		}
	}
	if n := len(d1.Members()); n != 3 {
		t.Errorf("%d members after strangers knocked, want 3", n)
	}
}

// TestKillFreesThePort at once, and New names a port that is taken.
func TestKillFreesThePort(t *testing.T) {
	l := newLive(t)
	n := l.start(l.options("d1"))
	o := l.options("d2")
	o.Bind = n.Addrs()[0]
	if _, err := gossip.New(o); err == nil || !strings.Contains(err.Error(), o.Bind.String()) {
		t.Errorf("bound %s twice: %v", o.Bind, err)
	}
	n.Kill()
	again, err := gossip.New(o)
	if err != nil {
		t.Fatalf("after Kill: %v", err)
	}
	again.Kill() // never run
	if err := again.Run(context.Background()); err != nil {
		t.Errorf("run of a killed node: %v", err)
	}
}

func TestIPv6(t *testing.T) {
	probe, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	l := newLive(t)
	o := l.options("d1")
	o.Bind = netip.MustParseAddrPort("[::1]:0")
	d := l.start(o)
	o = l.options("eu-west/a")
	o.Bind = netip.MustParseAddrPort("[::1]:0")
	a := l.start(o)
	l.publish(a, "eu-west/a")
	regionstest.Eventually(t, within, func() bool { return knows(d, "eu-west/a", time.Second) }, "a status over IPv6")
}

// TestImpairedLink is slow, lossy, then cut, then well again.
func TestImpairedLink(t *testing.T) {
	l := newLive(t)
	d := l.start(l.options("d1"))
	var link atomic.Value
	link.Store(gossip.Impairment{Delay: 20 * time.Millisecond, Loss: 100})
	o := l.options("eu-west/a")
	o.Bind = netip.MustParseAddrPort("127.0.0.2:0")
	o.Impair = func(netip.Addr) gossip.Impairment { return link.Load().(gossip.Impairment) }
	a := l.start(o)
	l.publish(a, "eu-west/a")
	regionstest.Eventually(t, within, func() bool { return knows(d, "eu-west/a", time.Second) }, "a status over a lossy link")
	link.Store(gossip.Impairment{Cut: true})
	regionstest.Eventually(t, within, func() bool { return !knows(d, "eu-west/a", 3*time.Second) }, "the status ages over a cut link")
	link.Store(gossip.Impairment{})
	regionstest.Eventually(t, within, func() bool { return knows(d, "eu-west/a", time.Second) }, "a fresh status after the cut")
}

// TestSeedByName is looked up.
func TestSeedByName(t *testing.T) {
	l := newLive(t)
	d := l.start(l.options("d1"))
	o := l.options("d2")
	port := d.Addrs()[0].Port()
	o.Seeds = func() []string {
		return []string{"nonsense", netip.AddrPortFrom(netip.IPv4Unspecified(), port).String(), hostPort("localhost", port)}
	}
	d2 := l.start(o)
	regionstest.Eventually(t, within, func() bool { return len(d2.Members()) == 2 }, "a member found by name")
}

func hostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
