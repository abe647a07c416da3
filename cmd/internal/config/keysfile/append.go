package keysfile

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// Entry is a key as it stands in the file, an item of the list "keys". Texts are
// quoted: a hash of digits only would be a number.
func Entry(k keyring.Key) string {
	var b strings.Builder
	fmt.Fprintf(&b, "- id: %q\n  hash: %q\n", k.ID, hex.EncodeToString(k.Hash[:]))
	if len(k.Models) > 0 {
		quoted := make([]string, len(k.Models))
		for i, m := range k.Models {
			quoted[i] = strconv.Quote(string(m))
		}
		fmt.Fprintf(&b, "  models: [%s]\n", strings.Join(quoted, ", "))
	}
	if k.Rate > 0 {
		fmt.Fprintf(&b, "  rate: %s\n", strconv.FormatFloat(k.Rate, 'f', -1, 64))
	}
	if k.Burst > 0 {
		fmt.Fprintf(&b, "  burst: %d\n", k.Burst)
	}
	if k.Class != regions.ClassNormal {
		fmt.Fprintf(&b, "  priority: %s\n", k.Class)
	}
	return b.String()
}

// Append adds a key to a file of API keys, which is made if it is not there. Who
// reads the file meanwhile finds it whole, with the key or without; who appends at
// the same time waits. A file that is not in order, or that has a key of that id, is
// left as it is.
func Append(path string, k keyring.Key) error {
	// What a link leads to is replaced, not the link.
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	unlock, err := lock(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	var old fs.FileInfo
	data, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		data = nil
	case err != nil:
		return err
	default:
		if old, err = os.Stat(path); err != nil {
			return err
		}
	}
	keys, err := parse(path, data)
	if err != nil {
		return err
	}
	for _, have := range keys {
		if have.ID == k.ID {
			return fmt.Errorf("%s has a key %q already; choose another id, or remove that entry first", path, k.ID)
		}
	}
	data, err = extend(data, Entry(k))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	// What was written is read back, so that a gap between the two is no loss.
	again, err := parse(path, data)
	if err != nil || len(again) != len(keys)+1 {
		return errors.Join(fmt.Errorf("%s can't be extended; add the entry by hand", path), err)
	}
	return replace(path, data, old)
}

// lock keeps others from appending to a file of the folder. The file itself can't
// be locked: it is replaced.
func lock(folder string) (unlock func(), err error) {
	d, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", folder, err), d.Close())
	}
	return func() { _ = d.Close() }, nil // closing unlocks
}

// extend adds an entry to a file's text and keeps its comments.
func extend(data []byte, entry string) ([]byte, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		data = []byte("# API keys of the gateway (agent.auth.keys_file): hashes under the pepper, no secrets.\nkeys: []\n")
	}
	var doc, item yaml.Node
	if err := errors.Join(yaml.Unmarshal(data, &doc), yaml.Unmarshal([]byte(entry), &item)); err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 { // comments only
		return append(bytes.TrimRight(data, "\n"), "\nkeys:\n"+entry...), nil
	}
	root := doc.Content[0]
	if len(root.Content) == 0 {
		root.Kind, root.Tag, root.Style, root.Value = yaml.MappingNode, "!!map", 0, ""
		root.Content = []*yaml.Node{{Kind: yaml.ScalarNode, Value: "keys"}, {Kind: yaml.SequenceNode}}
	}
	list := root.Content[1] // the only key that a file in order can have
	list.Style = 0
	list.Content = append(list.Content, item.Content[0].Content...)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(&doc), e.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// replace swaps a file for a new one with other contents, on disk before it
// returns, with the mode and the owner of the old one, if there is one: who could
// read the file still can.
func replace(path string, data []byte, old fs.FileInfo) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if old != nil {
		err = errors.Join(err, f.Chmod(old.Mode().Perm()))
		if is, ok := old.Sys().(*syscall.Stat_t); ok {
			err = errors.Join(err, f.Chown(int(is.Uid), int(is.Gid)))
		}
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
