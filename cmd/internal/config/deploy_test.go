package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/configtest"
	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
)

// deployed are the example files and the daemon that each is for.
var deployed = map[string]string{"agent.yaml": "agent", "director.yaml": "director"}

// absolute is a file name in an example.
var absolute = regexp.MustCompile(`/(etc|var)/[\w./-]+`)

// furnish makes the files that an example names, in a folder of the test, and
// gives the example with their paths.
func furnish(t *testing.T, f *configtest.Files, data string) string {
	t.Helper()
	const year = 365 * configtest.Day
	f.Region("etc/rhumb/eu-west", "eu-west", noon, year, configtest.Endpoint(t, "https://eu-west.example.com", "192.0.2.10", "2001:db8::10"))
	f.Director("etc/rhumb/ns1", "ns1")
	f.Server("etc/rhumb/gateway", 1, noon, noon.Add(year))
	f.Server("etc/rhumb/route", 2, noon, noon.Add(year))
	f.Write("etc/rhumb/keys.yaml", goodKeys)
	f.Write("var/lib/rhumb/director.state", "")
	for _, name := range []string{"fleet.pem", "gossip.key", "pepper"} {
		if err := os.Rename(f.Path(name), f.Path("etc/rhumb/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	return absolute.ReplaceAllString(data, f.Dir+"$0")
}

// goodKeys is a file of API keys in order.
const goodKeys = `keys:
  - {id: team-a, hash: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f, models: [llama], rate: 5, burst: 10}
`

// TestDeployedExamples loads each example as an operator would: with the files
// that it names in place, here in a folder of the test.
func TestDeployedExamples(t *testing.T) {
	for name, role := range deployed {
		t.Run(name, func(t *testing.T) {
			data := example(t, name)
			names := absolute.FindAllString(data, -1)
			if len(names) < 4 {
				t.Fatalf("the example names only %v", names)
			}
			f := configtest.New(t, noon)
			path := f.Write(name, furnish(t, f, data))
			cfg, err := Load(path, Source{Now: atNoon})
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.Roles(); !slices.Equal(got, []string{role}) {
				t.Errorf("roles = %v, want %s", got, role)
			}
			switch role {
			case "agent":
				_, err = cfg.AgentOptions(noon)
			default:
				_, err = cfg.DirectorOptions(noon)
			}
			if err != nil {
				t.Errorf("options: %v", err)
			}
			for _, named := range names {
				if strings.HasSuffix(named, ".state") {
					continue // the daemon makes it
				}
				kept := f.Path(named) + ".kept"
				if err := os.Rename(f.Path(named), kept); err != nil {
					t.Fatal(err)
				}
				if _, err := Load(path, Source{Now: atNoon}); err == nil || !strings.Contains(err.Error(), "there is no file "+f.Path(named)) {
					t.Errorf("without %s: %v", named, err)
				}
				if err := os.Rename(kept, f.Path(named)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// commented is a key with its default in an example, without "(for example)".
var commented = regexp.MustCompile(`(?m)^(\s*)# (\w+): ([^\s#]+)\s*(#.*)?$`)

// TestDeployedComments: the defaults that the examples show as comments are the
// defaults, and every setting is in an example.
func TestDeployedComments(t *testing.T) {
	var all string
	for name := range deployed {
		all += example(t, name)
	}
	shown := commented.FindAllStringSubmatch(all, -1)
	if len(shown) < 10 {
		t.Fatalf("found only %d commented defaults", len(shown))
	}
	for _, m := range shown {
		if !slices.ContainsFunc(settings, func(s strict.Setting) bool { return s.Key == m[2] && s.Default == m[3] }) {
			t.Errorf("%q is no setting's default", strings.TrimSpace(m[0]))
		}
	}
	for _, s := range settings {
		if !regexp.MustCompile(`\b` + s.Key + `:`).MatchString(all) {
			t.Errorf("%s is in no example", s.Path)
		}
	}
}

func example(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
