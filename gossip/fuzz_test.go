package gossip

import (
	"testing"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
)

// fuzzNode is a director that has its own record, but does not run.
func fuzzNode(f *testing.F) (*Node, []byte) {
	f.Helper()
	n, err := New(testOptions(f))
	if err != nil {
		f.Fatal(err)
	}
	if err := n.Publish(Record{Kind: wire.Kind_RECORD, Key: "k", Payload: []byte("p")}); err != nil {
		f.Fatal(err)
	}
	return n, n.store.raw(slot{role: fleet.RoleDirector, kind: wire.Kind_RECORD, origin: "d1", key: "k"})
}

// FuzzMessage feeds the intake what a member can send: no panic, and nothing of
// it is believed, since nobody but this node has a certificate.
func FuzzMessage(f *testing.F) {
	n, own := fuzzNode(f)
	f.Add(message(typeEnvelope, own))
	request, err := wire.EncodeCertRequest(&wire.CertRequest{KeyId: n.opts.Identity.Cert.KeyID[:], From: "x"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(message(typeCertRequest, request))
	response, err := wire.EncodeCertResponse(&wire.CertResponse{Cert: n.opts.Identity.Cert.DER})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(message(typeCertResponse, response))
	i := n.newIntake()
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return // NotifyMsg does not pass it on
		}
		i.message(inbound{message: b, at: start})
		if len(n.store.slots) != 1 || len(n.store.certs) != 1 || n.own.epoch != 1 {
			t.Errorf("%d records, %d certificates, epoch %d", len(n.store.slots), len(n.store.certs), n.own.epoch)
		}
	})
}

// FuzzState does the same with a push/pull's state, and with member metadata.
func FuzzState(f *testing.F) {
	n, _ := fuzzNode(f)
	f.Add((*delegate)(n).LocalState(true))
	i := n.newIntake()
	f.Fuzz(func(t *testing.T, b []byte) {
		i.merge(inbound{message: b, at: start})
		if len(n.store.slots) != 1 || len(n.store.certs) != 1 || n.own.epoch != 1 {
			t.Errorf("%d records, %d certificates, epoch %d", len(n.store.slots), len(n.store.certs), n.own.epoch)
		}
	})
}
