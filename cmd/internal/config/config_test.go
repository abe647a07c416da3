package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// minimal is the shortest file of a director, with room for one more key.
const minimal = `gossip: {key_file: g, advertise: "192.0.2.1:7946"}
fleet: {ca_file: a, cert_file: b, key_file: c}
zone: {name: Inference.Example.com., serial: 7, ns: [{name: ns1, addresses: [192.0.2.1]}]}
director: {dns: {listen: ["127.0.0.1:53"]}, state_file: keep/state}
`

func TestDefaults(t *testing.T) {
	cfg, err := Parse("dir/rhumb.yaml", []byte(minimal), Source{SkipFiles: true})
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Log:    Log{Level: "info", Format: "text"},
		Admin:  Admin{Listen: "127.0.0.1:8088"},
		Gossip: Gossip{Bind: "0.0.0.0:7946", Advertise: "192.0.2.1:7946", KeyFile: "dir/g", Label: "rhumb"},
		Fleet:  Fleet{CAFile: "dir/a", CertFile: "dir/b", KeyFile: "dir/c"},
		Zone: Zone{
			Name: "inference.example.com", Serial: 7, TTL: 20 * time.Second,
			NS: cfg.Zone.NS,
		},
		Director: &Director{
			DNS:       DNS{Listen: []string{"127.0.0.1:53"}},
			Redirect:  Redirect{Location: "name", Scheme: "https"},
			StateFile: "dir/keep/state",
		},
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got %+v\nwant %+v", cfg, want)
	}
	if got := cfg.Zone.NS[0].Addresses[0].String(); got != "192.0.2.1" {
		t.Errorf("address of ns1 = %s", got)
	}
}

func TestPrecedence(t *testing.T) {
	src := Source{
		Environ: []string{"RHUMB_ZONE_TTL=30s", "RHUMB_ZONE_SERIAL=8", "RHUMB_TRUSTED_PROXIES=10.0.0.0/8, ::1/128", "RHUMB_GOSSIP_SEEDS=", "PATH=x"},
		Set:     []string{"zone.serial=9", "director.dns.why=true", "director.dns.listen=127.0.0.2:53,[::1]:53"},
	}
	src.SkipFiles = true
	cfg, err := Parse("rhumb.yaml", []byte(minimal), src)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Zone.TTL != 30*time.Second || cfg.Zone.Serial != 9 || !cfg.Director.DNS.Why {
		t.Errorf("ttl %v serial %d why %v, want 30s from the environment, 9 and true from flags", cfg.Zone.TTL, cfg.Zone.Serial, cfg.Director.DNS.Why)
	}
	if len(cfg.TrustedProxies) != 2 || cfg.TrustedProxies[1].String() != "::1/128" || len(cfg.Gossip.Seeds) != 0 {
		t.Errorf("proxies %v seeds %v", cfg.TrustedProxies, cfg.Gossip.Seeds)
	}
	if want := []string{"127.0.0.2:53", "[::1]:53"}; !slices.Equal(cfg.Director.DNS.Listen, want) {
		t.Errorf("listen = %v, want %v: a flag replaces the file's list", cfg.Director.DNS.Listen, want)
	}
}

func TestSettingsAreStrict(t *testing.T) {
	tests := []struct {
		name string
		src  Source
		want string
	}{
		{"unit", Source{Environ: []string{"RHUMB_ZONE_TTL=30"}},
			`env RHUMB_ZONE_TTL: zone.ttl: "30" is not a duration with a unit; write a duration with a unit, like 20s`},
		{"range", Source{Environ: []string{"RHUMB_ZONE_TTL=2m"}},
			`env RHUMB_ZONE_TTL: zone.ttl: 2m is out of range; write a value from 5s to 1m`},
		{"clash", Source{Environ: []string{"RHUMB_DIRECTOR_REDIRECT_LISTEN=:80,:8088"}},
			`env RHUMB_DIRECTOR_REDIRECT_LISTEN: director.redirect.listen[1]: :8088 is taken by admin.listen; give each server an address of its own`},
		{"unknown", Source{Environ: []string{"RHUMB_DIRECTOR_STATE_FLIE=x"}},
			`env RHUMB_DIRECTOR_STATE_FLIE: no such setting; did you mean RHUMB_DIRECTOR_STATE_FILE?`},
		{"section", Source{Environ: []string{"RHUMB_ZNOE_TTL=30s"}},
			`env RHUMB_ZNOE_TTL: no such setting; did you mean RHUMB_ZONE_TTL?`},
		{"underscore", Source{Environ: []string{"RHUMB_LOGLEVEL=debug"}},
			`env RHUMB_LOGLEVEL: no such setting; did you mean RHUMB_LOG_LEVEL?`},
		{"far", Source{Environ: []string{"RHUMB_DIRECTOR_EVERYTHING_AT_ONCE=x"}},
			`env RHUMB_DIRECTOR_EVERYTHING_AT_ONCE: no such setting; unset it, or name a key as RHUMB_SECTION_KEY`},
		{"list", Source{Environ: []string{"RHUMB_ZONE_NS=ns1"}},
			`env RHUMB_ZONE_NS: zone.ns: a list of mappings can only be given in the file; move it there`},
		{"item", Source{Environ: []string{"RHUMB_TRUSTED_PROXIES=::1/128,x"}},
			`env RHUMB_TRUSTED_PROXIES: trusted_proxies: "x" is not a network; write a network, like 192.0.2.0/24 or 2001:db8::/48, with commas between several`},
		{"role", Source{Environ: []string{"RHUMB_AGENT_NAME=a"}},
			`env RHUMB_AGENT_NAME: agent.name: the file has no section agent; add the section or unset this`},
		{"flag", Source{Set: []string{"zone.tttl=30s"}},
			`flag --set: "zone.tttl": no such setting; use the path of a key of the file, like zone.ttl`},
		{"shape", Source{Set: []string{"zone.ttl"}},
			`flag --set: no "=" in "zone.ttl"; write --set zone.ttl=30s`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.src.SkipFiles = true
			_, err := Parse("rhumb.yaml", []byte(minimal), test.src)
			if err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

// TestServiceLinks: Kubernetes puts the addresses of Services into every pod's
// environment; for a Service called rhumb-director they look like settings.
func TestServiceLinks(t *testing.T) {
	src := Source{SkipFiles: true, Environ: []string{
		"RHUMB_DIRECTOR_SERVICE_HOST=10.96.0.9", "RHUMB_DIRECTOR_SERVICE_PORT=53", "RHUMB_DIRECTOR_SERVICE_PORT_DNS=53",
		"RHUMB_DIRECTOR_PORT=tcp://10.96.0.9:53", "RHUMB_DIRECTOR_REDIRECT_PORT=tcp://[fd00::9]:443", "RHUMB_DIRECTOR_PORT_53_TCP_ADDR=10.96.0.9", "RHUMB_PORT=tcp://10.96.0.9:80", "RHUMB_SERVICE_HOST=10.96.0.9", "RHUMB_VERSION=1.2", "RHUMBA_ZONE_TTL=x",
	}}
	if _, err := Parse("rhumb.yaml", []byte(minimal), src); err != nil {
		t.Error(err)
	}
}

// TestSchema: each setting has a variable of its own; every default is valid.
func TestSchema(t *testing.T) {
	seen := map[string]string{}
	for _, s := range settings {
		name := envName(s.Path)
		if other, twice := seen[name]; twice {
			t.Errorf("%s and %s are both %s", other, s.Path, name)
		}
		seen[name] = s.Path
		// Of the variables of Kubernetes only those with a link as value are told apart
		// from ours.
		if serviceLink.MatchString(name) && !strings.HasSuffix(name, "_PORT") {
			t.Errorf("%s looks like a variable of Kubernetes", name)
		}
		if s.Key == "" || s.Key != strings.ToLower(s.Key) {
			t.Errorf("%s: key %q is not lower-case", s.Path, s.Key)
		}
		if _, err := strict.ParseScalar(s.Type, s.Default); s.Default != "" && err != nil {
			t.Errorf("default of %s: %v", s.Path, err)
		}
	}
	if _, known := settingAt("agent.limits.body"); !known {
		t.Error("agent.limits.body is not a setting")
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.yaml")
	write(t, big, strings.Repeat("#\n", maxFile/2+1))
	for _, path := range []string{dir, big, filepath.Join(dir, "absent.yaml")} {
		if _, err := Load(path, Source{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Load(%s) = %v, want an error that names it", path, err)
		}
	}
}

func TestReportIsBounded(t *testing.T) {
	_, err := Parse("rhumb.yaml", []byte(strings.Repeat("log: {}\n", 1000)), Source{SkipFiles: true})
	const most = 50
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != most+1 {
		t.Fatalf("%d problems, want %d and a last line", len(problems), most)
	}
	if last := problems[most].String(); !strings.Contains(last, "more problems") {
		t.Errorf("last line: %s", last)
	}
}

// TestLargeFiles: a long file that is wrong in each of its lines
// is refused, and soon: nothing is compared with everything before it.
func TestLargeFiles(t *testing.T) {
	head := strings.Replace(minimal, "director: {", "director: {geo: {overrides: *}, ", 1)
	const items = 10000
	files := map[string]string{
		"overrides": strings.Replace(head, "*", "["+strings.Repeat("{cidr: 10.0.0.0/8, lat: x}, ", items)+"]", 1),
		"addresses": strings.Replace(minimal, "[192.0.2.1]", "["+strings.Repeat("192.0.2.1, ", items)+"]", 1),
		"listeners": strings.Replace(minimal, `["127.0.0.1:53"]`, "["+strings.Repeat(`"127.0.0.1:53", `, items)+"]", 1),
		"keys":      strings.Repeat("k: 1\n", items),
		"depth":     strings.Repeat("[", items),
		"one key":   strings.Repeat("k", 10*items) + ": 1",
	}
	for name, file := range files {
		if _, err := Parse("rhumb.yaml", []byte(file), Source{SkipFiles: true}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
