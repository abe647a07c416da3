package agent

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// TestConnectionsAreBounded: the agent's limits of connections are in force, change
// by a reload, and spare who is a trusted proxy.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	o.Connections = guard.Limits{PerClient: 1}
	s := m.start(o, pods)
	s.slow(true)
	x, err := s.open("llama", "long", 100)
	if err != nil || !x.next() {
		t.Fatalf("no stream: %v", err)
	}
	health := func() error {
		_, _, err := s.do(http.MethodGet, s.url("/v2/health/live"), "")
		return err
	}
	if err := health(); err == nil {
		t.Error("a client has two connections, of one allowed")
	}
	o.Connections.PerClient = 5
	if err := s.Reload(o); err != nil {
		t.Fatal(err)
	}
	if err := health(); err != nil {
		t.Errorf("after a reload with room for more: %v", err)
	}
	s.slow(false)
	if _, err := x.rest(); err != nil {
		t.Errorf("the stream ended with %v", err)
	}
}

// TestStoppingAgentAsksConnectionsToGo: while it lingers, a stopping agent's clients
// hear that they had better connect elsewhere, each at a moment of its own.
func TestStoppingAgentAsksConnectionsToGo(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	o.Linger = 3 * time.Second
	s := m.start(o, pods)
	var clients []*http.Client // so many that some are asked early enough
	for range 8 {
		way := &http.Transport{}
		t.Cleanup(way.CloseIdleConnections)
		clients = append(clients, &http.Client{Transport: way})
	}
	asked := func() (n int) {
		for _, s.client = range clients {
			if res, _, err := s.do(http.MethodGet, s.url("/v2/health/live"), ""); err == nil && res.Close {
				n++
			}
		}
		return n
	}
	if n := asked(); n != 0 {
		t.Fatalf("%d were asked to go while nothing is the matter", n)
	}
	s.stop()
	regionstest.Eventually(t, patience, func() bool { return asked() > 0 }, "somebody is asked to go")
	if refused(s.Addrs()[0].String()) {
		t.Error("new connections are refused already")
	}
}

// shifted is a clock that goes on from the system's, and ahead of it.
type shifted struct{ atomic.Int64 } // ns

func (c *shifted) now() time.Time { return time.Now().Add(time.Duration(c.Load())) }

// visitors are clients with a connection each, or two over HTTP/1.1 while a stream has
// the first.
type visitors struct {
	s    *site
	all  []*http.Client
	dial atomic.Int64 // how often they connected
}

// visitors makes clients of both protocols.
func (s *site) visitors(n int) *visitors {
	v := &visitors{s: s}
	for i := range n {
		way := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			v.dial.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}
		way.Protocols.SetHTTP1(i%2 == 0)
		way.Protocols.SetUnencryptedHTTP2(i%2 == 1)
		s.t.Cleanup(way.CloseIdleConnections)
		v.all = append(v.all, &http.Client{Transport: way})
	}
	return v
}

// ask has each ask a model twice and tells how many connected anew for that.
func (v *visitors) ask(model string) int64 {
	v.s.t.Helper()
	before := v.dial.Load()
	for range 2 { // the first answer may be a connection's last
		for _, c := range v.all {
			req, err := http.NewRequestWithContext(v.s.t.Context(), http.MethodGet, v.s.url("/v2/models/"+model+"/ready"), http.NoBody)
			if err != nil {
				v.s.t.Fatal(err)
			}
			res, err := c.Do(req)
			if err != nil {
				v.s.t.Fatalf("a client that was asked to go lost a request: %v", err)
			}
			if _ = res.Body.Close(); res.StatusCode != http.StatusOK {
				v.s.t.Errorf("%s is %s", model, res.Status)
			}
		}
	}
	return v.dial.Load() - before
}

// streams has each client begin a stream of many tokens.
func (v *visitors) streams(model string, tokens int) (all []*stream) {
	v.s.t.Helper()
	own := v.s.client
	defer func() { v.s.client = own }()
	for _, c := range v.all {
		v.s.client = c
		x, err := v.s.open(model, "long", tokens)
		if err != nil || !x.next() {
			v.s.t.Fatalf("no stream: %v", err)
		}
		all = append(all, x)
	}
	return all
}

// TestRowsAskConnectionsToGo: by a director's row the clients of its model connect
// anew, and nobody else does: not those of another model, nor another region's gateway.
// A stream that runs goes on, and a row that comes again and again asks nobody twice.
func TestRowsAskConnectionsToGo(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	clock, accepted := new(shifted), new(atomic.Int64)
	us, eu := regions.ID("us-east"), regions.ID("eu-west")
	o, pods := m.options(eu, "llama", "mistral")
	o.Now = clock.now
	listen := o.ListenStream
	o.ListenStream = func(ctx context.Context, network, address string) (net.Listener, error) {
		l, err := listen(ctx, network, address)
		return countedListener{l, accepted}, err
	}
	here := m.start(o, pods)
	o, pods = m.options(us, "phi")
	o.Now = clock.now
	peer := m.start(o, pods)
	there := rowFrom(us, "llama", here.target(8))
	there.Table = 1
	m.sends(peer, there)
	spill := func() {
		t.Helper()
		res, text, err := peer.do(http.MethodPost, peer.url("/v2/models/llama/generate"), question("q", 3))
		if err != nil || res.StatusCode != http.StatusOK || res.Header.Get(proxy.RegionHeader) != string(eu) {
			t.Fatalf("%v %v %s", err, res, text)
		}
	}
	llama, mistral := here.visitors(8), here.visitors(8)
	llama.ask("llama")
	mistral.ask("mistral")
	spill()
	here.slow(true)
	running := llama.streams("llama", 100)
	llama.ask("llama") // over HTTP/1.1 by another connection
	connected := accepted.Load()

	row := rowFrom(eu, "llama")
	row.Leave = regions.Whole
	for row.Table = 1; row.Table <= 3; row.Table++ {
		m.sends(here, row)
	}
	if n := llama.ask("llama"); n == 8 { // each at a moment of its own, some at once
		t.Error("all clients were asked to go at once")
	}
	clock.Add(int64(leaveOver))
	llama.ask("llama")
	if n := mistral.ask("mistral"); n != 0 {
		t.Errorf("%d clients of another model were asked to go", n)
	}
	// Those of HTTP/1.1 whose streams run have a second one, which alone had an answer.
	if n := llama.dial.Load(); n != 8+4+8 {
		t.Errorf("8 clients have connected %d times, want each once more", n)
	}
	before := accepted.Load()
	for range 3 {
		spill()
	}
	if n := accepted.Load(); n != before || before != connected+8 {
		t.Errorf("%d connections, then %d, then %d: the other region's gateway was asked to go", connected, before, n)
	}
	row.Leave, row.Table = 0, 9
	m.sends(here, row)
	clock.Add(int64(leaveOver))
	if n := llama.ask("llama"); n != 0 {
		t.Errorf("%d clients were asked to go after the row that said so", n)
	}
	clock.Add(int64(7 * time.Minute))
	there.Table = 2 // the first is old by now
	m.sends(peer, there)
	before = accepted.Load()
	for range 3 {
		spill()
	}
	if n := accepted.Load(); n != before {
		t.Error("the other region's gateway was asked to go for its connection's age")
	}
	here.slow(false)
	for _, x := range running {
		if events, err := x.rest(); err != nil || events != 99 {
			t.Errorf("a stream that ran had %d more events, %v", events, err)
		}
	}
}

// countedListener counts what it accepts.
type countedListener struct {
	net.Listener
	n *atomic.Int64
}

func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

// TestConnectionsGrowOld: after six minutes every connection was given up by its
// client, without a request lost, before four none, and a stream that runs goes on.
func TestConnectionsGrowOld(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	clock := new(shifted)
	o, pods := m.options("eu-west", "llama")
	o.Now = clock.now
	s := m.start(o, pods)
	clients := s.visitors(8)
	clients.ask("llama")
	s.slow(true)
	running := clients.streams("llama", 100)
	clients.ask("llama")
	have := clients.dial.Load()
	clock.Add(int64(4*time.Minute - time.Minute/2)) // the test itself takes a while
	if n := clients.ask("llama"); n != 0 {
		t.Errorf("%d connections were old before four minutes", n)
	}
	clock.Add(int64(3 * time.Minute))
	if clients.ask("llama"); clients.dial.Load() != have+8 {
		t.Errorf("%d of 8 connections were old after six minutes", clients.dial.Load()-have)
	}
	clock.Add(int64(4 * time.Minute)) // ten in all
	s.slow(false)
	for _, x := range running {
		if events, err := x.rest(); err != nil || events != 99 {
			t.Errorf("a stream of ten minutes had %d more events, %v", events, err)
		}
	}
}
