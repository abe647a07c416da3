package fleet

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

// backdate is how far a certificate's validity begins before its issue, for
// machines whose clocks are behind the issuer's.
const backdate = time.Hour

// Authority is the fleet's own key and certificate. It belongs offline, with an
// operator: members need only its certificate. The one that [ParseRoots] reads
// has no private key and issues nothing.
type Authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

// NewAuthority makes a fleet: an ed25519 key and a self-signed certificate for
// it, valid from an hour before now until now and lifetime.
func NewAuthority(name string, now time.Time, lifetime time.Duration) (*Authority, error) {
	if name == "" || lifetime <= 0 {
		return nil, fmt.Errorf("make fleet %q: want a name and a lifetime above zero, not %v", name, lifetime)
	}
	pub, priv, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make fleet %q: %w", name, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"rhumb fleet"}},
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(lifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := create(template, template, pub, priv)
	if err != nil {
		return nil, fmt.Errorf("make fleet %q: %w", name, err)
	}
	return &Authority{cert: cert, key: priv}, nil
}

// Name is the fleet's name, for people.
func (a *Authority) Name() string { return a.cert.Subject.CommonName }

// NotAfter is when the fleet's certificate, and with it all others, expires.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// Request says for whom a certificate is.
type Request struct {
	Role Role
	// Name is a lower-case DNS label: the region's ID, the director's or
	// operator's name.
	Name string
	// Grant is what a region may claim; it must allow an endpoint. It must be
	// empty for directors and operators.
	Grant Grant
	// Lifetime is how long the certificate is valid; zero is as long as the
	// fleet's.
	Lifetime time.Duration
}

// Issue makes a key and signs a certificate for it.
func (a *Authority) Issue(r Request, now time.Time) (*Identity, error) {
	identity, err := a.issue(r, now)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %s %q: %w", r.Role, r.Name, err)
	}
	return identity, nil
}

func (a *Authority) issue(r Request, now time.Time) (*Identity, error) {
	if err := a.check(r, now); err != nil {
		return nil, err
	}
	grant, err := r.Grant.extension()
	if err != nil {
		return nil, err
	}
	pub, priv, err := newKey()
	if err != nil {
		return nil, err
	}
	notAfter := a.cert.NotAfter
	if r.Lifetime > 0 {
		notAfter = now.Add(r.Lifetime)
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: string(r.Role) + " " + r.Name, Organization: []string{a.Name()}},
		NotBefore:    now.Add(-backdate), NotAfter: notAfter,
		URIs:                  []*url.URL{subject(r.Role, r.Name)},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		ExtraExtensions:       []pkix.Extension{grant},
	}
	x, err := create(template, a.cert, pub, a.key)
	if err != nil {
		return nil, err
	}
	cert, err := read(x)
	if err != nil {
		return nil, err
	}
	return &Identity{Cert: cert, key: priv}, nil
}

func (a *Authority) check(r Request, now time.Time) error {
	if err := checkSubject(r.Role, r.Name); err != nil {
		return err
	}
	empty := len(r.Grant.Endpoints) == 0 && len(r.Grant.Prefixes) == 0 && r.Grant.MaxSlots == 0
	switch {
	case a.key == nil:
		return errors.New("the fleet's private key is not here")
	case r.Lifetime < 0:
		return fmt.Errorf("lifetime %v is below zero", r.Lifetime)
	case now.Add(r.Lifetime).After(a.cert.NotAfter):
		return fmt.Errorf("the fleet's certificate expires at %s, before a lifetime of %v is over", a.cert.NotAfter.Format(time.RFC3339), r.Lifetime)
	case r.Role == RoleRegion && len(r.Grant.Endpoints) == 0:
		return errors.New("a region needs at least one endpoint that it may publish")
	case r.Role != RoleRegion && !empty:
		return fmt.Errorf("endpoints, address blocks and slots are for regions, not for a %s", r.Role)
	}
	for _, e := range r.Grant.Endpoints {
		if len(e.Addrs) == 0 && len(r.Grant.Prefixes) == 0 {
			return fmt.Errorf("endpoint %s needs addresses, or address blocks in which they lie: DNS answers carry them", e.URL())
		}
		if slices.ContainsFunc(e.Addrs, func(x netip.Addr) bool { return !x.IsValid() || x.Is4In6() }) {
			return fmt.Errorf("endpoint %s has an address that is invalid, or IPv4 in IPv6 form", e.URL())
		}
	}
	return nil
}

// create signs a certificate and parses it back, so that all that follows works
// on what others will read.
func create(template, parent *x509.Certificate, pub ed25519.PublicKey, signer ed25519.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate back: %w", err)
	}
	return cert, nil
}

// serial is a random certificate serial number of 127 bits: unique without a
// register of what was issued (RFC 5280 section 4.1.2.2 allows 20 bytes).
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails; see crypto/rand
	b[0] &= 0x7f
	b[15] |= 1
	return new(big.Int).SetBytes(b[:])
}
