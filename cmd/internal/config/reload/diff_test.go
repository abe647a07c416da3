package reload

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
)

// live are the settings that a running daemon takes over. All others need a
// restart.
var live = []string{
	"log.level", "admin.token_file", "admin.tls.cert_file", "admin.tls.key_file", "trusted_proxies",
	"zone.serial", "zone.ns", "zone.names", "zone.ttl", "zone.static",
	"director.dns.why", "director.redirect.location", "director.redirect.scheme", "director.redirect.port", "director.redirect.addresses",
	"director.redirect.tls.cert_file", "director.redirect.tls.key_file", "director.geo.file", "director.geo.overrides",
	"agent.tls.cert_file", "agent.tls.key_file", "agent.linger",
	"agent.limits.body", "agent.limits.first_byte_timeout", "agent.limits.total_timeout", "agent.limits.read_timeout", "agent.limits.write_timeout", "agent.limits.stream_idle_timeout", "agent.limits.drain_timeout",
	"agent.limits.connections", "agent.limits.connections_per_client", "agent.limits.connection_age", "agent.limits.memory",
	"agent.auth.mode", "agent.auth.keys_file", "agent.auth.pepper_file",
}

// both is a configuration of both daemons.
func both() *config.Config {
	return &config.Config{Agent: &config.Agent{}, Director: &config.Director{}}
}

// TestDiff changes each setting by itself: exactly it is found, as what it is.
func TestDiff(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range strict.SettingsOf(reflect.TypeFor[config.Config]()) {
		seen[s.Path] = true
		old, renewed := both(), both()
		change(t, fieldAt(t, reflect.ValueOf(renewed).Elem(), s.Path))
		taken, restart := Diff(old, renewed)
		found := slices.Concat(taken, restart)
		if len(found) != 1 || found[0] != s.Path || (len(taken) == 1) != slices.Contains(live, s.Path) {
			t.Errorf("%s changed: live %v, restart %v", s.Path, taken, restart)
		}
	}
	for _, path := range live {
		if !seen[path] {
			t.Errorf("%s is no setting", path)
		}
	}
	if taken, restart := Diff(both(), both()); taken != nil || restart != nil {
		t.Errorf("nothing changed: live %v, restart %v", taken, restart)
	}
	if taken, restart := Diff(both(), &config.Config{Agent: &config.Agent{}}); taken != nil || !slices.Equal(restart, []string{"director"}) {
		t.Errorf("a role less: live %v, restart %v", taken, restart)
	}
}

// fieldAt is the field of a setting.
func fieldAt(t *testing.T, v reflect.Value, path string) reflect.Value {
	t.Helper()
	var found reflect.Value
	var walk func(v reflect.Value, prefix string)
	walk = func(v reflect.Value, prefix string) {
		for i := range v.NumField() {
			f, at := v.Field(i), strict.Join(prefix, v.Type().Field(i).Tag.Get("mapstructure"))
			if f.Kind() == reflect.Pointer {
				f = f.Elem()
			}
			switch {
			case at == path:
				found = f
			case strict.IsMapping(f.Type()):
				walk(f, at)
			}
		}
	}
	walk(v, "")
	if !found.IsValid() {
		t.Fatalf("no field for %s", path)
	}
	return found
}

// change gives a field another value than its zero one.
func change(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case time.Duration:
		v.SetInt(int64(time.Second))
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.MustParseAddr("192.0.2.1")))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.MustParsePrefix("192.0.2.0/24")))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("other")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint32:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(7)
	case reflect.Slice:
		// One item more, in which the first field differs from zero.
		item := reflect.New(v.Type().Elem()).Elem()
		if strict.IsMapping(item.Type()) {
			change(t, item.Field(0))
		} else {
			change(t, item)
		}
		v.Set(reflect.Append(v, item))
	default:
		t.Fatalf("the schema has a %v", v.Type())
	}
}

// TestFiles: what a configuration names is found, what the daemon itself makes is
// not, and each knows whether its content may change.
func TestFiles(t *testing.T) {
	c := both()
	for _, s := range strict.SettingsOf(reflect.TypeFor[config.Config]()) {
		if f := fieldAt(t, reflect.ValueOf(c).Elem(), s.Path); f.Kind() == reflect.String {
			f.SetString(s.Path)
		}
	}
	var changing, fixed []string
	for _, f := range files(c) {
		if f.path != f.setting {
			t.Errorf("%s is at %s", f.setting, f.path)
		}
		if f.live {
			changing = append(changing, f.setting)
		} else {
			fixed = append(fixed, f.setting)
		}
	}
	if want := []string{"gossip.key_file", "fleet.ca_file", "fleet.cert_file", "fleet.key_file"}; !slices.Equal(fixed, want) {
		t.Errorf("fixed files %v, want %v", fixed, want)
	}
	if want := []string{
		"admin.token_file", "admin.tls.cert_file", "admin.tls.key_file",
		"director.redirect.tls.cert_file", "director.redirect.tls.key_file", "director.geo.file",
		"agent.tls.cert_file", "agent.tls.key_file", "agent.auth.keys_file", "agent.auth.pepper_file",
	}; !slices.Equal(changing, want) {
		t.Errorf("changing files %v, want %v", changing, want)
	}
}
