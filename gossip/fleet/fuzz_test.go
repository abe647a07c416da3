package fleet_test

import (
	"encoding/pem"
	"testing"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
)

func FuzzVerify(f *testing.F) {
	a, err := fleet.NewAuthority("fuzz", now, year)
	if err != nil {
		f.Fatal(err)
	}
	id, err := a.Issue(request(), now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(id.Cert.DER)
	roots := fleet.NewRoots(a)
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := roots.Verify(der, now)
		if err == nil && c.KeyID != id.Cert.KeyID {
			t.Errorf("trusted a certificate that was never issued: %+v", c)
		}
	})
}

func FuzzDecodeGrant(f *testing.F) {
	r := request()
	der, err := fleet.EncodeGrant(&r.Grant)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, der []byte) {
		g, err := fleet.DecodeGrant(der)
		if err != nil {
			return
		}
		for _, e := range g.Endpoints {
			if err := g.AllowsEndpoint(e); err != nil {
				t.Errorf("a grant that does not allow its own endpoint: %v", err)
			}
		}
	})
}

func pemBytes(t *testing.T, b []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatal("not PEM")
	}
	return block.Bytes
}

func second[T any](_ T, err error) error { return err }
