package gossip_test

import (
	"crypto/ed25519"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// thief has the gossip key but no certificate: a member that poses as a
// director, hears what directors hear, and sends what it likes.
type thief struct {
	list  *memberlist.Memberlist
	state []byte // what it says in a push/pull; nil is nonsense

	mu    sync.Mutex
	heard [][]byte
}

func (x *thief) NodeMeta(int) []byte {
	b, err := wire.EncodeMeta(&wire.Meta{Protocol: regions.ProtocolVersion, Role: wire.Role_DIRECTOR})
	if err != nil {
		panic(err)
	}
	return b
}

func (x *thief) NotifyMsg(b []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.heard = append(x.heard, slices.Clone(b))
}
func (x *thief) GetBroadcasts(int, int) [][]byte { return nil }
func (x *thief) MergeRemoteState([]byte, bool)   {}
func (x *thief) LocalState(bool) []byte {
	if x.state != nil {
		return x.state
	}
	return []byte("\xff\xffnot a state")
}

func newThief(w *world, name string) *thief { return newStranger(w, name, &thief{}) }

// newStranger has a thief take part as a member.
func newStranger(w *world, name string, x *thief) *thief {
	w.t.Helper()
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label, c.SecretKey, c.Delegate = name, "test", gossipKey, x
	c.Transport = w.net.Transport(netip.MustParseAddrPort("10.0.9.9:7946"))
	c.DelegateProtocolVersion, c.DelegateProtocolMin, c.DelegateProtocolMax = 1, 0, 2
	c.LogOutput = io.Discard
	list, err := memberlist.Create(c)
	if err != nil {
		w.t.Fatal(err)
	}
	x.list = list
	if _, err := list.Join([]string{seedAddr.String()}); err != nil {
		w.t.Fatal(err)
	}
	return x
}

// send gives a message to a member as memberlist would.
func (x *thief) send(w *world, to string, m []byte) {
	w.t.Helper()
	for _, n := range x.list.Members() {
		if n.Name == to {
			if err := x.list.SendReliable(n, m); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	advance(200 * time.Millisecond)
}

// got are the messages of a type that were sent to the thief, oldest first.
func (x *thief) got(kind byte) [][]byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out [][]byte
	for _, m := range x.heard {
		if m[0] == kind {
			out = append(out, m)
		}
	}
	return out
}

func (x *thief) envelopes() [][]byte { return x.got(1) }

// seal makes an envelope message of a body, signed by whom and under which key
// id one likes.
func seal(t *testing.T, body *wire.Body, id fleet.KeyID, sign func([]byte) []byte) []byte {
	t.Helper()
	raw, err := wire.EncodeBody(body)
	if err != nil {
		t.Fatal(err)
	}
	env, err := wire.EncodeEnvelope(&wire.Envelope{Body: raw, KeyId: id[:], Sig: sign(raw)})
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{1}, env...)
}

func by(id *fleet.Identity) func([]byte) []byte {
	return func(b []byte) []byte { return id.Sign(fleet.EnvelopeDomain, b) }
}

func payload(t *testing.T, s regions.Status) []byte {
	t.Helper()
	s.Protocol = 1
	b, err := wire.EncodeStatus(&s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHostileRecordsChangeNothing sends everything that a stolen gossip key, or a
// stolen key of another region, can send.
func TestHostileRecordsChangeNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		d := w.add("d1", nil)
		w.agent("eu-west/a")
		w.agent("us-east/a")
		x := newThief(w, "d9")
		defer func() { _ = x.list.Shutdown() }()
		w.until(10*time.Second, "all are known", func() bool { return d.fresh(time.Second, "eu-west/a", "us-east/a") })
		w.until(10*time.Second, "the thief hears statuses", func() bool { return len(x.envelopes()) > 20 })
		w.kill("eu-west/a")
		advance(5 * time.Second)
		before := d.report("eu-west/a")

		eu, us, director := w.identity("eu-west/a"), w.identity("us-east/a"), w.identity("d1")
		_, stranger, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		status := func(origin, region string) *wire.Body {
			return &wire.Body{Kind: wire.Kind_STATUS, Origin: origin, Epoch: 50, Version: 1, Payload: payload(t, statusOf(region, 999))}
		}
		elsewhere := statusOf("us-east", 1)
		elsewhere.Endpoints[0].Addrs = []netip.Addr{netip.MustParseAddr("203.0.113.66")}
		greedy := statusOf("us-east", 1)
		greedy.Models[0].Slots = regions.Slots(10_001)
		expired, err := w.fleet.Issue(fleet.Request{Role: fleet.RoleDirector, Name: "d7", Lifetime: time.Nanosecond}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		tampered := slices.Clone(x.envelopes()[0])
		tampered[20] ^= 1

		for _, c := range []struct {
			name, reason string
			message      []byte
		}{
			{"signed by a stranger", "forged", seal(t, status("eu-west/a", "eu-west"), eu.Cert.KeyID, func(b []byte) []byte { return ed25519.Sign(stranger, b) })},
			{"signed for another use", "forged", seal(t, status("eu-west/a", "eu-west"), eu.Cert.KeyID, func(b []byte) []byte { return eu.Sign("rhumb probe v1", b) })},
			{"signed by another region", "name", seal(t, status("eu-west/a", "eu-west"), us.Cert.KeyID, by(us))},
			{"another region under an own name", "name", seal(t, status("us-east/b", "eu-west"), us.Cert.KeyID, by(us))},
			{"a region's prefix", "name", seal(t, status("us-east-1/a", "us-east"), us.Cert.KeyID, by(us))},
			{"signed by a director", "role", seal(t, status("d1", "eu-west"), director.Cert.KeyID, by(director))},
			{"an address that is not granted", "grant", seal(t, &wire.Body{Kind: wire.Kind_STATUS, Origin: "us-east/a", Epoch: 50, Version: 1, Payload: payload(t, elsewhere)}, us.Cert.KeyID, by(us))},
			{"more slots than granted", "grant", seal(t, &wire.Body{Kind: wire.Kind_STATUS, Origin: "us-east/a", Epoch: 50, Version: 1, Payload: payload(t, greedy)}, us.Cert.KeyID, by(us))},
			{"spill rows by a region", "role", seal(t, &wire.Body{Kind: wire.Kind_SPILL, Origin: "us-east/a", Epoch: 50, Version: 1}, us.Cert.KeyID, by(us))},
			{"not a status", "malformed", seal(t, &wire.Body{Kind: wire.Kind_STATUS, Origin: "us-east/a", Epoch: 50, Version: 1, Payload: []byte("x")}, us.Cert.KeyID, by(us))},
			{"of no certificate", "unknown-key", seal(t, status("eu-west/a", "eu-west"), fleet.KeyID{9}, by(eu))},
			{"replayed, oldest", "replayed", x.envelopes()[0]},
			{"replayed, newest", "replayed", x.envelopes()[len(x.envelopes())-1]},
			{"tampered", "", tampered},
			{"no envelope", "malformed", []byte("\x01garbage")},
			{"a certificate of another fleet", "forged", certResponse(t, strangersCert(t))},
			{"an expired certificate", "forged", certResponse(t, expired.Cert.DER)},
			{"nothing", "", []byte{1}},
			{"a message of the future", "", []byte{77, 1, 2}},
		} {
			count := d.metric("rhumb_gossip_refused_total", "reason="+c.reason)
			x.send(w, "d1", c.message)
			if got := d.metric("rhumb_gossip_refused_total", "reason="+c.reason); c.reason != "" && got <= count {
				t.Errorf("%s: not counted as %s", c.name, c.reason)
			}
			if after := d.report("eu-west/a"); after != before {
				t.Fatalf("%s: the status of eu-west/a became %+v", c.name, after)
			}
			if got := len(d.Snapshot().Reports); got != 2 {
				t.Fatalf("%s: %d statuses", c.name, got)
			}
			if age := d.ages()["eu-west/a"]; age < 5*time.Second {
				t.Fatalf("%s: the status of eu-west/a became %v old", c.name, age)
			}
		}
		w.until(3*time.Second, "the other region is not disturbed", func() bool { return d.ages()["us-east/a"] < 600*time.Millisecond })
		if s := d.report("us-east/a"); s.Epoch != 1 {
			t.Errorf("status of us-east/a is of epoch %d", s.Epoch)
		}
	})
}

func certResponse(t *testing.T, der []byte) []byte {
	t.Helper()
	b, err := wire.EncodeCertResponse(&wire.CertResponse{Cert: der})
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{3}, b...)
}

func strangersCert(t *testing.T) []byte {
	t.Helper()
	a, err := fleet.NewAuthority("test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Issue(fleet.Request{Role: fleet.RoleDirector, Name: "d1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return id.Cert.DER
}

func TestPublishRefuses(t *testing.T) {
	inWorld(t, func(w *world) {
		d, a := w.add("d1", nil), w.add("eu-west/a", nil)
		wrong := statusOf("eu-west/a", 1)
		wrong.Endpoints[0].Port = 8443
		broken := statusOf("eu-west/a", 1)
		broken.Models = append(broken.Models, broken.Models[0])
		for name, c := range map[string]struct {
			err  error
			want string
		}{
			"status of another region":     {a.PublishStatus(statusOf("us-east/a", 1)), "eu-west"},
			"status by a director":         {d.PublishStatus(statusOf("d1", 1)), "director"},
			"endpoint that is not granted": {a.PublishStatus(wrong), "8443"},
			"status that breaks a bound":   {a.PublishStatus(broken), "each once"},
			"status as a record":           {a.Publish(gossip.Record{Kind: wire.Kind_STATUS}), "PublishStatus"},
			"kind of another role":         {a.Publish(gossip.Record{Kind: wire.Kind_CONTROL}), "CONTROL"},
			"oversize":                     {a.Publish(gossip.Record{Kind: wire.Kind_RECORD, Payload: make([]byte, wire.MaxPayload+1)}), "payload"},
		} {
			if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
				t.Errorf("%s: error %v, want one with %q", name, c.err, c.want)
			}
		}
	})
}

// TestUnknownKey: a record under an unknown key is dropped, its origin asked for
// the certificate, seldom, and believed once that has come. This side of it is
// played by hand.
func TestUnknownKey(t *testing.T) {
	inWorld(t, func(w *world) {
		d := w.add("d1", nil)
		x := newThief(w, "eu-west/a")
		defer func() { _ = x.list.Shutdown() }()
		id := w.identity("eu-west/a")
		status := func(version uint64) []byte {
			body := &wire.Body{Kind: wire.Kind_STATUS, Origin: "eu-west/a", Epoch: 1, Version: version, Payload: payload(t, statusOf("eu-west/a", 1))}
			return seal(t, body, id.Cert.KeyID, by(id))
		}
		for version := range uint64(5) { // 200 ms each
			x.send(w, "d1", status(version+1))
		}
		asked := x.got(2)
		if len(asked) != 1 {
			t.Fatalf("asked %d times within a second, want once", len(asked))
		}
		request, err := wire.DecodeCertRequest(asked[0][1:])
		if err != nil || request.GetFrom() != "d1" || fleet.KeyID(request.GetKeyId()) != id.Cert.KeyID {
			t.Fatalf("request %v, error %v", request, err)
		}
		if d.report("eu-west/a") != nil {
			t.Fatal("believed without a certificate")
		}
		x.send(w, "d1", certResponse(t, id.Cert.DER))
		x.send(w, "d1", status(10))
		if s := d.report("eu-west/a"); s == nil || s.Version != 10 {
			t.Errorf("status %+v after the certificate came", s)
		}

		// The other way round: the director answers for its own key.
		own := w.identity("d1").Cert.KeyID
		ask, err := wire.EncodeCertRequest(&wire.CertRequest{KeyId: own[:], From: "eu-west/a"})
		if err != nil {
			t.Fatal(err)
		}
		x.send(w, "d1", append([]byte{2}, ask...))
		x.send(w, "d1", append([]byte{2}, ask...))
		answers := x.got(3)
		if len(answers) != 1 {
			t.Fatalf("%d answers to two requests at once, want one", len(answers))
		}
		answer, err := wire.DecodeCertResponse(answers[0][1:])
		if err != nil {
			t.Fatal(err)
		}
		if cert, err := w.roots.Verify(answer.GetCert(), time.Now()); err != nil || cert.KeyID != own {
			t.Errorf("certificate %+v, error %v", cert, err)
		}
	})
}
