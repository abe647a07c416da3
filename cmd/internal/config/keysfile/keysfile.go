// Package keysfile reads and extends the file of a gateway's API keys. It holds
// hashes, never secrets.
package keysfile

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// file is what the file holds.
type file struct {
	Keys []entry `mapstructure:"keys"`
}

// entry is one key as `rhumb keygen key` prints it.
type entry struct {
	ID     string   `mapstructure:"id"`
	Hash   string   `mapstructure:"hash"` // hex
	Models []string `mapstructure:"models"`
	Rate   float64  `mapstructure:"rate"` // requests per second; 0 is no limit
	Burst  int      `mapstructure:"burst"`
	// Priority is the highest that its requests may have: high, normal or low. Empty is
	// normal.
	Priority string `mapstructure:"priority"`
}

// maxSize bounds the file: 4 MiB hold more keys than a ring does.
const maxSize = 4 << 20

// Load reads a file of API keys as strictly as the configuration itself. An error
// is either [strict.Problems] or says why the file could not be read.
func Load(path string) ([]keyring.Key, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 { // as a file is that is about to be written
		return nil, fmt.Errorf("%s is empty; write \"keys: []\" if nobody is to use the gateway", path)
	}
	return parse(path, data)
}

func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return nil, fmt.Errorf("%s is not a file of at most %v", path, strict.Size(maxSize))
	}
	return os.ReadFile(path)
}

// parse reads the contents of a file of API keys. The error is [strict.Problems].
func parse(path string, data []byte) ([]keyring.Key, error) {
	var f file
	doc := strict.Read(path, data, &f)
	first := map[string]int{}
	out := make([]keyring.Key, 0, len(f.Keys))
	for i, e := range f.Keys {
		at := fmt.Sprintf("keys[%d]", i)
		fail := func(key, what, remedy string) {
			if path := strict.Join(at, key); !doc.Tainted(path) { // else it was reported
				doc.Fail(doc.Line(path), path, what, remedy)
			}
		}
		if j, twice := first[e.ID]; twice {
			fail("id", fmt.Sprintf("%q is already the id of keys[%d]", e.ID, j), "remove one, or make a key with another id")
			continue
		}
		first[e.ID] = i
		k := keyring.Key{ID: e.ID, Rate: e.Rate, Burst: e.Burst}
		hash, err := hex.DecodeString(e.Hash)
		if err != nil || len(hash) != keyring.HashSize {
			fail("hash", fmt.Sprintf("is not a hash of %d hexadecimal digits", 2*keyring.HashSize), "copy the entry that `rhumb keygen key` prints")
			continue
		}
		copy(k.Hash[:], hash)
		class, ok := regions.ParseClass(cmp.Or(e.Priority, regions.ClassNormal.String()))
		if k.Class = class; !ok {
			fail("priority", fmt.Sprintf("%q is not a priority", e.Priority), "write high, normal or low, or leave it out for normal")
			continue
		}
		for _, m := range e.Models {
			k.Models = append(k.Models, regions.ModelName(m))
		}
		if key, err := k.Validate(); err != nil {
			what, remedy, _ := strings.Cut(err.Error(), "; ")
			fail(key, what, remedy)
			continue
		}
		out = append(out, k)
	}
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return out, nil
}
