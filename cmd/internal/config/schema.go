package config

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
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

// isMapping reports whether a value of the type is written as a YAML mapping.
func isMapping(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textType)
}

// setting is a value that has a path of its own: everything but list items.
type setting struct {
	field
	path string
}

// settingsOf lists all settings under t, depth first. A list is one setting.
func settingsOf(t reflect.Type, prefix string) []setting {
	var all []setting
	for _, f := range fieldsOf(t) {
		path := join(prefix, f.key)
		if isMapping(f.typ) {
			all = append(all, settingsOf(f.typ, path)...)
			continue
		}
		all = append(all, setting{f, path})
	}
	return all
}

// settings of the whole schema.
var settings = settingsOf(reflect.TypeFor[Config](), "")

// settingAt finds a setting by its path.
func settingAt(path string) (setting, bool) {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.path == path })
	if i < 0 {
		return setting{}, false
	}
	return settings[i], true
}

// envName is the environment variable of the path: RHUMB_SECTION_KEY.
func envName(path string) string {
	return "RHUMB_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// section is the top-level key that a path is under.
func section(path string) string {
	name, _, _ := strings.Cut(path, ".")
	return name
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// sample says what a value of the type looks like, for remedies.
func sample(t reflect.Type) string {
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
		return "a whole number"
	case reflect.Uint32:
		return "a whole number from 0 to 4294967295"
	case reflect.Float64:
		return "a number"
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

// parseScalar reads a scalar of the type from text, strictly. Text types stay
// text: viper's decoding reads them again.
func parseScalar(t reflect.Type, text string) (any, error) {
	switch {
	case t == durationType:
		if _, err := time.ParseDuration(text); err != nil || text == "0" {
			return nil, fmt.Errorf("%q is not a duration with a unit", text)
		}
		return text, nil
	case reflect.PointerTo(t).Implements(textType):
		v := reflect.New(t).Interface().(encoding.TextUnmarshaler)
		if err := v.UnmarshalText([]byte(text)); err != nil || text == "" {
			return nil, fmt.Errorf("%q is not %s", text, sampleNoun(t))
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
		return nil, fmt.Errorf("%q is not %s", text, sampleNoun(t))
	}
	return v, nil
}

// sampleNoun is sample without its example.
func sampleNoun(t reflect.Type) string {
	noun, _, _ := strings.Cut(sample(t), ",")
	return noun
}
