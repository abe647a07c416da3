package strict

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// field is one key of a mapping.
type field struct {
	key      string
	typ      reflect.Type
	fallback string // the default as text; empty for none
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// fieldsOf lists the keys of a mapping type in the order of its struct.
func fieldsOf(t reflect.Type) []field {
	fields := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		typ := f.Type
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		fields = append(fields, field{f.Tag.Get("mapstructure"), typ, f.Tag.Get("default")})
	}
	return fields
}

// IsMapping reports whether a value of the type is written as a YAML mapping.
func IsMapping(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textType)
}

// Setting is a value that has a path of its own: everything but list items.
type Setting struct {
	Path    string
	Key     string // the path's last part
	Type    reflect.Type
	Default string // as text; empty for none
}

// SettingsOf lists all settings of a struct type, depth first. A list is one
// setting.
func SettingsOf(t reflect.Type) []Setting { return settingsOf(t, "") }

func settingsOf(t reflect.Type, prefix string) []Setting {
	var all []Setting
	for _, f := range fieldsOf(t) {
		path := Join(prefix, f.key)
		if IsMapping(f.typ) {
			all = append(all, settingsOf(f.typ, path)...)
			continue
		}
		all = append(all, Setting{Path: path, Key: f.key, Type: f.typ, Default: f.fallback})
	}
	return all
}

// Join is the path of a key under another.
func Join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// Sample says what a value of the type looks like, for remedies.
func Sample(t reflect.Type) string {
	switch t {
	case durationType:
		return "a duration with a unit, like 20s"
	case reflect.TypeFor[Size]():
		return "a size with a unit, like 100MiB"
	case reflect.TypeFor[netip.Addr]():
		return "an IP address, like 192.0.2.1 or 2001:db8::1"
	case reflect.TypeFor[netip.Prefix]():
		return "a network, like 192.0.2.0/24 or 2001:db8::/48"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number, like 8"
	case reflect.Uint32:
		return "a whole number from 0 to 4294967295"
	case reflect.Float64:
		return "a number, like 0.5"
	case reflect.String:
		return "a text"
	case reflect.Slice:
		return "a list"
	default:
		return "a mapping of " + strings.Join(keysOf(t), ", ")
	}
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range fieldsOf(t) {
		keys = append(keys, f.key)
	}
	return keys
}

// ParseScalar reads a scalar of the type from text, strictly. Text types stay
// text: the decoding reads them again.
func ParseScalar(t reflect.Type, text string) (any, error) {
	switch {
	case t == durationType:
		if _, err := time.ParseDuration(text); err != nil || text == "0" {
			return nil, fmt.Errorf("%q is not a duration with a unit", text)
		}
		return text, nil
	case reflect.PointerTo(t).Implements(textType):
		v := reflect.New(t).Interface().(encoding.TextUnmarshaler)
		if err := v.UnmarshalText([]byte(text)); err != nil || text == "" {
			return nil, fmt.Errorf("%q is not %s", text, noun(t))
		}
		return text, nil
	}
	var v any
	var err error
	switch t.Kind() {
	case reflect.String:
		v = text
	case reflect.Bool:
		v, err = text == "true", nil
		if text != "true" && text != "false" {
			err = strconv.ErrSyntax
		}
	case reflect.Int, reflect.Int64:
		v, err = strconv.Atoi(text)
	case reflect.Uint32:
		v, err = strconv.ParseUint(text, 10, 32)
	case reflect.Float64:
		v, err = strconv.ParseFloat(text, 64)
	default:
		err = fmt.Errorf("the schema has a %v, which no text can be", t)
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not %s", text, noun(t))
	}
	return v, nil
}

// noun is Sample without its example.
func noun(t reflect.Type) string {
	s, _, _ := strings.Cut(Sample(t), ",")
	return s
}
