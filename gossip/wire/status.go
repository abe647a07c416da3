package wire

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"google.golang.org/protobuf/proto"
)

// Bounds on a status. A region with more belongs cut in two.
const (
	// MaxModels is the most models of a region. With names of 40 bytes a status
	// of 256 is about 40 KB, below MaxPayload.
	MaxModels = 256
	// MaxEndpoints is the most endpoints of a region: a name and an address, each
	// with and without TLS, twice over.
	MaxEndpoints = 8
	// MaxAddrs is the most addresses of an endpoint; an answer of 8 addresses of
	// each family is a third of a DNS message of 1,232 bytes.
	MaxAddrs = 8
	// MaxSlots is a million slots: no region has as many, and sums over a fleet
	// stay far from overflow.
	MaxSlots regions.MilliSlots = 1_000_000_000
	// MaxRequests is the most requests in flight, and the most queued, of a model
	// at one agent: what a million slots run.
	MaxRequests = 1_000_000

	maxModelName = 255 // a file name: Triton's models are directories
	maxHost      = 253 // RFC 1035 section 2.3.4, as text without the final dot

	maxLat, maxLon = 90_000_000, 180_000_000
	// maxTime bounds times that enter a decision; a day is longer than any queue.
	maxTime = int64(24 * time.Hour / time.Microsecond)
)

// EncodeStatus gives the payload of a STATUS body, or says what is wrong with
// the status. Agent, Epoch and Version are not in it: they are the body's.
func EncodeStatus(s *regions.Status) ([]byte, error) {
	m := &Status{
		Region: string(s.Region), Protocol: s.Protocol,
		Lat: s.Location.Lat, Lon: s.Location.Lon,
		Draining: s.Draining, Stopping: s.Stopping, ConfigHash: s.ConfigHash,
	}
	for i := range s.Endpoints {
		m.Endpoints = append(m.Endpoints, encodeEndpoint(&s.Endpoints[i]))
	}
	for i := range s.Models {
		if err := checkEncodable(&s.Models[i]); err != nil {
			return nil, fmt.Errorf("encode status: model %q: %w", s.Models[i].Name, err)
		}
		m.Models = append(m.Models, encodeModel(&s.Models[i]))
	}
	for i, e := range m.Endpoints {
		if e.GetScheme() == Scheme_SCHEME_UNSPECIFIED {
			return nil, fmt.Errorf("encode status: endpoint %q: scheme %q, want http or https", s.Endpoints[i].Host, s.Endpoints[i].Scheme)
		}
	}
	if err := checkStatus(m); err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	b, err := order.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	if len(b) > MaxPayload {
		return nil, fmt.Errorf("encode status: %d bytes, at most %d allowed", len(b), MaxPayload)
	}
	return b, nil
}

// DecodeStatus reads the status of a STATUS body. An endpoint of a scheme that
// this version does not know is left out, since a newer agent may offer one
// beside the others; if none is left, that is an error. The result shares no memory with the body.
func DecodeStatus(body *Body) (*regions.Status, error) {
	if body.GetKind() != Kind_STATUS {
		return nil, fmt.Errorf("decode status: the body's kind is %v", body.GetKind())
	}
	if len(body.GetPayload()) > MaxPayload {
		return nil, fmt.Errorf("decode status: %d bytes, at most %d allowed", len(body.GetPayload()), MaxPayload)
	}
	m := &Status{}
	if err := proto.Unmarshal(body.GetPayload(), m); err != nil {
		return nil, fmt.Errorf("decode status: %w", err)
	}
	if err := checkStatus(m); err != nil {
		return nil, fmt.Errorf("decode status: %w", err)
	}
	s := &regions.Status{
		Agent: regions.AgentID(body.GetOrigin()), Epoch: body.GetEpoch(), Version: body.GetVersion(),
		Region: regions.ID(m.GetRegion()), Protocol: m.GetProtocol(),
		Location: regions.Location{Lat: m.GetLat(), Lon: m.GetLon()},
		Draining: m.GetDraining(), Stopping: m.GetStopping(), ConfigHash: m.GetConfigHash(),
	}
	for _, e := range m.GetEndpoints() {
		if endpoint, known := decodeEndpoint(e); known {
			s.Endpoints = append(s.Endpoints, endpoint)
		}
	}
	for _, model := range m.GetModels() {
		s.Models = append(s.Models, decodeModel(model))
	}
	return s, nil
}

func checkStatus(m *Status) error {
	if err := regions.ID(m.GetRegion()).Validate(); err != nil {
		return err
	}
	switch {
	case m.GetProtocol() == 0:
		return fmt.Errorf("protocol version 0, want 1 or more")
	case m.GetLat() < -maxLat || m.GetLat() > maxLat:
		return fmt.Errorf("latitude of %d millionths outside of ±90°", m.GetLat())
	case m.GetLon() < -maxLon || m.GetLon() > maxLon:
		return fmt.Errorf("longitude of %d millionths outside of ±180°", m.GetLon())
	case len(m.GetEndpoints()) > MaxEndpoints:
		return fmt.Errorf("%d endpoints, at most %d allowed", len(m.GetEndpoints()), MaxEndpoints)
	case len(m.GetModels()) > MaxModels:
		return fmt.Errorf("%d models, at most %d allowed", len(m.GetModels()), MaxModels)
	}
	if err := checkEndpoints(m.GetEndpoints()); err != nil {
		return err
	}
	for i, model := range m.GetModels() {
		if err := checkModel(model); err != nil {
			return fmt.Errorf("model %q: %w", model.GetName(), err)
		}
		if i > 0 && m.GetModels()[i-1].GetName() >= model.GetName() {
			return fmt.Errorf("model %q follows %q: models must be sorted by name, each once", model.GetName(), m.GetModels()[i-1].GetName())
		}
	}
	return nil
}

// checkEndpoints wants one endpoint at least of a scheme that this version knows,
// and addresses of each such: without them a region can't be part of any answer.
// What a newer scheme needs is the newer version's to check.
func checkEndpoints(all []*Endpoint) error {
	usable := 0
	for _, e := range all {
		if err := checkEndpoint(e); err != nil {
			return err
		}
		if e.GetScheme() > Scheme_HTTPS {
			continue
		}
		if usable++; len(e.GetAddrs()) == 0 {
			return fmt.Errorf("endpoint %q has no address; give those that DNS answers are to carry", e.GetHost())
		}
	}
	if usable == 0 {
		return fmt.Errorf("no endpoint among %d that is http or https; a region needs one, with its addresses", len(all))
	}
	return nil
}

// checkEncodable finds what encodeModel's unsigned fields would hide.
func checkEncodable(m *regions.ModelStatus) error {
	if m.Slots < 0 || m.Wait < 0 || m.TTFT < 0 {
		return fmt.Errorf("slots %d, wait %d, TTFT %d: none may be negative", m.Slots, m.Wait, m.TTFT)
	}
	return nil
}

func checkModel(m *Model) error {
	if err := checkModelName(m.GetName()); err != nil {
		return err
	}
	if m.GetHost() != "" && regions.ID(m.GetHost()).Validate() != nil {
		return fmt.Errorf("host %q is not a lower-case DNS label", m.GetHost())
	}
	switch {
	case m.GetSlots() > uint64(MaxSlots):
		return fmt.Errorf("%d thousandths of a slot, at most %d allowed", m.GetSlots(), MaxSlots)
	case m.GetSlotsSource() > math.MaxUint8:
		return fmt.Errorf("slots source %d, at most 255 allowed", m.GetSlotsSource())
	case m.GetInFlight() > MaxRequests || m.GetQueued() > MaxRequests:
		return fmt.Errorf("%d requests in flight and %d queued, at most %d of each allowed", m.GetInFlight(), m.GetQueued(), MaxRequests)
	case m.GetWait() > uint64(maxTime):
		return fmt.Errorf("wait of %d µs, at most a day allowed", m.GetWait())
	case m.GetTtft() > uint64(maxTime):
		return fmt.Errorf("TTFT of %d µs, at most a day allowed", m.GetTtft())
	}
	for _, n := range []uint32{m.GetPodsReady(), m.GetPodsWarming(), m.GetPodsEjected(), m.GetPodsDraining(), m.GetPodsGone()} {
		if n > math.MaxUint16 {
			return fmt.Errorf("%d pods in one state, at most %d allowed", n, math.MaxUint16)
		}
	}
	return nil
}

func checkModelName(name string) error {
	if name == "" || len(name) > maxModelName {
		return fmt.Errorf("model name of %d bytes, want 1 to %d", len(name), maxModelName)
	}
	return checkText("model name", name)
}

func encodeModel(s *regions.ModelStatus) *Model {
	return &Model{
		Name: string(s.Name), ModelVersion: s.Fingerprint.Version, ConfigHash: s.Fingerprint.ConfigHash,
		PoolId: s.PoolID, Slots: uint64(s.Slots), SlotsSource: uint32(s.SlotsSource),
		InFlight: s.InFlight, Queued: s.Queued, Wait: uint64(s.Wait), Ttft: uint64(s.TTFT),
		Arrivals: s.Arrivals, Completions: s.Completions,
		PodsReady: uint32(s.Pods.Ready), PodsWarming: uint32(s.Pods.Warming), PodsEjected: uint32(s.Pods.Ejected),
		PodsDraining: uint32(s.Pods.Draining), PodsGone: uint32(s.Pods.Gone),
		Host: s.Host,
	}
}

// decodeModel converts a checked model.
func decodeModel(m *Model) regions.ModelStatus {
	return regions.ModelStatus{
		Name:        regions.ModelName(m.GetName()),
		Host:        m.GetHost(),
		Fingerprint: regions.Fingerprint{Version: m.GetModelVersion(), ConfigHash: m.GetConfigHash()},
		PoolID:      m.GetPoolId(),
		Slots:       regions.MilliSlots(m.GetSlots()), SlotsSource: regions.SlotsSource(m.GetSlotsSource()),
		InFlight: m.GetInFlight(), Queued: m.GetQueued(),
		Wait: regions.Micros(m.GetWait()), TTFT: regions.Micros(m.GetTtft()),
		Arrivals: m.GetArrivals(), Completions: m.GetCompletions(),
		Pods: regions.PodCounts{
			Ready: uint16(m.GetPodsReady()), Warming: uint16(m.GetPodsWarming()), Ejected: uint16(m.GetPodsEjected()),
			Draining: uint16(m.GetPodsDraining()), Gone: uint16(m.GetPodsGone()),
		},
	}
}

func encodeEndpoint(e *regions.Endpoint) *Endpoint {
	m := &Endpoint{Host: e.Host, Port: uint32(e.Port)}
	switch e.Scheme {
	case "http":
		m.Scheme = Scheme_HTTP
	case "https":
		m.Scheme = Scheme_HTTPS
	}
	for _, a := range e.Addrs {
		m.Addrs = append(m.Addrs, a.Unmap().WithZone("").AsSlice())
	}
	return m
}

// decodeEndpoint converts a checked endpoint; known is false for a scheme of a
// newer version.
func decodeEndpoint(m *Endpoint) (e regions.Endpoint, known bool) {
	e = regions.Endpoint{Host: m.GetHost(), Port: uint16(m.GetPort())}
	switch m.GetScheme() {
	case Scheme_HTTP:
		e.Scheme = "http"
	case Scheme_HTTPS:
		e.Scheme = "https"
	default:
		return e, false
	}
	for _, b := range m.GetAddrs() {
		a, _ := netip.AddrFromSlice(b)
		e.Addrs = append(e.Addrs, a)
	}
	return e, true
}

func checkEndpoint(m *Endpoint) error {
	host := m.GetHost()
	switch {
	case m.GetScheme() <= Scheme_SCHEME_UNSPECIFIED:
		return fmt.Errorf("endpoint %q: no scheme", host)
	case host == "" || len(host) > maxHost:
		return fmt.Errorf("endpoint host of %d bytes, want 1 to %d", len(host), maxHost)
	case m.GetPort() == 0 || m.GetPort() > math.MaxUint16:
		return fmt.Errorf("endpoint %q: port %d outside of 1 to 65535", host, m.GetPort())
	case len(m.GetAddrs()) > MaxAddrs:
		return fmt.Errorf("endpoint %q: %d addresses, at most %d allowed", host, len(m.GetAddrs()), MaxAddrs)
	}
	// The host ends up in URLs and Location headers: only what a name or an
	// address is made of.
	for i := range len(host) {
		c := host[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == ':' || c == '_') {
			return fmt.Errorf("endpoint host %q is neither a name nor an address", host)
		}
	}
	for _, b := range m.GetAddrs() {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return fmt.Errorf("endpoint %q: address of %d bytes, want 4 or 16", host, len(b))
		}
		if a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("endpoint %q: %s is not the address of a host", host, a)
		}
	}
	return nil
}
