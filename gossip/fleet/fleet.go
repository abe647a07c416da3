// Package fleet is the identity of everything that takes part: one offline
// fleet key signs a certificate for each region, director and operator, and the
// key of that certificate signs what they say. Members hold only the fleet's
// public certificate, so there is no file per region to spread, and a gossip key
// alone lets nobody speak for a region.
//
// Certificates are X.509 with ed25519 keys (RFC 8410), so that one certificate
// serves for records, TLS and overrides, and openssl can show it. What they
// allow stands in an extension of the fleet's own; see [Grant].
package fleet

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Role is what the holder of a certificate is.
type Role string

// The roles. A region's certificate is shared by the agents of the region.
const (
	RoleRegion   Role = "region"
	RoleDirector Role = "director"
	RoleOperator Role = "operator"
)

// ErrRefused is wrapped by every error about a certificate or signature that is
// not to be trusted.
var ErrRefused = errors.New("refused")

// KeyID names a public key: the first 8 bytes of the SHA-256 of its
// SubjectPublicKeyInfo. It only finds the certificate; it proves nothing, so
// that 8 bytes are enough to tell a fleet's keys apart.
type KeyID [8]byte

// String is the key id in hex, as logs show it.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// keyIDOf names a public key.
func keyIDOf(spki []byte) KeyID {
	sum := sha256.Sum256(spki)
	return KeyID(sum[:8])
}

// Domain says for what use bytes are signed, so that a signature of one use is
// worthless in another. Domains are constants of the program and hold no NUL.
type Domain string

// EnvelopeDomain is the domain of gossip envelopes.
const EnvelopeDomain Domain = "rhumb envelope v1"

// input is what the signature covers: the domain, a NUL that ends it, the
// message.
func (d Domain) input(message []byte) []byte {
	in := make([]byte, 0, len(d)+1+len(message))
	in = append(in, d...)
	in = append(in, 0)
	return append(in, message...)
}

// Cert is a certificate of the fleet that was verified. It is immutable.
type Cert struct {
	Role  Role
	Name  string
	Grant Grant
	KeyID KeyID
	// NotBefore and NotAfter bound its validity, inclusive.
	NotBefore, NotAfter time.Time
	// DER is the certificate as it travels.
	DER []byte

	key ed25519.PublicKey
}

// Verify reports whether sig is the certificate's signature over message in the
// domain, by a certificate that is valid at now. The error wraps ErrRefused.
func (c *Cert) Verify(domain Domain, message, sig []byte, now time.Time) error {
	if err := c.Valid(now); err != nil {
		return err
	}
	if len(sig) != ed25519.SignatureSize || !ed25519.Verify(c.key, domain.input(message), sig) {
		return fmt.Errorf("%w: the signature is not of %s %q", ErrRefused, c.Role, c.Name)
	}
	return nil
}

// Valid reports whether the certificate is valid at now. The error wraps
// ErrRefused.
func (c *Cert) Valid(now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("%w: the certificate of %s %q expired at %s; issue a new one with the fleet key", ErrRefused, c.Role, c.Name, c.NotAfter.Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return fmt.Errorf("%w: the certificate of %s %q is valid from %s only; is this machine's clock right?", ErrRefused, c.Role, c.Name, c.NotBefore.Format(time.RFC3339))
	}
	return nil
}

// Owns reports whether a member of that name may use the certificate: the
// certificate's own name, or that and "/" and more, as "eu-west/agent-1" for
// region eu-west.
func (c *Cert) Owns(member string) bool {
	rest, ok := strings.CutPrefix(member, c.Name)
	return ok && (rest == "" || rest[0] == '/')
}

// Identity is a certificate and its private key: who signs.
type Identity struct {
	Cert *Cert

	key ed25519.PrivateKey
}

// Sign signs a message for one use.
func (i *Identity) Sign(domain Domain, message []byte) []byte {
	return ed25519.Sign(i.key, domain.input(message))
}

// TLS is the identity as a client or server of TLS shows it.
func (i *Identity) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{i.Cert.DER}, PrivateKey: i.key}
}

// Roots are the fleet certificates that a member trusts: one, or two while the
// fleet key is being replaced.
type Roots struct {
	pool *x509.CertPool
	ids  []string
}

// NewRoots trusts the given fleet certificates.
func NewRoots(authorities ...*Authority) *Roots {
	r := &Roots{pool: x509.NewCertPool()}
	for _, a := range authorities {
		r.pool.AddCert(a.cert)
		sum := sha256.Sum256(a.cert.Raw)
		r.ids = append(r.ids, hex.EncodeToString(sum[:8]))
	}
	return r
}

// IDs name the fleet certificates: the start of the SHA-256 of each, in hex.
func (r *Roots) IDs() []string {
	if r == nil {
		return nil
	}
	return slices.Clone(r.ids)
}

// ClientCAs tells clients of TLS which certificates are asked for. It does not verify
// them: that is [Roots.Verify]'s business.
func (r *Roots) ClientCAs() *x509.CertPool { return r.pool.Clone() }

// Equal reports whether both trust the same fleet certificates.
func (r *Roots) Equal(other *Roots) bool {
	if r == nil || other == nil {
		return r == other
	}
	return r.pool.Equal(other.pool)
}

// Verify checks that der is a certificate of the fleet, valid at now, and reads
// what it allows. The error wraps ErrRefused.
func (r *Roots) Verify(der []byte, now time.Time) (*Cert, error) {
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: not a certificate: %w", ErrRefused, err)
	}
	c, err := read(x)
	if err != nil {
		return nil, err
	}
	// Validity first: "expired" helps more than what x509 makes of it.
	if err := c.Valid(now); err != nil {
		return nil, err
	}
	if _, err := x.Verify(x509.VerifyOptions{
		Roots: r.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return nil, fmt.Errorf("%w: the certificate of %s %q is not of this fleet: %w", ErrRefused, c.Role, c.Name, err)
	}
	return c, nil
}

// read takes from a certificate what it says, trusting nothing yet.
func read(x *x509.Certificate) (*Cert, error) {
	key, ok := x.PublicKey.(ed25519.PublicKey)
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: the certificate's key is %s, want ed25519", ErrRefused, x.PublicKeyAlgorithm)
	case x.IsCA:
		return nil, fmt.Errorf("%w: this is the certificate of a fleet, not of a region, director or operator", ErrRefused)
	case len(x.URIs) != 1:
		return nil, fmt.Errorf("%w: the certificate has %d URI names, want one like rhumb://region/eu-west", ErrRefused, len(x.URIs))
	}
	role, name, err := parseSubject(x.URIs[0])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	grant, err := readGrant(x)
	if err != nil {
		return nil, fmt.Errorf("%w: the certificate of %s %q: %w", ErrRefused, role, name, err)
	}
	return &Cert{
		Role: role, Name: name, Grant: grant, KeyID: keyIDOf(x.RawSubjectPublicKeyInfo),
		NotBefore: x.NotBefore, NotAfter: x.NotAfter, DER: slices.Clone(x.Raw), key: key,
	}, nil
}

// subject is the URI under which a certificate names its holder. A URI, since a
// DNS name would let a region's certificate pass as a web server's of that name,
// and a common name has no room for the role.
func subject(role Role, name string) *url.URL {
	return &url.URL{Scheme: "rhumb", Host: string(role), Path: "/" + name}
}

func parseSubject(u *url.URL) (Role, string, error) {
	role, name := Role(u.Host), strings.TrimPrefix(u.Path, "/")
	if u.Scheme != "rhumb" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", fmt.Errorf("name %q, want one like rhumb://region/eu-west", u)
	}
	return role, name, checkSubject(role, name)
}

// checkSubject holds all names to what a region's may be: one rule to remember,
// and none of them needs quoting anywhere.
func checkSubject(role Role, name string) error {
	if role != RoleRegion && role != RoleDirector && role != RoleOperator {
		return fmt.Errorf("role %q, want region, director or operator", role)
	}
	if err := regions.ID(name).Validate(); err != nil {
		return fmt.Errorf("name %q of a %s is not a lower-case DNS label (a-z, 0-9, inner hyphens)", name, role)
	}
	return nil
}

// newKey makes a key pair and its id.
func newKey() (ed25519.PublicKey, ed25519.PrivateKey, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make an ed25519 key: %w", err)
	}
	return pub, priv, nil
}

// containsAddr reports whether one of the prefixes holds the address.
func containsAddr(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}
