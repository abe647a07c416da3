package wire_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// TestDigestGolden also reads what version N+1 writes, which has more fields.
func TestDigestGolden(t *testing.T) {
	want := wire.DigestOf(sampleStatus())
	payload, err := wire.EncodeDigest(want)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"digest": payload, "digest_next": unknown(payload)} {
		got, err := wire.DecodeDigest(golden(t, name, raw))
		if err != nil {
			t.Fatal(err)
		}
		got.ProtoReflect().SetUnknown(nil)
		if !proto.Equal(got, want) {
			t.Errorf("%s: decoded %v\nwant    %v", name, got, want)
		}
	}
}

func TestDigestOf(t *testing.T) {
	d := wire.DigestOf(sampleStatus())
	if d.GetRegion() != "eu-west" || !d.GetDraining() || d.GetStopping() || d.GetSlots() != 24_000 {
		t.Errorf("digest %v", d)
	}
	if d.GetLoad() != 875 { // 17 in flight and 4 queued on 24 slots
		t.Errorf("load of %d thousandths, want 875", d.GetLoad())
	}
	for name, c := range map[string]struct {
		m    regions.ModelStatus
		load uint32
	}{
		"idle":              {regions.ModelStatus{Slots: 1}, 0},
		"nothing":           {regions.ModelStatus{}, 0},
		"no slots, a queue": {regions.ModelStatus{Queued: 1}, wire.MaxLoad},
		"far too much":      {regions.ModelStatus{Slots: 1, InFlight: wire.MaxRequests, Queued: wire.MaxRequests}, wire.MaxLoad},
		"full":              {regions.ModelStatus{Slots: regions.Slots(8), InFlight: 8}, 1000},
	} {
		if got := wire.DigestOf(&regions.Status{Models: []regions.ModelStatus{c.m}}).GetLoad(); got != c.load {
			t.Errorf("%s: load %d, want %d", name, got, c.load)
		}
	}
}

// TestDigestOfEndpoints: each change of an endpoint shows, also one that moves a
// byte from one field to the next.
func TestDigestOfEndpoints(t *testing.T) {
	seen := map[uint64]int{}
	for i, all := range [][]regions.Endpoint{
		nil,
		{endpoint("http", "a", 80, "192.0.2.1")},
		{endpoint("https", "a", 80, "192.0.2.1")},
		{endpoint("http", "b", 80, "192.0.2.1")},
		{endpoint("http", "a", 81, "192.0.2.1")},
		{endpoint("http", "a", 80, "192.0.2.2")},
		{endpoint("http", "a", 80, "2001:db8::1")},
		{endpoint("http", "a", 80, "192.0.2.1", "192.0.2.2")},
		{endpoint("http", "a", 80, "192.0.2.1"), endpoint("http", "b", 80, "192.0.2.1")},
		{endpoint("http", "b", 80, "192.0.2.1"), endpoint("http", "a", 80, "192.0.2.1")},
	} {
		h := wire.DigestOf(&regions.Status{Endpoints: all}).GetEndpoints()
		if other, ok := seen[h]; ok {
			t.Errorf("endpoints %d and %d have one hash", i, other)
		}
		seen[h] = i
	}
}

// TestDigestSize holds the promise of 200 bytes for a digest with names as a
// cluster gives them, passed on by another member.
func TestDigestSize(t *testing.T) {
	body := sampleBody(wire.Kind_DIGEST, "", nil)
	body.Origin = "northamerica-northeast1/rhumb-agent-7d9f8b6c5-x2x4z"
	body.Epoch, body.Version = 1_000, 100_000_000
	d := &wire.Digest{Region: "northamerica-northeast1", Draining: true, Stopping: true, Endpoints: ^uint64(0), Slots: 2_000_000, Load: 100_000}
	var err error
	if body.Payload, err = wire.EncodeDigest(d); err != nil {
		t.Fatal(err)
	}
	raw, err := wire.EncodeEnvelope(sampleEnvelope(t, body))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("digest: %d bytes", len(raw))
	if len(raw) > 200 {
		t.Errorf("a digest has %d bytes as an envelope, more than 200", len(raw))
	}
	const year = 365 * 24 * 3600 * 1000
	held, err := wire.EncodeHeld(&wire.Held{Envelope: raw, AgeMs: year})
	if err != nil {
		t.Fatal(err)
	}
	if len(held) > len(raw)+wire.HeldOverhead {
		t.Errorf("passing it on takes %d bytes more, above %d", len(held)-len(raw), wire.HeldOverhead)
	}
}

func TestDigestRefusals(t *testing.T) {
	marshal := func(m proto.Message) []byte { return must(proto.Marshal(m)) }
	second := func(_ any, err error) error { return err }
	digest := func(d *wire.Digest) error {
		if err := second(wire.EncodeDigest(d)); err == nil {
			t.Errorf("%v can be encoded", d)
		}
		return second(wire.DecodeDigest(marshal(d)))
	}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"no region":      {digest(&wire.Digest{}), "region"},
		"many slots":     {digest(&wire.Digest{Region: "eu", Slots: 1 << 62}), "slot"},
		"high load":      {digest(&wire.Digest{Region: "eu", Load: wire.MaxLoad + 1}), "load"},
		"long":           {second(wire.DecodeDigest(make([]byte, 513))), "513 bytes"},
		"no envelope":    {second(wire.DecodeHeld(marshal(&wire.Held{AgeMs: 1}))), "envelope of 0 bytes"},
		"large envelope": {second(wire.DecodeHeld(make([]byte, wire.MaxEnvelope+33))), "bytes"},
		"no origin":      {second(wire.DecodeWant(marshal(&wire.Want{From: "d1"}))), "origin"},
		"no asker":       {second(wire.DecodeWant(marshal(&wire.Want{Origin: "a"}))), "from"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, c.err, c.want)
		}
	}
}
