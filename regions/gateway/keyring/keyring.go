// Package keyring knows the API keys of a gateway: who holds one, which models
// it is for, and how many requests a second it may send. Of a key's secret it
// holds a keyed hash only.
package keyring

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// HashSize is the size in bytes of a secret's hash, HMAC-SHA-256 (RFC 2104)
	// under the pepper, and of the pepper.
	HashSize = 32

	// secretSize is the random bytes of a secret: beyond guessing, so that a fast
	// hash is enough. (Slow ones are for passwords that people choose.)
	secretSize = 32

	// prefix marks a token, so that scanners of leaked secrets can find it.
	prefix = "rhumb_"

	// maxToken is more than the longest: prefix, 32 of id, 43 of secret.
	maxToken = 128

	// maxKeys bounds what one file can hold in memory, with limits and metrics for
	// each.
	maxKeys = 10_000

	// maxRate is far above what one gateway serves; more is a slip of the finger.
	maxRate = 1e6
)

// idShape leaves out '_', which ends the id in a token.
var idShape = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Key is one API key as the operator configures it.
type Key struct {
	// ID names the key in logs and metrics and is the part of the token that is not
	// secret: at most 32 of a-z, 0-9 and inner hyphens.
	ID string
	// Hash is the keyed hash of the secret.
	Hash [HashSize]byte
	// Models are those that it may use; none means all.
	Models []regions.ModelName
	// Rate is how many requests a second it may send in the long run, and Burst how
	// many at once (0: one second's worth). Rate 0 is no limit.
	Rate  float64
	Burst int
	// Class is the highest that its requests may have, and the one that they have if
	// they don't ask for a lower one.
	Class regions.Class
}

// Allows reports whether the key may use a model. Nobody's key, nil, may use all.
func (k *Key) Allows(m regions.ModelName) bool {
	return k == nil || len(k.Models) == 0 || slices.Contains(k.Models, m)
}

// Ring is a set of keys. It is immutable, so that a new one replaces it whole.
type Ring struct {
	pepper []byte
	keys   map[string]*Key
}

// New makes a ring of keys whose hashes were made with the pepper, of HashSize
// bytes. The error names every key that can't be used.
func New(pepper []byte, keys []Key) (*Ring, error) {
	if len(pepper) != HashSize {
		return nil, fmt.Errorf("the pepper has %d bytes, want %d", len(pepper), HashSize)
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("%d keys, at most %d are supported", len(keys), maxKeys)
	}
	r := &Ring{pepper: slices.Clone(pepper), keys: make(map[string]*Key, len(keys))}
	var errs []error
	for _, k := range keys {
		if _, err := k.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("key %q: %w", k.ID, err))
		}
		if r.keys[k.ID] != nil {
			errs = append(errs, fmt.Errorf("key %q is listed twice; remove one", k.ID))
		}
		r.keys[k.ID] = &k
	}
	return r, errors.Join(errs...)
}

// Validate is the error of a key that can't be used, as "what is wrong; what to do",
// and which of its settings is to blame: id, hash, rate, burst or priority.
func (k *Key) Validate() (setting string, err error) {
	switch {
	case !idShape.MatchString(k.ID):
		return "id", fmt.Errorf("%q is not an id; write at most 32 of a-z, 0-9 and inner hyphens", k.ID)
	case k.Hash == [HashSize]byte{}:
		return "hash", errors.New("it has no hash; copy the entry that `rhumb keygen key` prints")
	case math.IsNaN(k.Rate) || k.Rate < 0 || k.Rate > maxRate:
		return "rate", fmt.Errorf("rate %v is out of range; write 0 (no limit) to %d requests per second", k.Rate, int(maxRate))
	case k.Burst < 0 || k.Burst > maxRate:
		return "burst", fmt.Errorf("burst %d is out of range; write 0 (a second's worth) to %d requests", k.Burst, int(maxRate))
	case k.Class < regions.ClassLow || k.Class > regions.ClassHigh:
		return "priority", fmt.Errorf("priority %d is out of range; it is low, normal or high", k.Class)
	case k.Burst > 0 && k.Rate == 0:
		return "burst", errors.New("a burst without a rate has no effect; give it a rate")
	}
	return "", nil
}

// Check finds the key of a token. Whether the id is unknown or the secret wrong,
// the answer is the same after the same work.
func (r *Ring) Check(token string) (*Key, bool) {
	id, secret, shaped := split(token)
	k := r.keys[id]
	want := [HashSize]byte{}
	if k != nil {
		want = k.Hash
	}
	got := Hash(r.pepper, secret)
	ok := hmac.Equal(got[:], want[:])
	return k, ok && shaped && k != nil
}

// Named finds a key by its id, nil if there is none. It is for who has had the key
// checked elsewhere.
func (r *Ring) Named(id string) *Key { return r.keys[id] }

// split takes a token apart.
func split(token string) (id, secret string, ok bool) {
	if len(token) > maxToken {
		return "", "", false
	}
	rest, marked := strings.CutPrefix(token, prefix)
	id, secret, ok = strings.Cut(rest, "_")
	return id, secret, ok && marked
}

// Hash is what is stored of a secret.
func Hash(pepper []byte, secret string) [HashSize]byte {
	mac := hmac.New(sha256.New, pepper)
	_, _ = mac.Write([]byte(secret)) // never fails
	return [HashSize]byte(mac.Sum(nil))
}

// Make makes a key's token and what is stored of it.
func Make(pepper []byte, k Key) (token string, made Key, err error) {
	random := make([]byte, secretSize)
	_, _ = rand.Read(random) // never fails
	secret := base64.RawURLEncoding.EncodeToString(random)
	k.Hash = Hash(pepper, secret)
	if _, err := k.Validate(); err != nil {
		return "", Key{}, fmt.Errorf("key %q: %w", k.ID, err)
	}
	return prefix + k.ID + "_" + secret, k, nil
}
