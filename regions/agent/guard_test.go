package agent

import (
	"net/http"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
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
