package wire

import (
	"fmt"
	"hash/fnv"

	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// MaxLoad is the most thousandths of load that a digest says: a thousand
	// times what the slots can run is as bad as it gets.
	MaxLoad = 1_000_000
	// maxDigestSlots is every model of a status at its most.
	maxDigestSlots = uint64(MaxModels) * uint64(MaxSlots)
)

// DigestOf is the digest of a status.
func DigestOf(s *regions.Status) *Digest {
	d := &Digest{Region: string(s.Region), Draining: s.Draining, Stopping: s.Stopping, Endpoints: hashEndpoints(s.Endpoints)}
	var requests uint64
	for i := range s.Models {
		d.Slots += uint64(max(0, s.Models[i].Slots))
		requests += uint64(s.Models[i].InFlight) + uint64(s.Models[i].Queued)
	}
	switch {
	case d.Slots > 0:
		// Thousandths of requests by thousandths of slots, in thousandths.
		d.Load = uint32(min(requests*1_000_000/d.Slots, MaxLoad))
	case requests > 0:
		d.Load = MaxLoad
	}
	return d
}

// hashEndpoints is FNV-1a, 64 bits, of each endpoint in the order of the status:
// the deterministic encoding of its message after the length of that, one byte
// of which is enough to keep them apart.
func hashEndpoints(all []regions.Endpoint) uint64 {
	h := fnv.New64a()
	for i := range all {
		b, err := order.Marshal(encodeEndpoint(&all[i]))
		if err != nil {
			b = nil // of a host that is not UTF-8, which no decoded status has
		}
		_, _ = h.Write([]byte{byte(len(b))})
		_, _ = h.Write(b)
	}
	return h.Sum64()
}

// EncodeDigest gives the payload of a DIGEST body, or says what is wrong with
// the digest.
func EncodeDigest(d *Digest) ([]byte, error) {
	if err := checkDigest(d); err != nil {
		return nil, fmt.Errorf("encode digest: %w", err)
	}
	b, err := order.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode digest: %w", err)
	}
	return b, nil
}

// DecodeDigest reads the payload of a DIGEST body. The result shares no memory
// with b.
func DecodeDigest(b []byte) (*Digest, error) {
	d := &Digest{}
	if err := decodeSmall(b, d, "digest"); err != nil {
		return nil, err
	}
	if err := checkDigest(d); err != nil {
		return nil, fmt.Errorf("decode digest: %w", err)
	}
	return d, nil
}

func checkDigest(d *Digest) error {
	if err := regions.ID(d.GetRegion()).Validate(); err != nil {
		return err
	}
	switch {
	case d.GetSlots() > maxDigestSlots:
		return fmt.Errorf("%d thousandths of a slot, at most %d allowed", d.GetSlots(), maxDigestSlots)
	case d.GetLoad() > MaxLoad:
		return fmt.Errorf("load of %d thousandths, at most %d allowed", d.GetLoad(), MaxLoad)
	}
	return nil
}

// EncodeHeld gives the bytes of a record that is passed on by itself. Its writer
// keeps the envelope within MaxEnvelope.
func EncodeHeld(h *Held) ([]byte, error) {
	b, err := order.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return b, nil
}

// HeldOverhead is the most bytes that a Held adds to an envelope of up to 16 KiB
// whose age is below 2³⁵ ms, which is a year: a tag each, a length of 2 bytes, an
// age of 5.
const HeldOverhead = 1 + 2 + 1 + 5

// DecodeHeld reads a record that is passed on by itself; the envelope in it is
// not looked into.
func DecodeHeld(b []byte) (*Held, error) {
	const most = MaxEnvelope + 32
	if len(b) > most {
		return nil, fmt.Errorf("decode record: %d bytes, at most %d allowed", len(b), most)
	}
	h := &Held{}
	if err := proto.Unmarshal(b, h); err != nil {
		return nil, fmt.Errorf("decode record: %w", err)
	}
	if len(h.GetEnvelope()) == 0 || len(h.GetEnvelope()) > MaxEnvelope {
		return nil, fmt.Errorf("decode record: envelope of %d bytes, want 1 to %d", len(h.GetEnvelope()), MaxEnvelope)
	}
	return h, nil
}

// EncodeWant gives the bytes of a request for a status.
func EncodeWant(w *Want) ([]byte, error) {
	b, err := order.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode want: %w", err)
	}
	return b, nil
}

// DecodeWant reads a request for a status.
func DecodeWant(b []byte) (*Want, error) {
	w := &Want{}
	if err := decodeSmall(b, w, "want"); err != nil {
		return nil, err
	}
	if err := checkOrigin(w.GetOrigin()); err != nil {
		return nil, fmt.Errorf("decode want: %w", err)
	}
	if err := checkOrigin(w.GetFrom()); err != nil {
		return nil, fmt.Errorf("decode want: from: %w", err)
	}
	return w, nil
}
