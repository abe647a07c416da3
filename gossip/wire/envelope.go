package wire

import (
	"cmp"
	"fmt"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
)

// Bounds on an envelope. They keep what one record can cost a receiver small,
// and sit far above what the fleet sends: a status of 8 models is about 1 KB.
const (
	// MaxEnvelope is the most bytes of an encoded envelope. 64 KiB hold a status
	// of MaxModels models.
	MaxEnvelope = 64 << 10
	// MaxPayload is the most bytes of a payload; what is left of MaxEnvelope is
	// ample for names, key id and signature.
	MaxPayload = 60 << 10
	// MaxOrigin is the most bytes of an origin: two DNS labels and a slash.
	MaxOrigin = 127
	// MaxKey is the most bytes of a record's key: a region (63), a slash and a
	// model's name (255).
	MaxKey = 63 + 1 + maxModelName
	// MaxEpoch is above every epoch. Who meets its own name under the last one,
	// MaxEpoch−1, goes above it by version; an epoch of 2⁶⁴−1 would be the end of a
	// name. No member that counts its starts gets there.
	MaxEpoch = 1 << 62

	keyIDSize     = 8
	signatureSize = 64 // ed25519, RFC 8032 section 5.1.6
)

// order is how protobuf messages are encoded everywhere: fields in the order of
// their numbers, so that equal values give equal bytes (golden files hold it to
// that).
var order = proto.MarshalOptions{Deterministic: true}

// EncodeEnvelope gives an envelope's bytes, or says which bound it breaks.
func EncodeEnvelope(e *Envelope) ([]byte, error) {
	if err := checkEnvelope(e); err != nil {
		return nil, fmt.Errorf("encode envelope: %w", err)
	}
	b, err := order.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode envelope: %w", err)
	}
	if len(b) > MaxEnvelope {
		return nil, fmt.Errorf("encode envelope: %d bytes, at most %d allowed", len(b), MaxEnvelope)
	}
	return b, nil
}

// DecodeEnvelope reads an envelope. It does not look into the body and checks
// no signature. The result shares no memory with b.
func DecodeEnvelope(b []byte) (*Envelope, error) {
	if len(b) > MaxEnvelope {
		return nil, fmt.Errorf("decode envelope: %d bytes, at most %d allowed", len(b), MaxEnvelope)
	}
	e := &Envelope{}
	if err := proto.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("decode envelope: %w", err)
	}
	if err := checkEnvelope(e); err != nil {
		return nil, fmt.Errorf("decode envelope: %w", err)
	}
	return e, nil
}

func checkEnvelope(e *Envelope) error {
	switch {
	case len(e.GetBody()) == 0:
		return fmt.Errorf("no body")
	case len(e.GetKeyId()) != keyIDSize:
		return fmt.Errorf("key id of %d bytes, want %d", len(e.GetKeyId()), keyIDSize)
	case len(e.GetSig()) != signatureSize:
		return fmt.Errorf("signature of %d bytes, want %d", len(e.GetSig()), signatureSize)
	}
	return nil
}

// EncodeBody gives the bytes of a body, which are what is signed, or says which
// bound it breaks.
func EncodeBody(body *Body) ([]byte, error) {
	if err := checkBody(body); err != nil {
		return nil, fmt.Errorf("encode body: %w", err)
	}
	b, err := order.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode body: %w", err)
	}
	return b, nil
}

// DecodeBody reads a body, of whatever kind. The result shares no memory with b.
func DecodeBody(b []byte) (*Body, error) {
	if len(b) > MaxEnvelope {
		return nil, fmt.Errorf("decode body: %d bytes, at most %d allowed", len(b), MaxEnvelope)
	}
	body := &Body{}
	if err := proto.Unmarshal(b, body); err != nil {
		return nil, fmt.Errorf("decode body: %w", err)
	}
	if err := checkBody(body); err != nil {
		return nil, fmt.Errorf("decode body: %w", err)
	}
	return body, nil
}

func checkBody(b *Body) error {
	if b.GetKind() <= Kind_KIND_UNSPECIFIED {
		return fmt.Errorf("kind %d, want 1 or more", b.GetKind())
	}
	if err := checkOrigin(b.GetOrigin()); err != nil {
		return err
	}
	switch {
	case b.GetEpoch() == 0 || b.GetEpoch() >= MaxEpoch:
		return fmt.Errorf("epoch %d outside of 1 to 2^62-1", b.GetEpoch())
	case b.GetVersion() == 0:
		return fmt.Errorf("version 0, want 1 or more")
	case len(b.GetPayload()) > MaxPayload:
		return fmt.Errorf("payload of %d bytes, at most %d allowed", len(b.GetPayload()), MaxPayload)
	case len(b.GetKey()) > MaxKey:
		return fmt.Errorf("key of %d bytes, at most %d allowed", len(b.GetKey()), MaxKey)
	}
	return checkText("key", b.GetKey())
}

// checkOrigin admits visible ASCII only: origins are names of members, compared
// byte by byte and printed in logs and metrics.
func checkOrigin(s string) error {
	if s == "" || len(s) > MaxOrigin {
		return fmt.Errorf("origin of %d bytes, want 1 to %d", len(s), MaxOrigin)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return fmt.Errorf("origin %q holds a byte outside of visible ASCII", s)
		}
	}
	return nil
}

// checkText refuses what can't be shown to an operator: broken UTF-8 and control
// characters.
func checkText(field, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %q is not UTF-8", field, s)
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return fmt.Errorf("%s %q holds a control character", field, s)
		}
	}
	return nil
}

// Newer reports whether body b comes after (epoch, version) in the order of its
// origin's records.
func (x *Body) Newer(epoch, version uint64) bool {
	return cmp.Or(cmp.Compare(x.GetEpoch(), epoch), cmp.Compare(x.GetVersion(), version)) > 0
}
