package wire_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares bytes with a hex file (64 digits a line), or writes it.
func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	file := filepath.Join("testdata", name+".hex")
	if *update && got != nil {
		var out strings.Builder
		for line := range chunks(hex.EncodeToString(got), 64) {
			out.WriteString(line + "\n")
		}
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if got != nil && !bytes.Equal(got, want) {
		t.Errorf("%s: bytes on the wire changed; members of the last version would misread them\n got %x\nwant %x", file, got, want)
	}
	return want
}

func chunks(s string, n int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for len(s) > n {
			if !yield(s[:n]) {
				return
			}
			s = s[n:]
		}
		yield(s)
	}
}

func endpoint(scheme, host string, port uint16, addrs ...string) regions.Endpoint {
	e := regions.Endpoint{Scheme: scheme, Host: host, Port: port}
	for _, a := range addrs {
		e.Addrs = append(e.Addrs, netip.MustParseAddr(a))
	}
	return e
}

func sampleStatus() *regions.Status {
	return &regions.Status{
		Agent: "eu-west/agent-1", Region: "eu-west", Epoch: 7, Version: 1234, Protocol: 1,
		Location:  regions.Location{Lat: 53_349_805, Lon: -6_260_310},
		Endpoints: []regions.Endpoint{endpoint("https", "eu-west.inference.example.com", 443, "192.0.2.10", "2001:db8::10")},
		Draining:  true, ConfigHash: 0x0102030405060708,
		Models: []regions.ModelStatus{
			{
				Name: "llama", Host: "llama-3", Fingerprint: regions.Fingerprint{Version: 3, ConfigHash: 0xfeedfacecafebeef}, PoolID: 0x1122334455667788,
				Pods:  regions.PodCounts{Ready: 3, Warming: 1, Ejected: 2, Draining: 4, Gone: 5},
				Slots: regions.Slots(24), SlotsSource: regions.SlotsConfigured,
				InFlight: 17, Queued: 4, Wait: 350_000, TTFT: 210_000, Arrivals: 123_456, Completions: 123_435,
			},
			{Name: "mistral"},
		},
	}
}

func sampleSpillRow() *regions.SpillRow {
	return &regions.SpillRow{
		Source: "us-east", Model: "llama", Lifetime: 30 * time.Second, Leave: 125, Table: 0xa1a2a3a4a5a6a7a8,
		Targets: []regions.SpillTarget{
			{Region: "eu-west", Endpoint: endpoint("https", "eu-west.inference.example.com", 443, "192.0.2.10", "2001:db8::10"), Budget: regions.Slots(12)},
			{Region: "ap-northeast", Endpoint: endpoint("http", "198.51.100.7", 8080, "198.51.100.7"), Budget: 1500},
		},
	}
}

func sampleBody(kind wire.Kind, key string, payload []byte) *wire.Body {
	return &wire.Body{Kind: kind, Origin: "eu-west/agent-1", Epoch: 7, Version: 1234, Key: key, Payload: payload}
}

// sampleEnvelope has a made-up key and signature: wire checks neither.
func sampleEnvelope(t *testing.T, body *wire.Body) *wire.Envelope {
	t.Helper()
	raw, err := wire.EncodeBody(body)
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Envelope{Body: raw, KeyId: []byte("\x01\x02\x03\x04\x05\x06\x07\x08"), Sig: bytes.Repeat([]byte{0xab}, 64)}
}

func TestStatusGolden(t *testing.T) {
	payload, err := wire.EncodeStatus(sampleStatus())
	if err != nil {
		t.Fatal(err)
	}
	raw := golden(t, "status", payload)
	got, err := wire.DecodeStatus(sampleBody(wire.Kind_STATUS, "", raw))
	if err != nil {
		t.Fatal(err)
	}
	if want := sampleStatus(); !reflect.DeepEqual(got, want) {
		t.Errorf("decoded %+v\nwant    %+v", got, want)
	}
}

// TestStoppingGolden: what the last version does not know is one field more, and
// its own statuses, in status.hex, say nothing of stopping.
func TestStoppingGolden(t *testing.T) {
	want := sampleStatus()
	want.Draining, want.Stopping = false, true
	payload, err := wire.EncodeStatus(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.DecodeStatus(sampleBody(wire.Kind_STATUS, "", golden(t, "status_stopping", payload)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("decoded %+v\nwant    %+v", got, want)
	}
}

func TestSpillRowGolden(t *testing.T) {
	payload, err := wire.EncodeSpillRow(sampleSpillRow())
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.DecodeSpillRow(golden(t, "spillrow", payload))
	if err != nil {
		t.Fatal(err)
	}
	if want := sampleSpillRow(); !reflect.DeepEqual(got, want) {
		t.Errorf("decoded %+v\nwant    %+v", got, want)
	}
}

func TestEnvelopeGolden(t *testing.T) {
	payload, err := wire.EncodeStatus(sampleStatus())
	if err != nil {
		t.Fatal(err)
	}
	want := sampleEnvelope(t, sampleBody(wire.Kind_STATUS, "", payload))
	b, err := wire.EncodeEnvelope(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.DecodeEnvelope(golden(t, "envelope", b))
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("decoded %v\nwant    %v", got, want)
	}
	body, err := wire.DecodeBody(got.GetBody())
	if err != nil {
		t.Fatal(err)
	}
	if want := sampleBody(wire.Kind_STATUS, "", payload); !proto.Equal(body, want) {
		t.Errorf("decoded body %v\nwant         %v", body, want)
	}
}

// unknown appends what a newer version could add: one field of each wire type.
func unknown(b []byte) []byte {
	b = protowire.AppendVarint(protowire.AppendTag(b, 200, protowire.VarintType), 1)
	b = protowire.AppendFixed32(protowire.AppendTag(b, 201, protowire.Fixed32Type), 2)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 202, protowire.Fixed64Type), 3)
	return protowire.AppendString(protowire.AppendTag(b, 203, protowire.BytesType), "new")
}

// nextStatus is the sample as a newer version would write it: more fields at
// every level, an endpoint of a new scheme, a higher protocol version.
func nextStatus(t *testing.T) []byte {
	t.Helper()
	m := &wire.Status{}
	if err := proto.Unmarshal(golden(t, "status", nil), m); err != nil {
		t.Fatal(err)
	}
	m.Protocol++
	m.Endpoints = append(m.Endpoints, &wire.Endpoint{Scheme: 9, Host: "eu-west.inference.example.com", Port: 443})
	m.ProtoReflect().SetUnknown(unknown(nil))
	for _, x := range m.GetModels() {
		x.ProtoReflect().SetUnknown(unknown(nil))
	}
	for _, x := range m.GetEndpoints() {
		x.ProtoReflect().SetUnknown(unknown(nil))
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestNextVersionGolden reads what version N+1 writes.
func TestNextVersionGolden(t *testing.T) {
	payload := golden(t, "status_next", nextStatus(t))
	want := sampleStatus()
	want.Protocol = 2
	got, err := wire.DecodeStatus(sampleBody(wire.Kind_STATUS, "", payload))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("decoded %+v\nwant    %+v", got, want)
	}

	row, err := wire.EncodeSpillRow(sampleSpillRow())
	if err != nil {
		t.Fatal(err)
	}
	gotRow, err := wire.DecodeSpillRow(golden(t, "spillrow_next", unknown(row)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(gotRow, sampleSpillRow()) {
		t.Errorf("decoded %+v", gotRow)
	}

	// A kind of a newer version, with more fields in body and envelope: readable,
	// and the signed bytes stay what they were.
	rawBody, err := wire.EncodeBody(sampleBody(77, "k", []byte("new")))
	if err != nil {
		t.Fatal(err)
	}
	env := sampleEnvelope(t, sampleBody(wire.Kind_STATUS, "", nil))
	env.Body = unknown(rawBody)
	raw, err := wire.EncodeEnvelope(env)
	if err != nil {
		t.Fatal(err)
	}
	gotEnv, err := wire.DecodeEnvelope(golden(t, "envelope_next", unknown(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(gotEnv.GetBody(), env.GetBody()) {
		t.Error("the body's bytes changed on their way through an envelope")
	}
	body, err := wire.DecodeBody(gotEnv.GetBody())
	if err != nil {
		t.Fatal(err)
	}
	if body.GetKind() != 77 || string(body.GetPayload()) != "new" {
		t.Errorf("decoded body %v", body)
	}
}

// TestSizes holds the promise that makes one UDP packet enough: a status of 8
// models as an envelope has at most 1,050 bytes, a spill row 1 KB.
func TestSizes(t *testing.T) {
	s := sampleStatus()
	s.Models = nil
	for _, name := range []string{
		"deepseek-r1-distill-70b", "embed-bge-large-en-v1.5", "gemma-2-27b-it", "llama-3.1-405b-instruct-fp8",
		"llama-3.1-70b-instruct", "llama-3.1-8b-instruct", "mistral-large-2411", "qwen2.5-coder-32b-instruct",
	} {
		s.Models = append(s.Models, regions.ModelStatus{
			Name: regions.ModelName(name), Fingerprint: regions.Fingerprint{Version: 12, ConfigHash: ^uint64(0)}, PoolID: ^uint64(0),
			Pods: regions.PodCounts{Ready: 120, Warming: 3, Ejected: 1}, Slots: regions.Slots(1920), SlotsSource: regions.SlotsReported,
			InFlight: 1800, Queued: 140, Wait: 1_250_000, TTFT: 480_000, Arrivals: 98_765_432, Completions: 98_765_000,
		})
	}
	s.Version = 10_000_000
	payload, err := wire.EncodeStatus(s)
	if err != nil {
		t.Fatal(err)
	}
	b, err := wire.EncodeEnvelope(sampleEnvelope(t, sampleBody(wire.Kind_STATUS, "", payload)))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("status of 8 models: %d bytes", len(b))
	if len(b) > 1050 {
		t.Errorf("a status of 8 models has %d bytes as an envelope, more than 1050", len(b))
	}

	r := sampleSpillRow()
	r.Model = "llama-3.1-405b-instruct-fp8"
	r.Targets = nil
	for _, id := range []regions.ID{"eu-west", "eu-central", "ap-northeast", "ap-southeast", "sa-east", "us-west", "me-central", "af-south"} {
		r.Targets = append(r.Targets, regions.SpillTarget{
			Region: id, Budget: regions.Slots(480),
			Endpoint: endpoint("https", string(id)+".inference.example.com", 8443, "192.0.2.10", "192.0.2.11", "2001:db8::10"),
		})
	}
	if payload, err = wire.EncodeSpillRow(r); err != nil {
		t.Fatal(err)
	}
	if b, err = wire.EncodeEnvelope(sampleEnvelope(t, sampleBody(wire.Kind_SPILL, "us-east/"+string(r.Model), payload))); err != nil {
		t.Fatal(err)
	}
	t.Logf("spill row of 8 targets: %d bytes", len(b))
	if len(b) > 1024 {
		t.Errorf("a spill row of 8 targets has %d bytes as an envelope, more than 1024", len(b))
	}
}
