package agent

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"

	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// pepper of these tests' API keys.
var pepper = bytes.Repeat([]byte{5}, keyring.HashSize)

// newKey makes an API key.
func newKey(t *testing.T, k keyring.Key) (string, keyring.Key) {
	t.Helper()
	token, k, err := keyring.Make(pepper, k)
	if err != nil {
		t.Fatal(err)
	}
	return token, k
}

func newRing(t *testing.T, keys ...keyring.Key) *keyring.Ring {
	t.Helper()
	r, err := keyring.New(pepper, keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// journal takes the log, and knows the client of the last request in it.
type journal struct {
	mu     sync.Mutex
	lines  int
	client string
}

// Write implements io.Writer for slog's JSON handler.
func (j *journal) Write(line []byte) (int, error) {
	var said struct{ Msg, Client string }
	if err := json.Unmarshal(line, &said); err != nil {
		return 0, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if said.Msg == "request" {
		j.lines, j.client = j.lines+1, said.Client
	}
	return len(line), nil
}

func (j *journal) last() (lines int, client string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines, j.client
}

// manners are all that a reload can change, as seen from outside.
type manners struct {
	Serial       int64 // of the gateway's certificate
	Bare, Keyed  int   // answers without a key and with one
	Large        int   // the answer to a large body
	Client       string
	Admin        int // the answer of the admin API without a token
	Linger, Last time.Duration
}

// secure is a site whose gateway serves TLS.
type secure struct {
	*site
	log   *journal
	token string
}

// ask sends a request on a connection of its own.
func (s *secure) ask(body string, keyed bool) (status int, serial int64) {
	s.t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // the test looks at the certificate itself
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.secureURL("/v2/models/llama/generate"), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", "192.0.2.77")
	if keyed {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, res.TLS.PeerCertificates[0].SerialNumber.Int64()
}

func (s *secure) secureURL(path string) string { return "https://" + s.Addrs()[0].String() + path }

// now looks at everything.
func (s *secure) now() manners {
	s.t.Helper()
	var m manners
	m.Bare, _ = s.ask(question("", 1), false)
	m.Large, _ = s.ask(question(strings.Repeat("x", 4<<10), 1), true)
	before, _ := s.log.last()
	m.Keyed, m.Serial = s.ask(question("", 1), true)
	regionstest.Eventually(s.t, patience, func() bool {
		n, client := s.log.last()
		m.Client = client
		return n > before
	}, "the request is in the log")
	m.Admin, _ = s.get(s.adminURL("/api/v1/pods"))
	f := s.farewell.Load()
	m.Linger, m.Last = f.linger, f.grace
	return m
}

// secured starts an agent that serves TLS with certificate 1 to everybody, and
// gives options that differ in all that a reload can change.
func secured(t *testing.T) (s *secure, before, after Options) {
	t.Helper()
	m := newMembers(t)
	before, pods := m.options("eu-west", "llama")
	log := &journal{}
	before.TLS, before.Logger = regionstest.Certificate(t, 1), slog.New(slog.NewJSONHandler(log, nil))
	s = &secure{site: m.start(before, pods), log: log}
	after = before
	after.TLS, after.Linger, after.Grace = regionstest.Certificate(t, 2), 111*time.Millisecond, patience+time.Second
	after.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	after.Limits.Body = 1 << 10
	after.Admin.Token = "secret"
	token, k := newKey(t, keyring.Key{ID: "team-a"})
	s.token, after.Keys = token, newRing(t, k)
	return s, before, after
}

func TestReloadChangesAll(t *testing.T) {
	t.Parallel()
	s, o, changed := secured(t)
	before := manners{Serial: 1, Bare: 200, Keyed: 200, Large: 200, Client: "127.0.0.1", Admin: 200, Linger: o.Linger, Last: o.Grace}
	after := manners{Serial: 2, Bare: 401, Keyed: 200, Large: 413, Client: "192.0.2.77", Admin: 401, Linger: changed.Linger, Last: changed.Grace}
	if got := s.now(); got != before {
		t.Fatalf("at the start %+v\nwant %+v", got, before)
	}
	if err := s.Reload(changed); err != nil {
		t.Fatal(err)
	}
	if got := s.now(); got != after {
		t.Errorf("reloaded %+v\nwant %+v", got, after)
	}
	if err := s.Reload(o); err != nil {
		t.Fatal(err)
	}
	if got := s.now(); got != before {
		t.Errorf("and back %+v\nwant %+v", got, before)
	}
}

// TestReloadChangesNothing: options in which one thing is wrong, or can't change,
// change none of the others.
func TestReloadChangesNothing(t *testing.T) {
	t.Parallel()
	s, _, changed := secured(t)
	before := s.now()
	another := newMembers(t)
	for want, spoil := range map[string]func(*Options){
		"only a restart can switch TLS on":   func(o *Options) { o.TLS = nil },
		"no endpoint":                        func(o *Options) { o.Endpoints = nil },
		"no source of pods":                  func(o *Options) { o.Sources = nil },
		"without TLS and a token":            func(o *Options) { o.Admin.Listen = "0.0.0.0:8088" },
		"only a restart can switch TLS":      func(o *Options) { o.Admin.TLS = o.TLS },
		"can change the admin listener":      func(o *Options) { o.Admin.Listen = "127.0.0.1:1" },
		"can change the region":              func(o *Options) { o.Location.Lat++ },
		"can change endpoints":               func(o *Options) { o.Endpoints = append(o.Endpoints[:1:1], endpointOf("us-east")) },
		"can change endpoints, the region":   func(o *Options) { o.Endpoints, o.Region = append(o.Endpoints[:1:1], endpointOf("us-east")), "us-east" },
		"can change gateway listeners":       func(o *Options) { o.Listen = []string{"127.0.0.1:1"} },
		"can change models":                  func(o *Options) { o.Models = []Model{{Name: "llama", Host: "chat"}} },
		"can change how pods are chosen":     func(o *Options) { o.Balance = "round-robin" },
		"no way \"random\" to choose":        func(o *Options) { o.Models = []Model{{Name: "llama", Balance: "random"}} },
		"can change limits of requests":      func(o *Options) { o.Head.Size++ },
		"can change the time to connect":     func(o *Options) { o.Limits.Dial++ },
		"can change limits of queues":        func(o *Options) { o.Admit.Bound++ },
		"can change canaries":                func(o *Options) { o.Canary.Every++ },
		"can change the learning of slots":   func(o *Options) { o.FixedSlots = true },
		"can change its name in the fleet":   func(o *Options) { o.Gossip.Name = "eu-west/agent-2" },
		"can change the gossip addresses":    func(o *Options) { o.Gossip.Bind = netip.MustParseAddrPort("127.0.0.1:1") },
		"can change the gossip keys":         func(o *Options) { o.Gossip.Keys = [][]byte{bytes.Repeat([]byte{8}, gossip.KeySize)} },
		"can change the gossip label":        func(o *Options) { o.Gossip.Label = "other" },
		"can change how long statuses":       func(o *Options) { o.Gossip.Forget++ },
		"can change the fleet's certificate": func(o *Options) { o.Gossip.Roots = fleet.NewRoots(another.fleet) },
		"can change its certificate": func(o *Options) {
			o.Gossip.Identity = another.gossip("x", fleet.Request{Role: fleet.RoleRegion, Name: "x", Grant: fleet.Grant{Endpoints: o.Endpoints}}).Identity
		},
	} {
		o := changed
		spoil(&o)
		if err := s.Reload(o); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "region eu-west") {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if f := s.farewell.Load(); f.linger != before.Linger {
			t.Errorf("%s: and yet something changed", want)
		}
	}
	if got := s.now(); got != before {
		t.Errorf("after bad reloads %+v\nwant %+v", got, before)
	}
}

// TestReloadKnowsEveryOption: each field of Options is one that a reload takes, compares or
// is said to leave alone, so that a new one is not forgotten.
func TestReloadKnowsEveryOption(t *testing.T) {
	known := map[string]bool{}
	for _, name := range strings.Fields(`TrustedProxies Keys Limits Connections TLS Admin Linger Grace
		Region Location Endpoints Listen Models Head Admit Gossip Canary FixedSlots
		Balance Sources SpillTLS ListenStream Dial Now Logger Registry Version`) {
		known[name] = true
	}
	for _, o := range []any{Options{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(o)) {
			if !known[f.Name] {
				t.Errorf("Reload does not know the option %s", f.Name)
			}
			delete(known, f.Name)
		}
	}
	if len(known) > 0 {
		t.Errorf("there are no options %v", known)
	}
}

// load is what clients do all the time.
type load struct {
	done, failed atomic.Int64
	stop         chan struct{}
	all          sync.WaitGroup
}

// begin repeats something in some goroutines until the load ends.
func (l *load) begin(t *testing.T, n int, do func() error) {
	for range n {
		l.all.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				if err := do(); err != nil {
					l.failed.Add(1)
					t.Errorf("failed: %v", err)
					return
				}
				l.done.Add(1)
			}
		})
	}
}

// TestHundredReloadsUnderLoad reloads an agent a hundred times between two
// configurations, while clients send requests and streams over connections that
// stay and over new ones. None fails, and then the last configuration is in force.
func TestHundredReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	s, _, first := secured(t)
	second := first
	lasting, k := newKey(t, keyring.Key{ID: "lasting", Rate: 1e6})
	faster := k
	faster.Rate = 1e5
	late, l := newKey(t, keyring.Key{ID: "late"})
	first.Keys, second.Keys = newRing(t, k), newRing(t, faster, l)
	first.Limits.Body, second.Limits.Body = 64<<10, 1<<10
	second.TLS, second.TrustedProxies, second.Linger = regionstest.Certificate(t, 3), nil, 123*time.Millisecond
	s.token = lasting
	if err := s.Reload(first); err != nil {
		t.Fatal(err)
	}

	traffic := load{stop: make(chan struct{})}
	transports := []*http.Transport{}
	insecure := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the certificate is the test's
	client := func(x *http.Transport) *http.Client {
		x.TLSClientConfig = insecure.Clone()
		transports = append(transports, x)
		return &http.Client{Transport: x}
	}
	one := func(c *http.Client, path, body string, events int) func() error {
		return func() error { return s.exchange(c, path, body, events) }
	}
	traffic.begin(t, 2, one(client(&http.Transport{}), "/v2/models/llama/generate", question("", 2), 1))
	traffic.begin(t, 1, one(client(&http.Transport{ForceAttemptHTTP2: true}), "/v2/models/llama/generate", question("", 2), 1))
	traffic.begin(t, 1, one(client(&http.Transport{DisableKeepAlives: true}), "/v2/models/llama/generate", question("", 1), 1))
	traffic.begin(t, 2, one(client(&http.Transport{ForceAttemptHTTP2: true}), "/v2/models/llama/generate_stream", prompt("", 10), 10))
	for n := range 100 {
		o := first
		if n%2 == 1 {
			o = second
		}
		before := traffic.done.Load()
		if err := s.Reload(o); err != nil {
			t.Fatal(err)
		}
		regionstest.Eventually(t, patience, func() bool { return traffic.done.Load() >= before+6 || traffic.failed.Load() > 0 }, "requests go on")
	}
	close(traffic.stop)
	traffic.all.Wait()
	for _, x := range transports {
		x.CloseIdleConnections()
	}
	if done, failed := traffic.done.Load(), traffic.failed.Load(); failed != 0 || done < 600 {
		t.Errorf("%d requests done, %d failed; want 600 at least, and 0", done, failed)
	}
	s.token = late
	want := manners{Serial: 3, Bare: 401, Keyed: 200, Large: 413, Client: "127.0.0.1", Admin: 401, Linger: second.Linger, Last: second.Grace}
	if got := s.now(); got != want {
		t.Errorf("in the end %+v\nwant %+v", got, want)
	}
}

// exchange sends a request with the key and counts the lines of its answer that
// hold text: one, or one for each event of a stream.
func (s *secure) exchange(c *http.Client, path, body string, events int) error {
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.secureURL(path), strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if n := bytes.Count(text, []byte(`"text_output"`)); res.StatusCode != http.StatusOK || n != events {
		return errors.New(res.Status + ": " + string(text))
	}
	return nil
}

// TestReloadWhileStreaming: a stream that began under the old options ends whole
// under the new ones, although its key is gone.
func TestReloadWhileStreaming(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	s := m.start(o, pods)
	const tokens = 60
	x, err := s.open("llama", "long", tokens)
	if err != nil || !x.next() {
		t.Fatalf("no stream: %v", err)
	}
	_, k := newKey(t, keyring.Key{ID: "somebody"})
	o.Keys, o.Limits.Body = newRing(t, k), 1
	if err := s.Reload(o); err != nil {
		t.Fatal(err)
	}
	if events, err := x.rest(); err != nil || events != tokens-1 {
		t.Errorf("%d more events, %v; want %d", events, err, tokens-1)
	}
	if status, _ := s.get(s.url("/v2/models/llama")); status != http.StatusUnauthorized {
		t.Errorf("status %d without a key", status)
	}
}
