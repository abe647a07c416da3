package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/dnsserver"
	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// members is a fleet on loopback: one director, and agents that only gossip, in
// front of an endpoint that only answers probes.
type members struct {
	t     *testing.T
	fleet *fleet.Authority
	seeds []string // the directors' gossip addresses, the newest first
}

func newMembers(t *testing.T) *members {
	t.Helper()
	a, err := fleet.NewAuthority("test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &members{t: t, fleet: a}
}

func (m *members) gossip(name string, r fleet.Request) gossip.Options {
	m.t.Helper()
	id, err := m.fleet.Issue(r, time.Now())
	if err != nil {
		m.t.Fatal(err)
	}
	o := gossip.DefaultOptions()
	o.Name, o.Identity, o.Roots = name, id, fleet.NewRoots(m.fleet)
	o.Bind, o.Keys, o.Label = netip.MustParseAddrPort("127.0.0.1:0"), [][]byte{bytes.Repeat([]byte{7}, gossip.KeySize)}, "test"
	o.Seeds = gossip.StaticSeeds(slices.Clone(m.seeds)...)
	return o
}

// options are a director's, with every part on a free port.
func (m *members) options() Options {
	m.t.Helper()
	o := DefaultOptions()
	o.Zone.Name, o.Zone.Serial = "inference.test", 7
	o.Zone.NS = []dnsserver.NameServer{{Name: "ns1", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}}
	o.DNS, o.Redirect, o.Admin.Listen = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}, "127.0.0.1:0"
	o.RouteAddrs = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	o.Location, o.Scheme, o.Why = redirect.ByEndpoint, "http", true
	o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	o.Gossip = m.gossip("ns1", fleet.Request{Role: fleet.RoleDirector, Name: "ns1"})
	o.Registry = prometheus.NewRegistry()
	return o
}

// running is a director that runs.
type running struct {
	*Node
	t     *testing.T
	stop  context.CancelFunc
	ended chan error
	once  sync.Once
	err   error
}

func (m *members) director(o Options) *running {
	m.t.Helper()
	n, err := New(o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.seeds = slices.Insert(m.seeds, 0, n.gossip.Addrs()[0].String())
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Node: n, t: m.t, stop: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- n.Run(ctx) }()
	m.t.Cleanup(func() {
		cancel()
		if err := r.end(); err != nil {
			m.t.Errorf("the director ended with %v", err)
		}
	})
	return r
}

// end waits until the director has ended.
func (r *running) end() error {
	r.t.Helper()
	r.once.Do(func() {
		select {
		case r.err = <-r.ended:
		case <-time.After(patience):
			r.err = errors.New("it does not end")
		}
	})
	return r.err
}

// agent is a region that publishes its status until the test ends.
type agent struct {
	*gossip.Node
	endpoint regions.Endpoint

	mu     sync.Mutex
	status regions.Status
	rows   []*regions.SpillRow
}

func (m *members) agent(id regions.ID, at regions.Location, models ...regions.ModelStatus) *agent {
	m.t.Helper()
	region := reached(m.t, id, newDoor(m.t, http.StatusOK).URL)
	a := &agent{endpoint: region.Endpoints[0], status: regions.Status{Region: id, Location: at, Endpoints: region.Endpoints, Models: models}}
	o := m.gossip(string(id)+"/a", fleet.Request{
		Role: fleet.RoleRegion, Name: string(id), Grant: fleet.Grant{Endpoints: region.Endpoints},
	})
	o.OnRecord = func(r gossip.Received) {
		row, err := wire.DecodeSpillRow(r.Body.GetPayload())
		if err != nil || r.Body.GetKind() != wire.Kind_SPILL {
			m.t.Errorf("%s is sent a %v: %v", id, r.Body.GetKind(), err)
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.rows = append(a.rows, row)
	}
	var err error
	if a.Node, err = gossip.New(o); err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := a.Run(ctx); err != nil {
			m.t.Errorf("%s: %v", id, err)
		}
	})
	all.Go(func() { a.beat(ctx, m.t) })
	m.t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	return a
}

func (a *agent) beat(ctx context.Context, t *testing.T) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		a.publish(t, nil)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// publish renews the status, with a change if there is one.
func (a *agent) publish(t *testing.T, change func(*regions.Status)) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if change != nil {
		change(&a.status)
	}
	if err := a.PublishStatus(a.status); err != nil {
		t.Error(err)
	}
}

// spilledTo gives the targets of the newest row for a model.
func (a *agent) spilledTo(m regions.ModelName) (targets []regions.ID, heard bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := len(a.rows) - 1; i >= 0; i-- {
		if a.rows[i].Model != m {
			continue
		}
		for _, t := range a.rows[i].Targets {
			targets = append(targets, t.Region)
		}
		return targets, true
	}
	return nil, false
}

// ask asks the director's name server over UDP.
func (r *running) ask(q dnstest.Query) (dnstest.Reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	q.Server = r.Addrs()[0]
	return dnstest.Ask(ctx, q)
}

// addr is where the name server sends a client, empty if it does not say.
func (r *running) addr(name, subnet string) string {
	reply, err := r.ask(dnstest.Query{Name: name, Subnet: netip.MustParsePrefix(subnet)})
	if err != nil || len(reply.Addrs) == 0 {
		return ""
	}
	return reply.Addrs[0].String()
}

// get asks a URL and does not follow redirects.
func get(t *testing.T, url string, fields ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

func (r *running) adminURL() string    { return "http://" + r.private.Addr().String() }
func (r *running) redirectURL() string { return "http://" + r.listeners[0].Addr().String() }

// twoRegions is a director that has heard of Dublin and Virginia, both of which
// have llama, and Virginia mistral too.
func twoRegions(t *testing.T) (m *members, d *running, eu, us *agent) {
	t.Helper()
	m = newMembers(t)
	d = m.director(m.options())
	eu = m.agent("eu-west", dublin, serves("llama", 24, 2))
	us = m.agent("us-east", virginia, serves("llama", 24, 0), serves("mistral", 16, 0))
	regionstest.Eventually(t, patience, func() bool {
		table := d.Table()
		return d.Ready() == nil && len(table.Regions) == 2 && table.Services["mistral"] != nil && len(d.prober.all()) == 2
	}, "the director hears of both regions")
	return m, d, eu, us
}

// TestNewcomerDeniesNoName: a director with an empty disk, who is found by an agent
// that has just started and knows only itself, is silent or fails for the names of
// others until it has heard of them, but never denies one.
func TestNewcomerDeniesNoName(t *testing.T) {
	t.Parallel()
	m, _, _, _ := twoRegions(t)
	o := m.options()
	o.Gossip = m.gossip("ns2", fleet.Request{Role: fleet.RoleDirector, Name: "ns2"})
	o.Gossip.Seeds = nil // it waits to be found
	d := m.director(o)
	m.agent("ap-northeast", tokyo, serves("llama", 24, 2)) // finds it first, then the other
	answered := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // silence is an answer too
		defer cancel()
		reply, err := dnstest.Ask(ctx, dnstest.Query{Server: d.Addrs()[0], Name: "mistral.inference.test"})
		if err == nil && reply.Rcode == "NXDOMAIN" {
			t.Fatal("it denied a name that exists")
		}
		return err == nil && len(reply.Addrs) > 0
	}
	regionstest.Eventually(t, patience, answered, "the name is answered")
}

// TestDirectorFromTheFirstWordToTheLast follows one director: silent, then
// answering by DNS and redirect, moving clients when a region drains, telling
// regions where to spill, and gone.
func TestDirectorFromTheFirstWordToTheLast(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	d := m.director(m.options())
	if res, text := get(t, d.adminURL()+"/healthz"); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "no region") {
		t.Errorf("before the first status: %s %s", res.Status, text)
	}
	if res, _ := get(t, d.redirectURL()+"/v2/models/llama"); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("before the first status: a redirect of %s", res.Status)
	}
	eu := m.agent("eu-west", dublin, serves("llama", 24, 2))
	us := m.agent("us-east", virginia, serves("llama", 24, 0))
	regionstest.Eventually(t, patience, func() bool { return len(d.Table().Regions) == 2 && d.Ready() == nil }, "both regions are in the table")

	// Both regions are on one address: what tells them apart is the port, in TXT
	// and redirect.
	reply, err := d.ask(dnstest.Query{Name: "llama.inference.test", Subnet: netip.MustParsePrefix("81.2.69.0/24"), NSID: true})
	if err != nil || reply.Rcode != "NOERROR" || !reply.AA || len(reply.Addrs) != 1 || reply.TTL != 20*time.Second || !reply.HasSubnet || reply.Scope == 0 || reply.NSID != "ns1" {
		t.Errorf("llama: %+v, %v", reply, err)
	}
	why := func() string {
		reply, _ := d.ask(dnstest.Query{Name: "_why.llama.inference.test", Type: "TXT", Subnet: netip.MustParsePrefix("81.2.69.0/24")})
		return strings.Join(reply.TXT, " ")
	}
	if got := why(); !strings.Contains(got, "region=eu-west") {
		t.Errorf("_why says %q", got)
	}
	if got := d.addr("eu-west.region.inference.test", "8.8.8.0/24"); got != "127.0.0.1" {
		t.Errorf("eu-west is at %q", got)
	}
	if reply, err := d.ask(dnstest.Query{Name: "gpt.inference.test"}); err != nil || reply.Rcode != "NXDOMAIN" {
		t.Errorf("an unknown name: %+v, %v", reply, err)
	}
	to := func() string {
		res, _ := get(t, d.redirectURL()+"/v2/models/llama/generate?x=1", "X-Forwarded-For", "81.2.69.1")
		if res.StatusCode != http.StatusTemporaryRedirect || res.Header.Get("Rhumb-Decision") == "" {
			t.Errorf("redirected with %s %v", res.Status, res.Header)
		}
		return res.Header.Get("Location")
	}
	if got, want := to(), eu.endpoint.URL()+"/v2/models/llama/generate?x=1"; got != want {
		t.Errorf("redirected to %s, want %s", got, want)
	}
	for _, c := range []struct {
		at   *agent
		want regions.ID
	}{{eu, "us-east"}, {us, "eu-west"}} {
		regionstest.Eventually(t, patience, func() bool {
			targets, heard := c.at.spilledTo("llama")
			return heard && len(targets) == 1 && targets[0] == c.want
		}, "spill rows name the other region")
	}

	eu.publish(t, func(s *regions.Status) { s.Draining = true })
	regionstest.Eventually(t, patience, func() bool { return strings.Contains(why(), "region=us-east") }, "DNS sends Britain on")
	if got, want := to(), us.endpoint.URL()+"/v2/models/llama/generate?x=1"; got != want {
		t.Errorf("redirected to %s, want %s", got, want)
	}
	regionstest.Eventually(t, patience, func() bool {
		targets, heard := us.spilledTo("llama")
		return heard && len(targets) == 0
	}, "nobody spills to a region that drains")

	d.stop()
	if err := d.end(); err != nil {
		t.Errorf("ended with %v", err)
	}
	for _, address := range []string{d.Addrs()[0].String(), d.listeners[0].Addr().String(), d.private.Addr().String()} {
		if c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address); err == nil {
			_ = c.Close()
			t.Errorf("%s is still open", address)
		}
	}
	regionstest.Eventually(t, patience, func() bool { return stateOf(us.Node, "ns1") == gossip.MemberLeft }, "it said goodbye")
}

func stateOf(n *gossip.Node, name string) gossip.MemberState {
	for _, m := range n.Members() {
		if m.Name == name {
			return m.State
		}
	}
	return ""
}

// TestUnreadyIsSilent asks a director that has heard of nobody: no answer is
// better than a wrong one, since the resolver asks the next name server.
func TestUnreadyIsSilent(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	d := m.director(m.options())
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if reply, err := dnstest.Ask(ctx, dnstest.Query{Server: d.Addrs()[0], Name: "llama.inference.test"}); err == nil {
		t.Errorf("answered %+v", reply)
	}
	// What does not depend on regions is answered.
	if reply, err := d.ask(dnstest.Query{Name: "inference.test", Type: "SOA"}); err != nil || len(reply.Answer) != 1 {
		t.Errorf("SOA: %+v, %v", reply, err)
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	_, d, _, us := twoRegions(t)
	d.Kill()
	for _, address := range []string{d.Addrs()[0].String(), d.redirectURL()[len("http://"):], d.adminURL()[len("http://"):], d.gossip.Addrs()[0].String()} {
		if c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address); err == nil {
			_ = c.Close()
			t.Errorf("%s is still open", address)
		}
	}
	if err := d.end(); err != nil {
		t.Errorf("a killed director ends with %v", err)
	}
	d.Kill() // again is nothing
	if got := stateOf(us.Node, "ns1"); got == gossip.MemberLeft {
		t.Error("a killed director said goodbye")
	}
}

func TestKillBeforeRun(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	n, err := New(m.options())
	if err != nil {
		t.Fatal(err)
	}
	n.Kill()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(t.Context()) }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it runs")
	}
}

// TestNewRefuses checks that what is wrong is said, and that nothing stays
// bound then.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	busy := taken.Addr().String()
	free := func() netip.AddrPort {
		return netip.MustParseAddrPort(strings.TrimPrefix(nobody(t), "http://"))
	}
	for _, c := range []struct {
		what  string
		spoil func(*Options)
		want  string
	}{
		{"TTL too short", func(o *Options) { o.TTL = time.Second }, "between 5s and 60s"},
		{"TTL too long", func(o *Options) { o.TTL = time.Hour }, "between 5s and 60s"},
		{"no DNS", func(o *Options) { o.DNS = nil }, "no address for DNS"},
		{"admin for all", func(o *Options) { o.Admin.Listen = "0.0.0.0:8088" }, "loopback"},
		{"no gossip key", func(o *Options) { o.Gossip.Keys = nil }, "key"},
		{"no name server", func(o *Options) { o.Zone.NS = nil }, "name server"},
		{"a static record where regions are", func(o *Options) { o.Zone.Static = []string{"x.region IN A 192.0.2.1"} }, "reserved"},
		{"bad scheme", func(o *Options) { o.Scheme = "gopher" }, "gopher"},
		{"DNS address taken", func(o *Options) { o.DNS = []string{busy} }, busy},
		{"redirect address taken", func(o *Options) { o.Redirect = []string{busy} }, busy},
		{"admin address taken", func(o *Options) { o.Admin.Listen = busy }, busy},
	} {
		t.Run(c.what, func(t *testing.T) {
			o := m.options()
			o.Gossip.Bind = free()
			c.spoil(&o)
			n, err := New(o)
			if err == nil {
				n.Kill()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "director: ") {
				t.Errorf("error %q, want something of %q", err, c.want)
			}
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", o.Gossip.Bind.String())
			if err != nil {
				t.Fatalf("gossip stays bound: %v", err)
			}
			_ = l.Close()
		})
	}
}
