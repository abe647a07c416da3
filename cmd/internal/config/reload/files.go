package reload

import (
	"crypto/sha256"
	"errors"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
)

// named are the files that a configuration names, and the digest of its own file.
type named struct {
	by    digest
	files []file
}

// file is a file that a configuration names.
type file struct {
	setting, path string
	live          bool // its content can change while a daemon runs
}

// files lists the files that a configuration names and that are there before the
// daemon makes them: their content is part of the configuration.
func files(c *config.Config) []file {
	out := []file{}
	collect(reflect.ValueOf(c).Elem(), "", false, &out)
	return out
}

func collect(v reflect.Value, prefix string, live bool, out *[]file) {
	for i := range v.NumField() {
		t, f := v.Type().Field(i), v.Field(i)
		key := t.Tag.Get("mapstructure")
		path, isLive := strict.Join(prefix, key), live || t.Tag.Get("reload") == "live"
		if f.Kind() == reflect.Pointer {
			if f.IsNil() {
				continue
			}
			f = f.Elem()
		}
		isFile := strings.HasSuffix(key, "_file") && key != "state_file" || key == "file"
		switch {
		case strict.IsMapping(f.Type()):
			collect(f, path, isLive, out)
		case isFile && f.Kind() == reflect.String && f.String() != "":
			*out = append(*out, file{path, f.String(), isLive})
		}
	}
}

// digest tells contents apart.
type digest [sha256.Size]byte

func sum(parts []digest) digest {
	h := sha256.New()
	for _, p := range parts {
		_, _ = h.Write(p[:]) // never fails
	}
	return digest(h.Sum(nil))
}

// marks remembers the digests of large files, by path.
type marks map[string]mark

// mark is a file's digest and what the file system said of it then.
type mark struct {
	info os.FileInfo
	sum  digest
}

const (
	// small files are read at each look: a coarse clock hides nothing then. Larger ones,
	// geographies of 100 MB, would cost a tenth of a core; they are read again when
	// size, time or the file itself has changed.
	small = 1 << 20

	// maxWatched bounds what is read of one file: above the largest geography.
	maxWatched = 1 << 30
)

// of is the digest of what a file holds, or of why it can't be read.
func (m marks) of(path string) digest {
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxWatched) {
		err = errors.New("not a file to watch")
	}
	if err != nil {
		return sha256.Sum256([]byte(err.Error()))
	}
	was, known := m[path]
	if known && info.Size() > small && os.SameFile(info, was.info) && info.Size() == was.info.Size() && info.ModTime().Equal(was.info.ModTime()) {
		return was.sum
	}
	text, err := os.ReadFile(path)
	if err != nil {
		text = []byte(err.Error())
	}
	m[path] = mark{info, sha256.Sum256(text)}
	return m[path].sum
}

// contents are the digests of the files that a configuration names, by setting:
// those whose content a running daemon can take over, or those for which it must be
// started again.
func (m marks) contents(c *config.Config, live bool) map[string]digest {
	out := map[string]digest{}
	for _, f := range files(c) {
		if f.live == live {
			out[f.setting] = m.of(f.path)
		}
	}
	return out
}

// changed names the settings whose files have another content now.
func changed(was, is map[string]digest) (settings []string) {
	for _, setting := range slices.Sorted(maps.Keys(is)) {
		if old, ok := was[setting]; ok && old != is[setting] {
			settings = append(settings, "the content of "+setting)
		}
	}
	return settings
}
