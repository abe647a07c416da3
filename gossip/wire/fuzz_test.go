package wire_test

import (
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/gossip/wire"
)

// Whatever a decoder accepts must encode again, and decode to the same.

func FuzzDecodeEnvelope(f *testing.F) {
	f.Add(must(wire.EncodeEnvelope(&wire.Envelope{Body: []byte("b"), KeyId: make([]byte, 8), Sig: make([]byte, 64)})))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := wire.DecodeEnvelope(b)
		if err != nil {
			return
		}
		again, err := wire.DecodeEnvelope(must(wire.EncodeEnvelope(e)))
		if err != nil || !proto.Equal(again, e) {
			t.Errorf("%v became %v, error %v", e, again, err)
		}
	})
}

func FuzzDecodeBody(f *testing.F) {
	f.Add(must(wire.EncodeBody(sampleBody(wire.Kind_STATUS, "k", []byte("p")))))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := wire.DecodeBody(b)
		if err != nil {
			return
		}
		again, err := wire.DecodeBody(must(wire.EncodeBody(body)))
		if err != nil || !proto.Equal(again, body) {
			t.Errorf("%v became %v, error %v", body, again, err)
		}
	})
}

func FuzzDecodeStatus(f *testing.F) {
	f.Add(must(wire.EncodeStatus(sampleStatus())))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := wire.DecodeStatus(sampleBody(wire.Kind_STATUS, "", b))
		if err != nil {
			return
		}
		again, err := wire.DecodeStatus(sampleBody(wire.Kind_STATUS, "", must(wire.EncodeStatus(s))))
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%+v became %+v, error %v", s, again, err)
		}
	})
}

func FuzzDecodeSpillRow(f *testing.F) {
	f.Add(must(wire.EncodeSpillRow(sampleSpillRow())))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := wire.DecodeSpillRow(b)
		if err != nil {
			return
		}
		again, err := wire.DecodeSpillRow(must(wire.EncodeSpillRow(r)))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v became %+v, error %v", r, again, err)
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	f.Add(must(wire.EncodeState(&wire.State{Certs: [][]byte{{1}}, Held: []*wire.Held{{Envelope: []byte{2}, AgeMs: 3}}})))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := wire.DecodeState(b); err == nil {
			if _, err := wire.EncodeState(s); err != nil && proto.Size(s) <= wire.MaxState {
				t.Error(err)
			}
		}
	})
}

func FuzzDecodeSmall(f *testing.F) {
	f.Add(must(wire.EncodeMeta(&wire.Meta{Protocol: 1, Role: wire.Role_AGENT, Region: "eu-west"})))
	f.Add(must(wire.EncodeCertRequest(&wire.CertRequest{KeyId: make([]byte, 8), From: "d1"})))
	f.Add(must(wire.EncodeCertResponse(&wire.CertResponse{Cert: []byte("der")})))
	f.Add(must(wire.EncodeWant(&wire.Want{Origin: "eu-west/a", Epoch: 7, Version: 12, From: "d1"})))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = wire.DecodeMeta(b)
		_, _ = wire.DecodeCertRequest(b)
		_, _ = wire.DecodeCertResponse(b)
		_, _ = wire.DecodeWant(b)
	})
}

func FuzzDecodeDigest(f *testing.F) {
	f.Add(must(wire.EncodeDigest(wire.DigestOf(sampleStatus()))))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := wire.DecodeDigest(b)
		if err != nil {
			return
		}
		again, err := wire.DecodeDigest(must(wire.EncodeDigest(d)))
		if err != nil || !proto.Equal(again, d) {
			t.Errorf("%v became %v, error %v", d, again, err)
		}
	})
}

func FuzzDecodeHeld(f *testing.F) {
	f.Add(must(wire.EncodeHeld(&wire.Held{Envelope: []byte("e"), AgeMs: 1500})))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := wire.DecodeHeld(b)
		if err != nil {
			return
		}
		again, err := wire.DecodeHeld(must(wire.EncodeHeld(h)))
		if err != nil || !proto.Equal(again, h) {
			t.Errorf("%v became %v, error %v", h, again, err)
		}
	})
}
