package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// FuzzParse: whatever the file says, Parse returns a configuration or problems
// that each say what is wrong and name the file.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "../../../deploy/agent.yaml", "../../../deploy/director.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("{{{{{{{{{{[[[[[["))
	f.Add([]byte("\xff\xfe"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("fuzz.yaml", data, Source{SkipFiles: true})
		if err == nil {
			if len(cfg.Roles()) == 0 {
				t.Error("accepted without a role")
			}
			return
		}
		var problems Problems
		if !errors.As(err, &problems) || len(problems) == 0 {
			t.Fatalf("not a list of problems: %v", err)
		}
		for _, p := range problems {
			if !strings.HasPrefix(p.String(), "fuzz.yaml:") || p.What == "" || p.Remedy == "" {
				t.Errorf("incomplete: %q", p.String())
			}
		}
	})
}

// FuzzParseKeys: whatever a file of API keys says, the answer is keys or problems
// that each say what is wrong and name the file.
func FuzzParseKeys(f *testing.F) {
	const hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	f.Add([]byte("keys:\n  - {id: alice, hash: " + hash + ", models: [llama], rate: 5, burst: 10}\n  - {id: bob, hash: \"" + hash + "\"}\n"))
	f.Add([]byte("keys:\n  - id: alice\n    hash: 0123\n    rate: many\n"))
	f.Add([]byte("keys: [{id: [a], hash: {}}]\nkeys: []\n"))
	f.Add([]byte("keys: &a [*a, {<<: *a}]"))
	f.Add([]byte("---\nkeys: []\n---\nkeys: []\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeys("fuzz.yaml", data)
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 || keys != nil {
				t.Fatalf("not a list of problems: %v, %v", keys, err)
			}
			for _, p := range problems {
				if !strings.HasPrefix(p.String(), "fuzz.yaml:") || p.What == "" || p.Remedy == "" {
					t.Errorf("incomplete: %q", p.String())
				}
			}
			return
		}
		// What is accepted is fit for a ring, or the ring says what is not.
		ring, err := keyring.New(bytes.Repeat([]byte{7}, 32), keys)
		if err == nil && len(keys) > 0 {
			if _, ok := ring.Check("rhumb_" + keys[0].ID + "_x"); ok {
				t.Errorf("key %q opens with another secret", keys[0].ID)
			}
		}
	})
}
