// Package voucher is a region's word for a request that its gateway sends on to
// another region's: who had sent it, by which key and in which class, and that it has
// made its one hop. It is signed by the region's certificate of the fleet, travels in
// a header field of the request, and is good for one request at one region for a
// short time.
package voucher

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
)

// domain keeps a voucher's signature from being good for anything else.
const domain fleet.Domain = "rhumb voucher v1"

const (
	// lifetime is how far a voucher's time may be from the receiver's, either way: the
	// two clocks' difference and the way. A region whose clock is further off can't
	// spill, and says so in its log; its own clients are served all the same.
	lifetime = 30 * time.Second

	// maxHeader bounds the field in bytes: a certificate of 700 bytes, names, and a
	// third for the encoding.
	maxHeader = 4 << 10

	// maxSeen is how many vouchers are remembered, lest one be used twice: 2,000 spilled
	// requests a second for twice a lifetime, in which each is good. More are refused.
	maxSeen = 1 << 17

	// maxCerts is how many certificates are remembered as verified.
	maxCerts = 256
)

// Errors of [Checker.Check]. A request with a bad voucher was sent by a region that
// this one does not understand, or by nobody's.
var (
	ErrMalformed = errors.New("not a voucher")
	ErrForged    = errors.New("the voucher is not signed by the region that it names")
	ErrElsewhere = errors.New("the voucher is for another region")
	ErrTime      = errors.New("the voucher's time is too far from ours")
	ErrUsed      = errors.New("the voucher was used before")
)

// Voucher is what a region says of a request.
type Voucher struct {
	From  regions.ID        `json:"from"`
	To    regions.ID        `json:"to"`
	Model regions.ModelName `json:"model"`
	// Key is the id of the API key that the client used, which was checked and charged.
	Key   string        `json:"key,omitempty"`
	Class regions.Class `json:"class,omitempty"`
	// At is when it was made, in Unix milliseconds.
	At int64 `json:"at"`
	// Nonce tells it from all others.
	Nonce []byte `json:"nonce"`
}

// Guest is the request that it is for.
func (v *Voucher) Guest() regions.Guest {
	return regions.Guest{From: v.From, Model: v.Model, Key: v.Key, Class: v.Class}
}

// nonceSize is enough that two never meet.
const nonceSize = 12

// Issue makes the field for a request that goes to a region.
func Issue(by *fleet.Identity, to regions.ID, req regions.Request, now time.Time) string {
	v := Voucher{
		From: regions.ID(by.Cert.Name), To: to, Model: req.Model, Key: req.Key, Class: req.Class,
		At: now.UnixMilli(), Nonce: make([]byte, nonceSize),
	}
	_, _ = rand.Read(v.Nonce) // it does not fail
	payload, err := json.Marshal(v)
	if err != nil {
		return "" // plain data always marshals
	}
	e := base64.RawURLEncoding
	return e.EncodeToString(payload) + "." + e.EncodeToString(by.Cert.DER) + "." + e.EncodeToString(by.Sign(domain, payload))
}

// Checker checks the vouchers that come to one region. It is safe for concurrent use.
type Checker struct {
	region regions.ID
	roots  *fleet.Roots

	mu        sync.Mutex
	certs     map[[sha256.Size]byte]*fleet.Cert
	seen, was map[[nonceSize]byte]struct{} // of this lifetime and the one before
	turned    time.Time                    // when seen was begun
}

// NewChecker makes a checker that trusts the fleet.
func NewChecker(region regions.ID, roots *fleet.Roots) *Checker {
	return &Checker{
		region: region, roots: roots,
		certs: map[[sha256.Size]byte]*fleet.Cert{}, seen: map[[nonceSize]byte]struct{}{},
	}
}

// Check reads and checks a voucher, and uses it up. The error wraps one of the
// package's.
func (c *Checker) Check(field string, now time.Time) (Voucher, error) {
	v, payload, der, sig, err := split(field)
	if err != nil {
		return Voucher{}, err
	}
	cert, err := c.cert(der, now)
	switch {
	case err != nil:
		return Voucher{}, fmt.Errorf("%w: %w", ErrForged, err)
	case cert.Role != fleet.RoleRegion || cert.Name != string(v.From):
		return Voucher{}, fmt.Errorf("%w: %q signed for %q", ErrForged, cert.Name, v.From)
	}
	if err := cert.Verify(domain, payload, sig, now); err != nil {
		return Voucher{}, fmt.Errorf("%w: %w", ErrForged, err)
	}
	if v.To != c.region {
		return Voucher{}, fmt.Errorf("%w: %q", ErrElsewhere, v.To)
	}
	if v.From == c.region {
		return Voucher{}, fmt.Errorf("%w: it comes from this region", ErrElsewhere)
	}
	if off := now.Sub(time.UnixMilli(v.At)); off.Abs() > lifetime {
		return Voucher{}, fmt.Errorf("%w: %v; are the clocks of %s and %s right?", ErrTime, off.Round(time.Millisecond), v.From, c.region)
	}
	if !c.use([nonceSize]byte(v.Nonce), now) {
		return Voucher{}, ErrUsed
	}
	return v, nil
}

// split takes a field apart.
func split(field string) (v Voucher, payload, der, sig []byte, err error) {
	parts := strings.Split(field, ".")
	if len(field) > maxHeader || len(parts) != 3 {
		return v, nil, nil, nil, ErrMalformed
	}
	var raw [3][]byte
	for i, p := range parts {
		if raw[i], err = base64.RawURLEncoding.DecodeString(p); err != nil {
			return v, nil, nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	if err := json.Unmarshal(raw[0], &v); err != nil {
		return v, nil, nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(v.Nonce) != nonceSize || v.From.Validate() != nil {
		return v, nil, nil, nil, ErrMalformed
	}
	return v, raw[0], raw[1], raw[2], nil
}

// cert is the verified certificate.
func (c *Checker) cert(der []byte, now time.Time) (*fleet.Cert, error) {
	sum := sha256.Sum256(der)
	c.mu.Lock()
	cert := c.certs[sum]
	c.mu.Unlock()
	if cert != nil {
		return cert, nil // Verify looks at its time again
	}
	cert, err := c.roots.Verify(der, now)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.certs) >= maxCerts {
		clear(c.certs)
	}
	c.certs[sum] = cert
	return cert, nil
}

// use takes a nonce, and reports whether it was not taken before. Two generations are
// kept, so that each is remembered for as long as its voucher may come.
func (c *Checker) use(nonce [nonceSize]byte, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.turned) > 2*lifetime {
		c.was, c.seen, c.turned = c.seen, map[[nonceSize]byte]struct{}{}, now
	}
	_, before := c.was[nonce]
	_, again := c.seen[nonce]
	if before || again || len(c.seen) >= maxSeen {
		return false
	}
	c.seen[nonce] = struct{}{}
	return true
}
