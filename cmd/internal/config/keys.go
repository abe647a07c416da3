package config

import (
	"encoding/hex"
	"fmt"
	"os"
	"reflect"

	"github.com/go-viper/mapstructure/v2"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// keysFile is the file of API keys: hashes, never secrets.
type keysFile struct {
	Keys []keyEntry `mapstructure:"keys"`
}

// keyEntry is one key as `rhumb keygen key` prints it.
type keyEntry struct {
	ID     string   `mapstructure:"id"`
	Hash   string   `mapstructure:"hash"` // hex
	Models []string `mapstructure:"models"`
	Rate   float64  `mapstructure:"rate"` // requests per second; 0 is no limit
	Burst  int      `mapstructure:"burst"`
}

// loadKeys reads a file of API keys as strictly as the configuration itself.
func loadKeys(path string) ([]keyring.Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a file of at most %v", path, Size(maxFile))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseKeys(path, data)
}

// parseKeys reads the contents of a file of API keys. The error is [Problems].
func parseKeys(path string, data []byte) ([]keyring.Key, error) {
	doc := newDocument(path)
	var file keysFile
	if root, ok := doc.parse(data); ok && doc.node(root, reflect.TypeFor[keysFile](), "") {
		var tree map[string]any
		if err := root.Decode(&tree); err != nil {
			doc.fail(1, "", err.Error(), "write it as plain YAML")
		} else if err := decodeStrictly(tree, &file); err != nil {
			doc.fail(1, "", err.Error(), "mend the file")
		}
	}
	var out []keyring.Key
	for i, k := range file.Keys {
		at := index("keys", i)
		key := keyring.Key{ID: k.ID, Rate: k.Rate, Burst: k.Burst}
		hash, err := hex.DecodeString(k.Hash)
		if err != nil || len(hash) != keyring.HashSize {
			doc.fail(doc.line(at+".hash"), at+".hash", "is not a hash of 64 hexadecimal digits", "copy the line that `rhumb keygen key` prints")
			continue
		}
		copy(key.Hash[:], hash)
		for _, m := range k.Models {
			key.Models = append(key.Models, regions.ModelName(m))
		}
		out = append(out, key)
	}
	if len(doc.problems) > 0 {
		return nil, doc.problems.sorted(path)
	}
	return out, nil
}

func decodeStrictly(tree map[string]any, into any) error {
	c := &mapstructure.DecoderConfig{Result: into, ErrorUnused: true}
	strictly(c)
	d, err := mapstructure.NewDecoder(c)
	if err != nil {
		return err
	}
	return d.Decode(tree)
}
