package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/gossiptest"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(gossiptest.Patient{M: m}) }

// patience bounds waiting on a loaded machine.
const patience = 20 * time.Second

// podSlots is how many sequences a pod of these tests runs at a time.
const podSlots = 8

// members is a fleet on loopback, with a director that only gossips.
type members struct {
	t        *testing.T
	fleet    *fleet.Authority
	director *gossip.Node
	slots    int           // of each pod
	count    int           // of pods of a region
	token    time.Duration // between two of a pod's
}

func newMembers(t *testing.T) *members {
	t.Helper()
	a, err := fleet.NewAuthority("test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	m := &members{t: t, fleet: a, slots: podSlots, count: 3, token: 5 * time.Millisecond}
	if m.director, err = gossip.New(m.gossip("ns1", fleet.Request{Role: fleet.RoleDirector, Name: "ns1"})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.director.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the director's gossip ended with %v", err)
		}
	})
	return m
}

// gossip are a member's options; the director is everybody's seed.
func (m *members) gossip(name string, r fleet.Request) gossip.Options {
	m.t.Helper()
	id, err := m.fleet.Issue(r, time.Now())
	if err != nil {
		m.t.Fatal(err)
	}
	o := gossip.DefaultOptions()
	o.Name, o.Identity, o.Roots = name, id, fleet.NewRoots(m.fleet)
	o.Bind, o.Keys, o.Label = netip.MustParseAddrPort("127.0.0.1:0"), [][]byte{bytes.Repeat([]byte{7}, gossip.KeySize)}, "test"
	if m.director != nil {
		o.Seeds = gossip.StaticSeeds(m.director.Addrs()[0].String())
	}
	return o
}

// region gives the director's merged picture of a region, nil before the first
// status.
func (m *members) region(id regions.ID) *regions.Region {
	for _, r := range m.director.Snapshot().Regions() {
		if r.ID == id {
			return &r
		}
	}
	return nil
}

// sees waits until the director's picture of a region fulfils a condition.
func (m *members) sees(id regions.ID, what string, cond func(*regions.Region) bool) {
	m.t.Helper()
	regionstest.Eventually(m.t, patience, func() bool {
		r := m.region(id)
		return r != nil && cond(r)
	}, fmt.Sprintf("the director sees of %s: %s", id, what))
}

// site is a region of these tests: an agent and the simulated pods behind it.
type site struct {
	*Agent
	t      *testing.T
	pods   []*tritontest.Pod
	client *http.Client
	scheme string
	stop   context.CancelFunc
	ended  chan error
	once   sync.Once
	err    error
}

// options are an agent's with three pods for some models, on free ports.
func (m *members) options(id regions.ID, models ...string) (Options, []*tritontest.Pod) {
	m.t.Helper()
	l, err := new(net.ListenConfig).Listen(m.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	// Closed by the server, and here if it does not get that far.
	m.t.Cleanup(func() { _ = l.Close() })
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	o := DefaultOptions()
	o.Region, o.Location = id, regions.Location{Lat: 53_350_000, Lon: -6_260_000}
	o.Endpoints = []regions.Endpoint{{Scheme: "http", Host: addr.Addr().String(), Port: addr.Port(), Addrs: []netip.Addr{addr.Addr()}}}
	o.Listen, o.Admin.Listen = []string{addr.String()}, "127.0.0.1:0"
	// The endpoint must be known before the agent is made.
	o.ListenStream = func(context.Context, string, string) (net.Listener, error) { return l, nil }
	o.Gossip = m.gossip(string(id)+"/agent-1", fleet.Request{Role: fleet.RoleRegion, Name: string(id), Grant: fleet.Grant{Endpoints: o.Endpoints}})
	o.Linger, o.Grace = 300*time.Millisecond, patience
	o.Registry = prometheus.NewRegistry()
	pods, found := m.pods(id, models...)
	for _, name := range models {
		o.Models = append(o.Models, Model{Name: regions.ModelName(name)})
	}
	source, err := discovery.NewStatic(found)
	if err != nil {
		m.t.Fatal(err)
	}
	o.Sources = []discovery.Source{source}
	return o, pods
}

// pods starts pods that are quick: 5 ms between two tokens, unless told otherwise.
func (m *members) pods(id regions.ID, models ...string) (pods []*tritontest.Pod, found []regions.Pod) {
	m.t.Helper()
	for k := range m.count {
		o := tritontest.DefaultOptions()
		o.Name, o.MetricsAddr = fmt.Sprintf("%s-%d", id, k), ""
		spec := regions.Pod{ID: regions.PodID(o.Name)}
		for _, name := range models {
			model := tritontest.DefaultModel(name)
			model.Slots, model.PrefillPerToken, model.InterToken, model.BatchPenalty = m.slots, 0, m.token, 0
			o.Models = append(o.Models, model)
			spec.Models = append(spec.Models, regions.PodModel{Name: regions.ModelName(name), Slots: m.slots})
		}
		p := tritontest.New(o)
		if err := p.Start(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
		m.t.Cleanup(p.Close)
		spec.HTTP, spec.GRPC, spec.OpenAI = netip.MustParseAddrPort(p.Addr()), netip.MustParseAddrPort(p.GRPCAddr()), netip.MustParseAddrPort(p.OpenAIAddr())
		pods, found = append(pods, p), append(found, spec)
	}
	return pods, found
}

// start runs an agent until the test ends, and waits until all of its pods are
// ready.
func (m *members) start(o Options, pods []*tritontest.Pod) *site {
	m.t.Helper()
	a, err := New(o)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &site{
		Agent: a, t: m.t, pods: pods, scheme: "http", stop: cancel, ended: make(chan error, 1),
		client: &http.Client{Transport: &http.Transport{DisableCompression: true}},
	}
	go func() { s.ended <- a.Run(ctx) }()
	m.t.Cleanup(func() {
		s.client.CloseIdleConnections()
		for _, p := range pods {
			p.Heal()
		}
		cancel()
		if err := s.end(); err != nil {
			m.t.Errorf("the agent of %s ended with %v", o.Region, err)
		}
	})
	regionstest.Eventually(m.t, patience, func() bool {
		for _, model := range a.pool.Models(time.Now(), nil) {
			if int(model.Pods.Ready) != len(pods) {
				return false
			}
		}
		return true
	}, "all pods are ready")
	return s
}

// end waits until the agent has ended.
func (s *site) end() error {
	s.t.Helper()
	s.once.Do(func() {
		select {
		case s.err = <-s.ended:
		case <-time.After(2 * patience):
			s.err = errors.New("it does not end")
		}
	})
	return s.err
}

func (s *site) url(path string) string      { return s.scheme + "://" + s.Addrs()[0].String() + path }
func (s *site) adminURL(path string) string { return "http://" + s.private.Addr().String() + path }

// do sends a request with fields given as name, value pairs, and reads the whole
// answer.
func (s *site) do(method, url, body string, fields ...string) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return res, string(text), err
}

// get is a do that must not fail.
func (s *site) get(url string) (status int, body string) {
	s.t.Helper()
	res, text, err := s.do(http.MethodGet, url, "")
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, text
}

// prompt is a request's body, with an ID by which the pods remember it.
func prompt(id string, tokens int) string {
	return fmt.Sprintf(`{"id":%q,"text_input":"hello there","parameters":{"stream":true,"max_tokens":%d}}`, id, tokens)
}

// question is prompt for an answer in one piece.
func question(id string, tokens int) string {
	return fmt.Sprintf(`{"id":%q,"text_input":"hello there","parameters":{"max_tokens":%d}}`, id, tokens)
}

// free is an address that is not bound, and on which nobody else is likely to be.
func free(t *testing.T) netip.AddrPort {
	t.Helper()
	at := netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(254)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))})
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return netip.MustParseAddrPort(l.Addr().String())
}

// refused reports whether new connections to an address are.
func refused(address string) bool {
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", address)
	if err == nil {
		_ = c.Close()
	}
	return err != nil
}

// stream is an event stream as its client reads it.
type stream struct {
	res   *http.Response
	lines *bufio.Scanner
	cut   error // what it said of its end
}

// open begins an event stream. The error is that of the request.
func (s *site) open(model, id string, tokens int) (*stream, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.url("/v2/models/"+model+"/generate_stream"), strings.NewReader(prompt(id, tokens)))
	if err != nil {
		return nil, err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("a stream answered with %s", res.Status), res.Body.Close())
	}
	return &stream{res, bufio.NewScanner(res.Body), nil}, nil
}

// next reads one event. It is false at the end, clean or not.
func (x *stream) next() bool {
	for x.lines.Scan() {
		if strings.Contains(x.lines.Text(), `"code":"stream_interrupted"`) {
			x.cut = errors.New(x.lines.Text())
			return false
		}
		if strings.HasPrefix(x.lines.Text(), "data: ") {
			return true
		}
	}
	return false
}

// rest reads the events that are left. The error is nil only if the answer ended
// well.
func (x *stream) rest() (events int, err error) {
	defer func() { _ = x.res.Body.Close() }()
	for x.next() {
		events++
	}
	return events, errors.Join(x.cut, x.lines.Err())
}
