package agent

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// stateOf is what the director's membership says of a member.
func (m *members) stateOf(name string) gossip.MemberState {
	for _, x := range m.director.Members() {
		if x.Name == name {
			return x.State
		}
	}
	return ""
}

// slow makes the pods of a site take their time: 200 ms for a token.
func (s *site) slow(on bool) {
	factor := 1
	if on {
		factor = 40
	}
	for _, p := range s.pods {
		p.Slow(factor)
	}
}

// TestGracefulEnd ends an agent with a stream in flight: it says that it drains,
// serves who comes late, refuses after its linger, and leaves when the stream
// has ended by itself.
func TestGracefulEnd(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	o.Linger = 2 * time.Second
	s := m.start(o, pods)
	m.sees("eu-west", "it serves", func(r *regions.Region) bool { return !r.Draining })
	const tokens = 200
	s.slow(true)
	x, err := s.open("llama", "long", tokens)
	if err != nil || !x.next() {
		t.Fatalf("no stream: %v", err)
	}

	s.stop()
	stopped := time.Now()
	lingers := func() bool { return time.Since(stopped) < o.Linger }
	regionstest.Eventually(t, patience, s.drains, "it drains")
	// On a machine that is too slow for these the linger is over, which proves
	// nothing.
	if res, _, err := s.do(http.MethodGet, s.url("/v2/health/ready"), ""); lingers() && (err != nil || res.StatusCode != http.StatusBadRequest) {
		t.Errorf("readiness while it lingers: %v, %v", res, err)
	}
	if res, text, err := s.do(http.MethodPost, s.url("/v2/models/llama/generate"), question("late", 1)); lingers() && (err != nil || res.StatusCode != http.StatusOK) {
		t.Errorf("a late request: %v %s, %v", res, text, err)
	}
	if res, text, err := s.do(http.MethodGet, s.adminURL("/healthz"), ""); err != nil || res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("healthz of an agent that stops: %v %s, %v", res, text, err)
	}
	if res, _, err := s.do(http.MethodPost, s.adminURL("/api/v1/drain"), `{"draining":false}`, "Content-Type", "application/json"); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("undrain: %v, %v", res, err)
	}
	if !s.drains() {
		t.Error("an agent that stops can be undrained")
	}
	m.sees("eu-west", "it stops, which is no operator's word", func(r *regions.Region) bool { return r.Stopping && !r.Draining })

	regionstest.Eventually(t, patience, func() bool { return refused(s.Addrs()[0].String()) }, "new connections are refused")
	if lingers() {
		t.Errorf("new connections are refused after %v, want %v", time.Since(stopped), o.Linger)
	}
	select {
	case err := <-s.ended:
		t.Fatalf("it ended under a stream: %v", err)
	default:
	}
	s.slow(false)
	if events, err := x.rest(); err != nil || events != tokens-1 {
		t.Errorf("the stream gave %d more events, %v; want %d", events, err, tokens-1)
	}
	if err := s.end(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if !refused(s.private.Addr().String()) {
		t.Error("the admin API is still there")
	}
	regionstest.Eventually(t, patience, func() bool { return m.stateOf(o.Gossip.Name) == gossip.MemberLeft }, "it said goodbye")
}

// TestGraceIsBounded has a stream outlast the grace: its client must see that it
// was cut.
func TestGraceIsBounded(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	o.Linger, o.Grace = 10*time.Millisecond, 50*time.Millisecond
	s := m.start(o, pods)
	s.slow(true)
	x, err := s.open("llama", "endless", 10_000)
	if err != nil || !x.next() {
		t.Fatalf("no stream: %v", err)
	}
	s.stop()
	if events, err := x.rest(); err == nil {
		t.Errorf("a stream that was cut ended cleanly after %d more events", events)
	}
	if err := s.end(); err != nil {
		t.Errorf("ended with %v", err)
	}
	regionstest.Eventually(t, patience, func() bool { return canceled(s) == 1 }, "the pod stopped generating")
}

// canceled counts the streams that pods stopped because nobody reads on.
func canceled(s *site) (n int64) {
	for _, p := range s.pods {
		n += p.Stats("llama").Canceled
	}
	return n
}

func TestKill(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	s := m.start(m.options("eu-west", "llama"))
	m.sees("eu-west", "it", func(*regions.Region) bool { return true })
	s.slow(true)
	x, err := s.open("llama", "cut", 10_000)
	if err != nil || !x.next() {
		t.Fatalf("no stream: %v", err)
	}
	s.Kill()
	for _, address := range []string{s.Addrs()[0].String(), s.private.Addr().String(), s.gossip.Addrs()[0].String()} {
		if !refused(address) {
			t.Errorf("%s is still open", address)
		}
	}
	if events, err := x.rest(); err == nil {
		t.Errorf("a stream of a killed agent ended cleanly after %d more events", events)
	}
	if err := s.end(); err != nil {
		t.Errorf("a killed agent ends with %v", err)
	}
	s.Kill() // again is nothing
	regionstest.Eventually(t, patience, func() bool { return canceled(s) == 1 }, "the pod stopped generating")
	if m.stateOf("eu-west/agent-1") == gossip.MemberLeft {
		t.Error("a killed agent said goodbye")
	}
}

// TestKillWhileLeaving kills an agent that waits for its streams.
func TestKillWhileLeaving(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	o.Linger = time.Millisecond
	s := m.start(o, pods)
	s.slow(true)
	x, err := s.open("llama", "cut", 10_000)
	if err != nil || !x.next() {
		t.Fatalf("no stream: %v", err)
	}
	s.stop()
	regionstest.Eventually(t, patience, func() bool { return refused(s.Addrs()[0].String()) }, "new connections are refused")
	s.Kill()
	if err := s.end(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if _, err := x.rest(); err == nil {
		t.Error("the stream ended cleanly")
	}
}

func TestKillBeforeRun(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, _ := m.options("eu-west", "llama")
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	a.Kill()
	ended := make(chan error, 1)
	go func() { ended <- a.Run(context.Background()) }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it runs")
	}
}

// brokenSource finds pods and then can't any more.
type brokenSource struct {
	discovery.Source
	broken chan error
}

// Run implements discovery.Source.
func (b brokenSource) Run(ctx context.Context, emit func([]regions.Pod)) error {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- b.Source.Run(inner, emit) }()
	select {
	case err := <-ended:
		return err
	case err := <-b.broken:
		stop()
		return errors.Join(err, <-ended)
	}
}

// TestAPartThatFailsEndsAll breaks one part: the agent must not live on without
// it, unnoticed.
func TestAPartThatFailsEndsAll(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	lost := errors.New("the source is lost")
	broken := make(chan error, 1)
	o.Sources[0] = brokenSource{o.Sources[0], broken}
	s := m.start(o, pods)
	broken <- lost
	if err := s.end(); !errors.Is(err, lost) {
		t.Errorf("ended with %v", err)
	}
	s.err = nil // it was expected
	if !refused(s.Addrs()[0].String()) {
		t.Error("the gateway is still there")
	}
}
