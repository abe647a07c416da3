package fleet

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/rhumb-lb/rhumb/regions"
)

// Grant is what a region's certificate allows its holder to claim. Directors and
// operators have an empty one.
//
// It travels in a certificate extension, DER of
//
//	Grant ::= SEQUENCE {
//	    version   INTEGER,                      -- 1
//	    maxSlots  INTEGER,                      -- 0: no limit
//	    endpoints SEQUENCE OF SEQUENCE {
//	        url    Text,
//	        addrs  SEQUENCE OF Text },
//	    prefixes  SEQUENCE OF Text }
//	Text ::= CHOICE { PrintableString, UTF8String }
//
// under the object identifier 2.25.1395862869. The arc 2.25 (ITU-T X.667) needs
// no registration; the number is one that this program drew, short enough for
// every ASN.1 reader (32 bits). The extension is not critical, since TLS
// libraries refuse certificates with critical extensions that they don't know;
// this package refuses certificates without it.
type Grant struct {
	// Endpoints are those that the region may publish, with the addresses that
	// each may have.
	Endpoints []regions.Endpoint
	// Prefixes are further blocks in which the addresses of endpoints may lie,
	// for load balancers whose address moves.
	Prefixes []netip.Prefix
	// MaxSlots is the most slots that the region may claim for any one model, so
	// that a stolen key can't draw all traffic. 0 is no limit.
	MaxSlots int
}

var grantOID = asn1.ObjectIdentifier{2, 25, 1395862869}

const grantVersion = 1

type grantDER struct {
	Version   int
	MaxSlots  int
	Endpoints []endpointDER
	Prefixes  []string
}

type endpointDER struct {
	URL   string
	Addrs []string
}

// AllowsEndpoint reports why the region may not publish the endpoint: scheme,
// host and port must be those of a granted one, and each address one of that
// endpoint's or within a granted prefix. The error wraps ErrRefused.
func (g *Grant) AllowsEndpoint(e regions.Endpoint) error {
	i := slices.IndexFunc(g.Endpoints, func(have regions.Endpoint) bool {
		return have.Scheme == e.Scheme && have.Host == e.Host && have.Port == e.Port
	})
	if i < 0 {
		return fmt.Errorf("%w: the certificate does not allow the endpoint %s", ErrRefused, e.URL())
	}
	for _, a := range e.Addrs {
		if !slices.Contains(g.Endpoints[i].Addrs, a) && !containsAddr(g.Prefixes, a) {
			return fmt.Errorf("%w: the certificate does not allow the address %s for the endpoint %s", ErrRefused, a, e.URL())
		}
	}
	return nil
}

// AllowsStatus reports why the region may not publish the status: an endpoint
// or a number of slots that the certificate does not allow. The error wraps
// ErrRefused.
func (g *Grant) AllowsStatus(s *regions.Status) error {
	for _, e := range s.Endpoints {
		if err := g.AllowsEndpoint(e); err != nil {
			return err
		}
	}
	for i := range s.Models {
		if m := &s.Models[i]; g.MaxSlots > 0 && m.Slots > regions.Slots(g.MaxSlots) {
			return fmt.Errorf("%w: the certificate allows %d slots for a model, and %q claims %d thousandths", ErrRefused, g.MaxSlots, m.Name, m.Slots)
		}
	}
	return nil
}

// extension encodes a grant.
func (g *Grant) extension() (pkix.Extension, error) {
	out := grantDER{Version: grantVersion, MaxSlots: g.MaxSlots}
	for _, e := range g.Endpoints {
		if _, err := regions.ParseEndpoint(e.URL(), e.Addrs...); err != nil {
			return pkix.Extension{}, err
		}
		one := endpointDER{URL: e.URL()}
		for _, a := range e.Addrs {
			one.Addrs = append(one.Addrs, a.String())
		}
		out.Endpoints = append(out.Endpoints, one)
	}
	for _, p := range g.Prefixes {
		if !p.IsValid() || p != p.Masked() {
			return pkix.Extension{}, fmt.Errorf("address block %s has bits beyond its length", p)
		}
		out.Prefixes = append(out.Prefixes, p.String())
	}
	if g.MaxSlots < 0 || g.MaxSlots > math.MaxInt32 {
		return pkix.Extension{}, fmt.Errorf("%d slots, want 0 (no limit) to %d", g.MaxSlots, math.MaxInt32)
	}
	der, err := asn1.Marshal(out)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode what the certificate allows: %w", err)
	}
	return pkix.Extension{Id: grantOID, Value: der}, nil
}

// readGrant decodes the grant of a certificate, which must have exactly one
// (x509 refuses doubled extensions). Fields of a newer version may follow at its
// end.
func readGrant(x *x509.Certificate) (Grant, error) {
	i := slices.IndexFunc(x.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(grantOID) })
	if i < 0 {
		return Grant{}, fmt.Errorf("no extension %v that says what it allows", grantOID)
	}
	return decodeGrant(x.Extensions[i].Value)
}

func decodeGrant(der []byte) (Grant, error) {
	var in grantDER
	rest, err := asn1.Unmarshal(der, &in)
	switch {
	case err != nil:
		return Grant{}, fmt.Errorf("what it allows can't be read: %w", err)
	case len(rest) > 0:
		return Grant{}, fmt.Errorf("what it allows can't be read: %d bytes too many", len(rest))
	case in.Version < 1 || in.MaxSlots < 0:
		return Grant{}, fmt.Errorf("what it allows can't be read: version %d, most slots %d", in.Version, in.MaxSlots)
	}
	g := Grant{MaxSlots: in.MaxSlots}
	for _, one := range in.Endpoints {
		var addrs []netip.Addr
		for _, s := range one.Addrs {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return Grant{}, fmt.Errorf("endpoint %q: %w", one.URL, err)
			}
			addrs = append(addrs, a)
		}
		e, err := regions.ParseEndpoint(one.URL, addrs...)
		if err != nil {
			return Grant{}, err
		}
		g.Endpoints = append(g.Endpoints, e)
	}
	for _, s := range in.Prefixes {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Grant{}, fmt.Errorf("address block %q: %w", s, err)
		}
		g.Prefixes = append(g.Prefixes, p)
	}
	return g, nil
}
