package wire

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Bounds on the small messages and on the state of a push/pull.
const (
	// MaxState is the most bytes of a push/pull's state: 1,000 records of 1 KB.
	// A push/pull happens every 20 s or so and when joining, over one stream.
	MaxState = 1 << 20
	// MaxCert is the most bytes of a certificate. One of a region with a few
	// endpoints has about 600.
	MaxCert = 8 << 10

	maxHeld    = 8192
	maxCerts   = 4096
	maxMessage = 512 // meta and certificate requests; memberlist's bound on meta
)

// EncodeState gives the bytes of a push/pull's state. Its writer keeps it within
// MaxState.
func EncodeState(s *State) ([]byte, error) {
	b, err := order.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	if len(b) > MaxState {
		return nil, fmt.Errorf("encode state: %d bytes, at most %d allowed", len(b), MaxState)
	}
	return b, nil
}

// DecodeState reads a push/pull's state: counts and sizes are checked, the
// envelopes and certificates in it are not looked into.
func DecodeState(b []byte) (*State, error) {
	if len(b) > MaxState {
		return nil, fmt.Errorf("decode state: %d bytes, at most %d allowed", len(b), MaxState)
	}
	s := &State{}
	if err := proto.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("decode state: %w", err)
	}
	if len(s.GetHeld()) > maxHeld || len(s.GetCerts()) > maxCerts {
		return nil, fmt.Errorf("decode state: %d records and %d certificates, at most %d and %d allowed", len(s.GetHeld()), len(s.GetCerts()), maxHeld, maxCerts)
	}
	for _, c := range s.GetCerts() {
		if len(c) > MaxCert {
			return nil, fmt.Errorf("decode state: certificate of %d bytes, at most %d allowed", len(c), MaxCert)
		}
	}
	for _, h := range s.GetHeld() {
		if len(h.GetEnvelope()) > MaxEnvelope {
			return nil, fmt.Errorf("decode state: envelope of %d bytes, at most %d allowed", len(h.GetEnvelope()), MaxEnvelope)
		}
	}
	return s, nil
}

// EncodeMeta gives a member's metadata, at most 512 bytes.
func EncodeMeta(m *Meta) ([]byte, error) {
	b, err := order.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode member metadata: %w", err)
	}
	if len(b) > maxMessage {
		return nil, fmt.Errorf("encode member metadata: %d bytes, at most %d allowed", len(b), maxMessage)
	}
	return b, nil
}

// DecodeMeta reads a member's metadata. A role of a newer version is kept as it
// is.
func DecodeMeta(b []byte) (*Meta, error) {
	m := &Meta{}
	if err := decodeSmall(b, m, "member metadata"); err != nil {
		return nil, err
	}
	switch {
	case m.GetProtocol() == 0:
		return nil, fmt.Errorf("decode member metadata: protocol version 0, want 1 or more")
	case m.GetRole() <= Role_ROLE_UNSPECIFIED:
		return nil, fmt.Errorf("decode member metadata: no role")
	case len(m.GetRegion()) > 63:
		return nil, fmt.Errorf("decode member metadata: region of %d bytes, at most 63 allowed", len(m.GetRegion()))
	}
	return m, nil
}

// EncodeCertRequest gives the bytes of a request for a certificate.
func EncodeCertRequest(r *CertRequest) ([]byte, error) {
	b, err := order.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode certificate request: %w", err)
	}
	return b, nil
}

// DecodeCertRequest reads a request for a certificate.
func DecodeCertRequest(b []byte) (*CertRequest, error) {
	r := &CertRequest{}
	if err := decodeSmall(b, r, "certificate request"); err != nil {
		return nil, err
	}
	if len(r.GetKeyId()) != keyIDSize {
		return nil, fmt.Errorf("decode certificate request: key id of %d bytes, want %d", len(r.GetKeyId()), keyIDSize)
	}
	if err := checkOrigin(r.GetFrom()); err != nil {
		return nil, fmt.Errorf("decode certificate request: from: %w", err)
	}
	return r, nil
}

// EncodeCertResponse gives the bytes of an answer to a request for a
// certificate.
func EncodeCertResponse(r *CertResponse) ([]byte, error) {
	b, err := order.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode certificate response: %w", err)
	}
	return b, nil
}

// DecodeCertResponse reads an answer to a request for a certificate, whose DER
// is not looked into.
func DecodeCertResponse(b []byte) (*CertResponse, error) {
	if len(b) > MaxCert+16 {
		return nil, fmt.Errorf("decode certificate response: %d bytes, at most %d allowed", len(b), MaxCert+16)
	}
	r := &CertResponse{}
	if err := proto.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("decode certificate response: %w", err)
	}
	if len(r.GetCert()) == 0 || len(r.GetCert()) > MaxCert {
		return nil, fmt.Errorf("decode certificate response: certificate of %d bytes, want 1 to %d", len(r.GetCert()), MaxCert)
	}
	return r, nil
}

func decodeSmall(b []byte, m proto.Message, what string) error {
	if len(b) > maxMessage {
		return fmt.Errorf("decode %s: %d bytes, at most %d allowed", what, len(b), maxMessage)
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("decode %s: %w", what, err)
	}
	return nil
}
