package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/gossiptest"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

var start = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func testFleet(tb testing.TB) *fleet.Authority {
	tb.Helper()
	a, err := fleet.NewAuthority("test", start, 10*365*24*time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func testIdentity(tb testing.TB, a *fleet.Authority, role fleet.Role, name string) *fleet.Identity {
	tb.Helper()
	r := fleet.Request{Role: role, Name: name, Lifetime: 365 * 24 * time.Hour}
	if role == fleet.RoleRegion {
		e, err := regions.ParseEndpoint("http://192.0.2.1")
		if err != nil {
			tb.Fatal(err)
		}
		r.Grant.Endpoints = []regions.Endpoint{e}
	}
	id, err := a.Issue(r, start)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// testOptions are of a node on a network of its own, at a time that stands still.
func testOptions(tb testing.TB) Options {
	tb.Helper()
	a := testFleet(tb)
	o := DefaultOptions()
	o.Name, o.Identity, o.Roots = "d1", testIdentity(tb, a, fleet.RoleDirector, "d1"), fleet.NewRoots(a)
	o.Transport = gossiptest.NewNetwork(1).Transport(netip.MustParseAddrPort("10.0.0.1:7946"))
	o.Keys = [][]byte{make([]byte, KeySize)}
	o.Now = func() time.Time { return start }
	return o
}

func TestOptions(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"identity":     {func(o *Options) { o.Identity = nil }, "identity"},
		"roots":        {func(o *Options) { o.Roots = nil }, "fleet's certificate"},
		"other fleet":  {func(o *Options) { o.Roots = fleet.NewRoots(testFleet(t)) }, "not of this fleet"},
		"expired":      {func(o *Options) { o.Now = func() time.Time { return start.Add(400 * 24 * time.Hour) } }, "expired"},
		"name":         {func(o *Options) { o.Name = "d2" }, "not covered"},
		"no key":       {func(o *Options) { o.Keys = nil }, "no gossip key"},
		"short key":    {func(o *Options) { o.Keys = [][]byte{make([]byte, 16)} }, "16 bytes"},
		"label":        {func(o *Options) { o.Label = strings.Repeat("x", 256) }, "label"},
		"forget":       {func(o *Options) { o.Forget = 0 }, "forgetting"},
		"two networks": {func(o *Options) { o.Bind = netip.MustParseAddrPort("127.0.0.1:0") }, "beside"},
		"no network":   {func(o *Options) { o.Transport = nil }, "no address"},
		"any address": {func(o *Options) {
			o.Transport, o.Bind = nil, netip.MustParseAddrPort("0.0.0.0:0")
		}, "advertise"},
		"epoch": {func(o *Options) { o.Epochs = brokenEpochs{} }, "no disk"},
		"operator": {func(o *Options) {
			a := testFleet(t)
			o.Identity, o.Roots = testIdentity(t, a, fleet.RoleOperator, "d1"), fleet.NewRoots(a)
		}, "operator"},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t)
			c.change(&o)
			if _, err := New(o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	o := testOptions(t)
	o.Keys, o.AllowPlaintext = nil, true
	if _, err := New(o); err != nil {
		t.Errorf("plaintext that is allowed: %v", err)
	}
}

type brokenEpochs struct{}

func (brokenEpochs) Load() (uint64, error) { return 0, errors.New("no disk") }
func (brokenEpochs) Save(uint64) error     { return nil }

// TestBeats is the schedule of a status over time.
func TestBeats(t *testing.T) {
	ms := func(n int) time.Time { return start.Add(time.Duration(n) * time.Millisecond) }
	var b beats
	b.sent(ms(0))
	for i, step := range []struct {
		at      int
		changed bool
		next    int // once it was sent if it was due
	}{
		{at: 0, next: 500},
		{at: 500, next: 1000},
		{at: 600, changed: true, next: 700},
		{at: 700, next: 900},
		{at: 900, next: 1400},
		{at: 1400, next: 1900},
		{at: 1410, changed: true, next: 1450}, // not within 50 ms of the last
		{at: 1450, next: 1510},
		{at: 1500, changed: true, next: 1600}, // in place of the burst under way
		{at: 1600, next: 1800},
		{at: 1900, next: 2400}, // late: what was due by then is one
	} {
		if step.changed {
			b.changed(ms(step.at))
		}
		if !b.next().After(ms(step.at)) {
			b.sent(ms(step.at))
		}
		if got := b.next(); !got.Equal(ms(step.next)) {
			t.Errorf("step %d at %d ms: next at %v, want %d ms", i, step.at, got.Sub(start), step.next)
		}
	}
}

func TestJudgeExpiry(t *testing.T) {
	id := testIdentity(t, testFleet(t), fleet.RoleDirector, "d1")
	body := &wire.Body{Kind: wire.Kind_RECORD, Origin: "d1", Epoch: 1, Version: 1}
	raw, err := wire.EncodeBody(body)
	if err != nil {
		t.Fatal(err)
	}
	env := &wire.Envelope{Body: raw, KeyId: id.Cert.KeyID[:], Sig: id.Sign(fleet.EnvelopeDomain, raw)}
	if j := judge(env, body, id.Cert, start); j.reason != "" {
		t.Errorf("a good record is %s: %v", j.reason, j.err)
	}
	if j := judge(env, body, id.Cert, start.Add(366*24*time.Hour)); j.reason != reasonExpired {
		t.Errorf("a record under an expired certificate is %q", j.reason)
	}
}

// TestStoreBounds: one certificate's holder can fill its own share only.
func TestStoreBounds(t *testing.T) {
	s := newStore()
	add := func(name string, i, size int, at time.Time) (reason, bool) {
		k := slot{role: fleet.RoleRegion, kind: wire.Kind_RECORD, origin: name, key: fmt.Sprint(i)}
		return s.put(k, &record{by: subject{fleet.RoleRegion, name}, epoch: 1, version: uint64(i + 1), raw: make([]byte, size), heard: at}, at)
	}
	if _, ok := add("eu", 0, 10, start); !ok {
		t.Fatal("no room for a first record")
	}
	for i := range maxSlots {
		if _, ok := add("us", i, 10, start); !ok {
			t.Fatalf("no room for record %d", i)
		}
	}
	if why, ok := add("us", maxSlots, 10, start.Add(evictAfter)); ok || why != reasonTooMany {
		t.Errorf("one more than %d fresh records: %q", maxSlots, why)
	}
	if _, ok := add("us", 3, 10, start.Add(evictAfter)); ok {
		t.Error("the same version twice")
	}
	if _, ok := add("us", maxSlots, 10, start.Add(evictAfter+time.Second)); !ok {
		t.Error("a stale record does not make room")
	}
	for i := range 100 {
		add("ap", i, 64<<10, start)
	}
	if u := s.usage[subject{fleet.RoleRegion, "ap"}]; u.bytes > maxBytes || u.slots != maxBytes/(64<<10) {
		t.Errorf("%d records of %d bytes in all", u.slots, u.bytes)
	}
	if u := s.usage[subject{fleet.RoleRegion, "eu"}]; u == nil || u.slots != 1 {
		t.Error("another certificate's record had to go")
	}
}

// TestStoreKeepsTheOrder of what it forgets, until the certificate has expired.
func TestStoreKeepsTheOrder(t *testing.T) {
	s := newStore()
	k := slot{kind: wire.Kind_STATUS, origin: "eu"}
	r := func(version uint64, at time.Time) *record {
		return &record{epoch: 1, version: version, raw: []byte("x"), status: &regions.Status{}, heard: at, notAfter: start.Add(100 * time.Hour)}
	}
	s.put(k, r(5, start), start)
	s.forget(start.Add(2*time.Hour), time.Hour)
	if n := len(s.snapshot().Reports); n != 0 {
		t.Errorf("%d reports after they were to be forgotten", n)
	}
	if why, ok := s.put(k, r(5, start.Add(2*time.Hour)), start.Add(2*time.Hour)); ok || why != reasonReplayed {
		t.Errorf("a forgotten record came back: %q", why)
	}
	s.forget(start.Add(101*time.Hour), time.Hour)
	if len(s.slots) != 0 || len(s.usage) != 0 {
		t.Errorf("%d slots, %d uses left after the certificate expired", len(s.slots), len(s.usage))
	}
}

// TestHeardNeverGoesBack: a newer record is not older than what it replaces, and
// a relay's age counts.
func TestHeardNeverGoesBack(t *testing.T) {
	s := newStore()
	k := slot{kind: wire.Kind_STATUS, origin: "eu"}
	for i, step := range []struct{ heard, want time.Duration }{{0, 0}, {-5 * time.Second, 0}, {3 * time.Second, 3 * time.Second}} {
		s.put(k, &record{epoch: 1, version: uint64(i + 1), raw: []byte("x"), status: &regions.Status{}, heard: start.Add(step.heard)}, start)
		if got := s.snapshot().Reports[0].Heard.Sub(start); got != step.want {
			t.Errorf("step %d: heard at %v, want %v", i, got, step.want)
		}
	}
}

// TestStateIsBounded: what does not fit a push/pull are the stalest records.
func TestStateIsBounded(t *testing.T) {
	s := newStore()
	self := testIdentity(t, testFleet(t), fleet.RoleDirector, "d1").Cert
	for i := range 200 {
		name := fmt.Sprint("r", i)
		r := &record{by: subject{fleet.RoleRegion, name}, epoch: 1, version: 1, raw: make([]byte, 10<<10), heard: start.Add(time.Duration(i) * time.Second)}
		s.put(slot{kind: wire.Kind_STATUS, origin: name}, r, start)
	}
	spill := &record{epoch: 1, version: 1, raw: []byte("x"), heard: start.Add(time.Hour)}
	s.put(slot{kind: wire.Kind_SPILL}, spill, start)
	state := s.state(self, start.Add(200*time.Second))
	if size := proto.Size(state); size > wire.MaxState || size < wire.MaxState*9/10 {
		t.Errorf("a state of %d bytes, want close to %d", size, wire.MaxState)
	}
	for i, h := range state.GetHeld() {
		if want := uint64(i+1) * 1000; h.GetAgeMs() != want {
			t.Fatalf("entry %d has age %d ms, want %d", i, h.GetAgeMs(), want)
		}
	}
}

// TestLanes: the newest of a key waits, too many are dropped, and whoever hands
// over never waits.
func TestLanes(t *testing.T) {
	release, drops := make(chan struct{}), atomic.Int32{}
	var sent [][]byte
	l := &lanes{
		open: map[string]*lane{}, dropped: func() { drops.Add(1) }, failed: func(string, error) {},
		send: func(_ *memberlist.Node, m []byte) error {
			<-release
			sent = append(sent, m)
			return nil
		},
	}
	to := &memberlist.Node{Name: "x"}
	l.put(to, "first", []byte("0"))
	busy := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.open["x"].order) == 0
	}
	regionstest.Eventually(t, 10*time.Second, busy, "the first message is under way")
	for i := range maxPending + 10 {
		l.put(to, fmt.Sprint(i), []byte{byte(i)})
	}
	l.put(to, "3", []byte("newest"))
	if drops.Load() != 10 {
		t.Errorf("%d dropped, want 10", drops.Load())
	}
	close(release)
	idle := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.open) == 0
	}
	regionstest.Eventually(t, 10*time.Second, idle, "all is sent")
	l.close()
	if len(sent) != 1+maxPending || !bytes.Equal(sent[4], []byte("newest")) {
		t.Errorf("%d sent, the fourth of them %q", len(sent), sent[4])
	}
	l.put(to, "late", nil)
	if len(l.open) != 0 {
		t.Error("a closed lane took a message")
	}
}

// TestPacketRoom checks the sum of memberlist's overheads against what it really
// sends.
func TestPacketRoom(t *testing.T) {
	for _, label := range []string{"", "x", strings.Repeat("l", 40)} {
		for _, key := range [][]byte{nil, make([]byte, 32)} {
			sizes := &sizer{Transport: gossiptest.NewNetwork(1).Transport(netip.MustParseAddrPort("10.0.0.1:7946"))}
			c := memberlist.DefaultLANConfig()
			c.Name, c.Label, c.SecretKey, c.Transport, c.UDPBufferSize, c.EnableCompression = "x", label, key, sizes, packetSize, false
			c.LogOutput = io.Discard
			m, err := memberlist.Create(c)
			if err != nil {
				t.Fatal(err)
			}
			self := *m.LocalNode()
			self.Name = "other"
			if err := m.SendBestEffort(&self, make([]byte, packetRoom(label, key != nil))); err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(sizes.got, packetSize) {
				t.Errorf("label of %d bytes, key of %d: packets of %v bytes, want %d", len(label), len(key), sizes.got, packetSize)
			}
			if err := m.Shutdown(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

type sizer struct {
	*gossiptest.Transport
	got []int
}

func (s *sizer) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	s.got = append(s.got, len(b))
	return s.Transport.WriteToAddress(b, a)
}

func TestLogLevels(t *testing.T) {
	var out bytes.Buffer
	l := slog.NewLogLogger(logHandler{slog.NewTextHandler(&out, nil)}, slog.LevelInfo)
	l.Print("[DEBUG] memberlist: quiet")
	l.Print("[ERR] memberlist: loud")
	l.Print("plain")
	got := out.String()
	for _, want := range []string{`level=WARN msg="memberlist: loud"`, `level=INFO msg="memberlist: plain"`} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	if strings.Contains(got, "quiet") {
		t.Errorf("debug was logged: %q", got)
	}
}
