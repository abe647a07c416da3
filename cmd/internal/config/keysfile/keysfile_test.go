package keysfile

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// key is a key in order.
func key(id string) keyring.Key {
	return keyring.Key{ID: id, Hash: [keyring.HashSize]byte{1, 2, 3}, Models: []regions.ModelName{"llama", "a:b"}, Rate: 2.5, Burst: 4, Class: regions.ClassHigh}
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestAppend(t *testing.T) {
	var bare keyring.Key
	bare.ID, bare.Hash = "old", [keyring.HashSize]byte{9}
	old := strings.TrimRight(Entry(bare), "\n")
	for what, before := range map[string]string{
		"no file":       "",
		"empty":         "\n",
		"comment":       "# keys of production\n",
		"flow":          "keys: []\n",
		"one":           "keys:\n" + old + "\n",
		"indented":      "# keys of production\nkeys:\n    " + strings.ReplaceAll(old, "\n", "\n    ") + " # the first\n",
		"no line break": "keys: []",
		"braces":        "{keys: []}\n",
		"an empty map":  "{}\n",
	} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.yaml")
			want := []keyring.Key{key("new")}
			if strings.Contains(before, "old") {
				want = []keyring.Key{bare, key("new")}
			}
			if what != "no file" {
				write(t, path, before, 0o640)
			}
			if err := Append(path, key("new")); err != nil {
				t.Fatal(err)
			}
			got, err := Load(path)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, want)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, comment := range []string{"# keys of production", "# the first"} {
				if strings.Contains(before, comment) && !bytes.Contains(text, []byte(comment)) {
					t.Errorf("%q is gone:\n%s", comment, text)
				}
			}
			wantMode := fs.FileMode(0o640)
			if what == "no file" {
				wantMode = 0o600
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != wantMode {
				t.Errorf("mode %v, %v; want %v", info.Mode(), err, wantMode)
			}
		})
	}
}

// TestAppendThroughLink: what a link leads to is replaced, and nothing is left
// beside it.
func TestAppendThroughLink(t *testing.T) {
	dir, away := t.TempDir(), t.TempDir()
	link, file := filepath.Join(dir, "keys.yaml"), filepath.Join(away, "real.yaml")
	write(t, file, "keys: []\n", 0o600)
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := Append(link, key("a")); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(file); err != nil || len(got) != 1 {
		t.Errorf("behind the link: %v, %v", got, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info.Mode(), err)
	}
	for _, d := range []string{dir, away} {
		if left, err := os.ReadDir(d); err != nil || len(left) != 1 {
			t.Errorf("left in a folder: %v, %v", left, err)
		}
	}
}

func TestAppendLeavesAlone(t *testing.T) {
	for want, before := range map[string]string{
		"has no value":                   "keys:\n",
		`has a key "a" already`:          "keys:\n" + Entry(key("a")),
		"no such key; did you mean keys": "key: []\n",
		"not YAML":                       "keys: [\n",
		"is not a hash of 64":            "keys: [{id: b, hash: abc}]\n",
	} {
		path := filepath.Join(t.TempDir(), "keys.yaml")
		write(t, path, before, 0o600)
		if err := Append(path, key("a")); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: error %v, want one with %q and the file", before, err, want)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != before {
			t.Errorf("%q has become %q, %v", before, text, err)
		}
	}
}

// TestAppendKeepsTheOwner: who could read the file still can.
func TestAppendKeepsTheOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	write(t, path, "keys: []\n", 0o640)
	owner, group := os.Getuid(), os.Getgid()
	if owner == 0 { // else nobody else's file can be made
		owner, group = 65534, 65533
	}
	if err := os.Chown(path, owner, group); err != nil {
		t.Fatal(err)
	}
	if err := Append(path, key("a")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	is, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(is.Uid) != owner || int(is.Gid) != group || info.Mode().Perm() != 0o640 {
		t.Errorf("%+v, %v", is, info.Mode())
	}
}

// TestEmptyIsNoFile: a file that is about to be written takes nobody's key away.
func TestEmptyIsNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	write(t, path, "", 0o600)
	if keys, err := Load(path); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("%v, %v", keys, err)
	}
	if err := Append(path, key("a")); err != nil {
		t.Error(err)
	}
	if keys, err := Load(path); err != nil || len(keys) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
}

// TestAppendTogether: keys that are made at the same moment are all there.
func TestAppendTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	const n = 20
	var g sync.WaitGroup
	for i := range n {
		g.Go(func() {
			if err := Append(path, key(fmt.Sprintf("team-%d", i))); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if keys, err := Load(path); err != nil || len(keys) != n {
		t.Errorf("%d keys, %v, want %d", len(keys), err, n)
	}
}

// FuzzParse: whatever a file says, it is keys in order or problems that name it.
func FuzzParse(f *testing.F) {
	f.Add([]byte("keys:\n" + Entry(key("a")) + Entry(key("b"))))
	f.Add([]byte("keys: [{id: a, hash: 0, rate: .inf, burst: -1, models: [1]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parse("keys.yaml", data)
		if err != nil && !strings.Contains(err.Error(), "keys.yaml:") {
			t.Fatalf("not a list of problems: %v", err)
		}
		for _, k := range keys {
			if _, err := k.Validate(); err != nil {
				t.Errorf("taken: %+v, %v", k, err)
			}
		}
	})
}
