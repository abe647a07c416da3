package config

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
)

// Diff lists the settings in which two configurations differ, by path: those that
// a running daemon can take over, and those that need a restart. A list counts as
// one setting.
func Diff(old, renewed *Config) (live, restart []string) {
	diff(reflect.ValueOf(old).Elem(), reflect.ValueOf(renewed).Elem(), "", false, func(path string, isLive bool) {
		if isLive {
			live = append(live, path)
		} else {
			restart = append(restart, path)
		}
	})
	return live, restart
}

// diff compares two structs field by field. The tag reload:"live" on a field holds
// for all below it.
func diff(old, renewed reflect.Value, prefix string, live bool, found func(path string, live bool)) {
	for i := range old.NumField() {
		f := old.Type().Field(i)
		path, isLive := join(prefix, f.Tag.Get("mapstructure")), live || f.Tag.Get("reload") == "live"
		a, b := old.Field(i), renewed.Field(i)
		if f.Type.Kind() == reflect.Pointer {
			if a.IsNil() != b.IsNil() {
				found(path, false)
				continue
			}
			if a.IsNil() {
				continue
			}
			a, b = a.Elem(), b.Elem()
		}
		switch {
		case isMapping(a.Type()):
			diff(a, b, path, isLive, found)
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			found(path, isLive)
		}
	}
}

// named is a file that a configuration names.
type named struct {
	setting, path string
	live          bool // its content can change while a daemon runs
}

// files lists the files that a configuration names and that are there before the
// daemon makes them: their content is part of the configuration.
func (c *Config) files() []named {
	var out []named
	collect(reflect.ValueOf(c).Elem(), "", false, &out)
	return out
}

func collect(v reflect.Value, prefix string, live bool, out *[]named) {
	for i := range v.NumField() {
		t, f := v.Type().Field(i), v.Field(i)
		key := t.Tag.Get("mapstructure")
		path, isLive := join(prefix, key), live || t.Tag.Get("reload") == "live"
		if f.Kind() == reflect.Pointer {
			if f.IsNil() {
				continue
			}
			f = f.Elem()
		}
		isFile := strings.HasSuffix(key, "_file") && key != "state_file" || key == "file"
		switch {
		case isMapping(f.Type()):
			collect(f, path, isLive, out)
		case isFile && f.Kind() == reflect.String && f.String() != "":
			*out = append(*out, named{path, f.String(), isLive})
		}
	}
}

// sum is a digest of what files hold, or of why they can't be read: another one
// means that a reload is due.
func sum(paths []string) [sha256.Size]byte {
	var all bytes.Buffer
	for _, path := range paths {
		text, err := readBounded(path)
		if err != nil {
			text = []byte(err.Error())
		}
		part := sha256.Sum256(text)
		_, _ = fmt.Fprintf(&all, "%q %x\n", path, part)
	}
	return sha256.Sum256(all.Bytes())
}

// maxWatched bounds what is read of one file to see whether it changed: above the
// largest geography.
const maxWatched = 512 << 20

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxWatched {
		return nil, errors.New("not a file to watch")
	}
	return os.ReadFile(path)
}

// needRestart is the error of a configuration that can't be taken over.
func needRestart(paths []string) error {
	slices.Sort(paths)
	return fmt.Errorf("only a restart can change %s; nothing was changed", strings.Join(paths, ", "))
}
