// Package keyring knows the API keys of a gateway: who holds one, which models
// it is for, and how many requests a second it may send. Of a key's secret it
// holds a keyed hash only.
package keyring

import (
	"errors"
	"fmt"

	"github.com/rhumb-lb/rhumb/regions"
)

// HashSize is the size of a secret's hash in bytes: HMAC-SHA-256 (RFC 2104)
// under the pepper.
const HashSize = 32

// Key is one API key as the operator configures it.
type Key struct {
	// ID names the key in logs and metrics and is the part of the key that is not
	// secret.
	ID string
	// Hash is the keyed hash of the secret.
	Hash [HashSize]byte
	// Models are those that it may use; none means all.
	Models []regions.ModelName
	// Rate is how many requests a second it may send in the long run, and Burst how
	// many at once. Rate 0 is no limit.
	Rate  float64
	Burst int
}

// Ring is a set of keys. It is immutable, so that a new one replaces it whole.
type Ring struct {
	pepper []byte
	keys   map[string]Key
}

// New makes a ring. The error names every key that can't be used.
func New(pepper []byte, keys []Key) (*Ring, error) {
	r := &Ring{pepper: pepper, keys: make(map[string]Key, len(keys))}
	var errs []error
	for _, k := range keys {
		if _, twice := r.keys[k.ID]; twice {
			errs = append(errs, fmt.Errorf("key %q is listed twice", k.ID))
		}
		r.keys[k.ID] = k
	}
	return r, errors.Join(errs...)
}
