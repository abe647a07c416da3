package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/configtest"
)

var update = flag.Bool("update", false, "write the golden files of testdata/broken")

// noon is when the tests' certificates are looked at.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func atNoon() time.Time { return noon }

// surroundings are the files that the broken configurations name.
func surroundings(t *testing.T) *configtest.Files {
	t.Helper()
	const day = configtest.Day
	f := configtest.New(t, noon)
	at := configtest.Endpoint(t, "http://192.0.2.10:8080", "192.0.2.10")
	f.Region("eu-west", "eu-west", noon, 365*day, at)
	f.Region("us-east", "us-east", noon, 365*day, at)
	f.Region("expired", "eu-west", noon.Add(-100*day), 10*day, at)
	f.Region("future", "eu-west", noon.Add(30*day), 10*day, at)
	f.Region("soon", "eu-west", noon, 13*day, at)
	f.Director("ns1", "ns1")
	f.Server("gateway", 1, noon.Add(-day), noon.Add(90*day))
	f.Server("gateway-expired", 2, noon.Add(-90*day), noon.Add(-time.Minute))
	f.Server("gateway-future", 3, noon.Add(time.Minute), noon.Add(90*day))
	f.Server("gateway-soon", 4, noon.Add(-90*day), noon.Add(day))
	stranger := configtest.New(t, noon)
	stranger.Region("other", "eu-west", noon, 365*day, at)
	for _, name := range []string{"other.pem", "other.key"} {
		text, err := os.ReadFile(stranger.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		f.Write(name, string(text))
	}
	f.Write("pepper-short", "c2hvcnQ=\n")
	f.Write("two-lines", "token\ntoken\n")
	f.Write("keys.yaml", brokenKeys)
	f.Write("pods.yaml", brokenPods)
	f.Write("pods-empty.yaml", "")
	return f
}

// brokenKeys has one of each mistake.
const brokenKeys = `keys:
  - {id: team-a, hash: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f, rate: 5}
  - {id: team-a, hash: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f}
  - {id: Team_B, hash: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f}
  - {id: team-c, hash: rhumb_team-c_secret}
  - {id: team-d, hash: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f, burst: 5}
  - {id: team-e, hash: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f, rate: -1}
  - {id: team-f, hash: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f, rate: 5/s}
  - {id: team-g, hash: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f, model: llama}
  - {id: team-h, hash: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f, priority: urgent}
`

// brokenPods has one of each kind of mistake; the package that reads it has the
// others.
const brokenPods = `pods:
  - {name: p0, http: "10.0.0.1:8000", metrik: "10.0.0.1:8002"}
  - {name: p1, http: triton-1:8000}
  - {name: p1, http: "10.0.0.2:8000", models: [mistral]}
`

// mistakes are those that a file of its own must show.
var mistakes = []string{
	"unknown-key", "wrong-unit", "duplicate", "bad-address", "colliding-labels", "reserved-names",
	"missing-certificate", "expired-certificate", "overlapping-overrides", "impossible-limits",
}

// TestBroken reads every broken file and compares the whole report.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, file := range files {
		shown[strings.TrimSuffix(filepath.Base(file), ".yaml")] = true
	}
	for _, name := range mistakes {
		if !shown[name] {
			t.Errorf("there is no broken file %s", name)
		}
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			f := surroundings(t)
			_, err = Load(f.Write("rhumb.yaml", string(data)), Source{Now: atNoon})
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want problems", err)
			}
			got := plain(f, err.Error()) + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// plain is a report without the test's folder.
func plain(f *configtest.Files, report string) string {
	return strings.NewReplacer(f.Dir+string(filepath.Separator), "", f.Dir, ".").Replace(report)
}
