package wire_test

import (
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

func TestStatusBounds(t *testing.T) {
	many := func(n int) []regions.ModelStatus {
		var out []regions.ModelStatus
		for i := range n {
			out = append(out, regions.ModelStatus{Name: regions.ModelName("m" + string(rune('a'+i/26/26)) + string(rune('a'+i/26%26)) + string(rune('a'+i%26)))})
		}
		return out
	}
	for name, c := range map[string]struct {
		change func(*regions.Status)
		want   string
	}{
		"region":           {func(s *regions.Status) { s.Region = "EU West" }, "DNS label"},
		"protocol":         {func(s *regions.Status) { s.Protocol = 0 }, "protocol version 0"},
		"latitude":         {func(s *regions.Status) { s.Location.Lat = 90_000_001 }, "latitude"},
		"longitude":        {func(s *regions.Status) { s.Location.Lon = -180_000_001 }, "longitude"},
		"models":           {func(s *regions.Status) { s.Models = many(257) }, "257 models"},
		"unsorted":         {func(s *regions.Status) { s.Models[0], s.Models[1] = s.Models[1], s.Models[0] }, "sorted by name"},
		"twice":            {func(s *regions.Status) { s.Models[1] = s.Models[0] }, "each once"},
		"no model name":    {func(s *regions.Status) { s.Models[0].Name = "" }, "model name of 0 bytes"},
		"long model name":  {func(s *regions.Status) { s.Models[1].Name = regions.ModelName(strings.Repeat("x", 256)) }, "256 bytes"},
		"UTF-8":            {func(s *regions.Status) { s.Models[0].Name = "a\xff" }, "UTF-8"},
		"control":          {func(s *regions.Status) { s.Models[0].Name = "a\nb" }, "control character"},
		"negative slots":   {func(s *regions.Status) { s.Models[0].Slots = -1 }, "negative"},
		"too many slots":   {func(s *regions.Status) { s.Models[0].Slots = 1_000_000_001 }, "slot"},
		"in flight":        {func(s *regions.Status) { s.Models[0].InFlight = wire.MaxRequests + 1 }, "1000001 requests in flight"},
		"queued":           {func(s *regions.Status) { s.Models[0].Queued = wire.MaxRequests + 1 }, "1000001 queued"},
		"wait":             {func(s *regions.Status) { s.Models[0].Wait = 1 << 40 }, "wait"},
		"TTFT":             {func(s *regions.Status) { s.Models[0].TTFT = 1 << 40 }, "TTFT"},
		"model host":       {func(s *regions.Status) { s.Models[0].Host = "Llama" }, "DNS label"},
		"scheme":           {func(s *regions.Status) { s.Endpoints[0].Scheme = "ftp" }, "http or https"},
		"host":             {func(s *regions.Status) { s.Endpoints[0].Host = "a b" }, "neither a name nor an address"},
		"header in a host": {func(s *regions.Status) { s.Endpoints[0].Host = "a\r\nSet-Cookie: x" }, "neither a name nor an address"},
		"port":             {func(s *regions.Status) { s.Endpoints[0].Port = 0 }, "port 0"},
		"address":          {func(s *regions.Status) { s.Endpoints[0].Addrs[0] = netip.Addr{} }, "want 4 or 16"},
		"multicast":        {func(s *regions.Status) { s.Endpoints[0].Addrs[0] = netip.MustParseAddr("224.0.0.1") }, "not the address of a host"},
		"endpoints": {func(s *regions.Status) {
			s.Endpoints = slices.Repeat(s.Endpoints, wire.MaxEndpoints+1)
		}, "9 endpoints"},
		"addresses": {func(s *regions.Status) {
			s.Endpoints[0].Addrs = slices.Repeat(s.Endpoints[0].Addrs[:1], wire.MaxAddrs+1)
		}, "9 addresses"},
		"no endpoint": {func(s *regions.Status) { s.Endpoints = nil }, "no endpoint"},
		"no address":  {func(s *regions.Status) { s.Endpoints[0].Addrs = nil }, "no address"},
	} {
		t.Run(name, func(t *testing.T) {
			s := sampleStatus()
			c.change(s)
			if _, err := wire.EncodeStatus(s); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	s := sampleStatus()
	s.Models = many(256)
	s.Models[0].InFlight, s.Models[0].Queued, s.Models[0].Slots = wire.MaxRequests, wire.MaxRequests, wire.MaxSlots
	s.Endpoints[0].Addrs = slices.Repeat(s.Endpoints[0].Addrs[:1], wire.MaxAddrs)
	s.Endpoints = slices.Repeat(s.Endpoints, wire.MaxEndpoints)
	if _, err := wire.EncodeStatus(s); err != nil {
		t.Errorf("as much as is allowed: %v", err)
	}
}

// TestDecodeStatusBounds: what an honest encoder never writes is refused as well.
func TestDecodeStatusBounds(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*wire.Status)
		want   string
	}{
		"in flight":   {func(m *wire.Status) { m.Models[0].InFlight = math.MaxUint32 }, "in flight"},
		"queued":      {func(m *wire.Status) { m.Models[0].Queued = math.MaxUint32 }, "queued"},
		"slots":       {func(m *wire.Status) { m.Models[0].Slots = math.MaxUint64 }, "of a slot"},
		"wait":        {func(m *wire.Status) { m.Models[0].Wait = math.MaxUint64 }, "wait"},
		"TTFT":        {func(m *wire.Status) { m.Models[0].Ttft = math.MaxUint64 }, "TTFT"},
		"no endpoint": {func(m *wire.Status) { m.Endpoints = nil }, "no endpoint"},
		"no address":  {func(m *wire.Status) { m.Endpoints[0].Addrs = nil }, "no address"},
		"endpoints": {func(m *wire.Status) {
			m.Endpoints = slices.Repeat(m.Endpoints, wire.MaxEndpoints+1)
		}, "9 endpoints"},
		"addresses": {func(m *wire.Status) {
			m.Endpoints[0].Addrs = slices.Repeat(m.Endpoints[0].Addrs[:1], wire.MaxAddrs+1)
		}, "9 addresses"},
		"newer schemes only": {func(m *wire.Status) { m.Endpoints[0].Scheme = 9 }, "no endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &wire.Status{}
			if err := proto.Unmarshal(must(wire.EncodeStatus(sampleStatus())), m); err != nil {
				t.Fatal(err)
			}
			c.change(m)
			body := sampleBody(wire.Kind_STATUS, "", must(proto.Marshal(m)))
			if _, err := wire.DecodeStatus(body); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestMappedAddressIsSentAsIPv4(t *testing.T) {
	s := sampleStatus()
	s.Endpoints[0].Addrs = []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.10")}
	payload, err := wire.EncodeStatus(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.DecodeStatus(sampleBody(wire.Kind_STATUS, "", payload))
	if err != nil {
		t.Fatal(err)
	}
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.10")}; !reflect.DeepEqual(got.Endpoints[0].Addrs, want) {
		t.Errorf("addresses %v, want %v", got.Endpoints[0].Addrs, want)
	}
}

func TestSpillRowBounds(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*regions.SpillRow)
		want   string
	}{
		"source":          {func(r *regions.SpillRow) { r.Source = "" }, "DNS label"},
		"model":           {func(r *regions.SpillRow) { r.Model = "" }, "model name"},
		"leave":           {func(r *regions.SpillRow) { r.Leave = 1001 }, "leave"},
		"negative leave":  {func(r *regions.SpillRow) { r.Leave = -1 }, "leave"},
		"lifetime":        {func(r *regions.SpillRow) { r.Lifetime = -1 }, "lifetime"},
		"budget":          {func(r *regions.SpillRow) { r.Targets[0].Budget = -1 }, "negative budget"},
		"target":          {func(r *regions.SpillRow) { r.Targets[0].Region = "x." }, "DNS label"},
		"target = source": {func(r *regions.SpillRow) { r.Targets[0].Region = r.Source }, "is the source"},
		"endpoint":        {func(r *regions.SpillRow) { r.Targets[0].Endpoint = regions.Endpoint{} }, "http or https"},
		"targets":         {func(r *regions.SpillRow) { r.Targets = make([]regions.SpillTarget, 17) }, "http or https"},
	} {
		t.Run(name, func(t *testing.T) {
			r := sampleSpillRow()
			c.change(r)
			if _, err := wire.EncodeSpillRow(r); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestBodyBounds(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*wire.Body)
		want   string
	}{
		"kind":        {func(b *wire.Body) { b.Kind = 0 }, "kind"},
		"origin":      {func(b *wire.Body) { b.Origin = "" }, "origin of 0"},
		"long origin": {func(b *wire.Body) { b.Origin = strings.Repeat("x", 128) }, "origin of 128"},
		"odd origin":  {func(b *wire.Body) { b.Origin = "a b" }, "visible ASCII"},
		"epoch":       {func(b *wire.Body) { b.Epoch = 0 }, "epoch"},
		"last epoch":  {func(b *wire.Body) { b.Epoch = wire.MaxEpoch }, "epoch"},
		"version":     {func(b *wire.Body) { b.Version = 0 }, "version"},
		"payload":     {func(b *wire.Body) { b.Payload = make([]byte, wire.MaxPayload+1) }, "payload"},
		"key":         {func(b *wire.Body) { b.Key = strings.Repeat("x", wire.MaxKey+1) }, "key of"},
		"odd key":     {func(b *wire.Body) { b.Key = "\x00" }, "control character"},
	} {
		t.Run(name, func(t *testing.T) {
			b := sampleBody(wire.Kind_RECORD, "k", []byte("x"))
			c.change(b)
			if _, err := wire.EncodeBody(b); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestBodyOrder(t *testing.T) {
	b := sampleBody(wire.Kind_RECORD, "", nil) // epoch 7, version 1234
	for _, c := range []struct {
		epoch, version uint64
		want           bool
	}{{7, 1234, false}, {7, 1235, false}, {8, 1, false}, {7, 1233, true}, {6, 9999, true}, {0, 0, true}} {
		if got := b.Newer(c.epoch, c.version); got != c.want {
			t.Errorf("(7, 1234) newer than (%d, %d): %v", c.epoch, c.version, got)
		}
	}
}

func TestEnvelopeBounds(t *testing.T) {
	for name, change := range map[string]func(*wire.Envelope){
		"body":   func(e *wire.Envelope) { e.Body = nil },
		"key id": func(e *wire.Envelope) { e.KeyId = e.KeyId[1:] },
		"sig":    func(e *wire.Envelope) { e.Sig = e.Sig[1:] },
		"size":   func(e *wire.Envelope) { e.Body = make([]byte, wire.MaxEnvelope) },
	} {
		e := sampleEnvelope(t, sampleBody(wire.Kind_RECORD, "", nil))
		change(e)
		if _, err := wire.EncodeEnvelope(e); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSmallMessages(t *testing.T) {
	meta, err := wire.EncodeMeta(&wire.Meta{Protocol: 1, Role: wire.Role_AGENT, Region: "eu-west"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := wire.DecodeMeta(meta); err != nil || m.GetRole() != wire.Role_AGENT || m.GetRegion() != "eu-west" {
		t.Errorf("meta %v, error %v", m, err)
	}
	req, err := wire.EncodeCertRequest(&wire.CertRequest{KeyId: make([]byte, 8), From: "d1"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := wire.DecodeCertRequest(req); err != nil || r.GetFrom() != "d1" {
		t.Errorf("request %v, error %v", r, err)
	}
	resp, err := wire.EncodeCertResponse(&wire.CertResponse{Cert: []byte("der")})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := wire.DecodeCertResponse(resp); err != nil || string(r.GetCert()) != "der" {
		t.Errorf("response %v, error %v", r, err)
	}
	for name, err := range map[string]error{
		"meta without a role": second(wire.DecodeMeta(must(wire.EncodeMeta(&wire.Meta{Protocol: 1})))),
		"meta, empty":         second(wire.DecodeMeta(nil)),
		"request, empty":      second(wire.DecodeCertRequest(nil)),
		"request, huge":       second(wire.DecodeCertRequest(make([]byte, 513))),
		"response, empty":     second(wire.DecodeCertResponse(nil)),
		"state, huge":         second(wire.DecodeState(make([]byte, wire.MaxState+1))),
		"status, wrong kind":  second(wire.DecodeStatus(sampleBody(wire.Kind_SPILL, "", nil))),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func second[T any](_ T, err error) error { return err }
