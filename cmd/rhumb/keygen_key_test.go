package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/cmd/internal/config/configtest"
	"github.com/rhumb-lb/rhumb/cmd/internal/config/keysfile"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// guarded is an agent that asks for API keys.
const guarded = `gossip: {key_file: gossip.key, bind: "127.0.0.1:0"}
fleet: {ca_file: fleet.pem, cert_file: eu-west.pem, key_file: eu-west.key}
agent:
  name: agent-1
  region: eu-west
  location: {lat: 53.35, lon: -6.26}
  endpoints: [{url: "http://127.0.0.1:8080"}]
  models: [{name: llama}, {name: mistral}]
  discovery: [{type: static, pods: [{name: pod-0, http: "127.0.0.1:1"}]}]
  listen: ["127.0.0.1:8080"]
  auth: {mode: keys, keys_file: keys.yaml, pepper_file: pepper}
`

// ring is the API keys as an agent has them that starts in the folder.
func ring(t *testing.T, f *configtest.Files) *keyring.Ring {
	t.Helper()
	cfg, err := config.Load(f.Write("agent.yaml", strings.Replace(guarded, "127.0.0.1:0", "127.0.0.1:7946", 1)), config.Source{})
	if err != nil {
		t.Fatal(err)
	}
	o, err := cfg.AgentOptions(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return o.Keys
}

func TestKeygenKey(t *testing.T) {
	f := configtest.New(t, time.Now())
	f.Region("eu-west", "eu-west", f.Now, configtest.Day*30, configtest.Endpoint(t, "http://127.0.0.1:8080"))
	f.Remove("pepper")
	pepper, keys := f.Path("pepper"), f.Path("keys.yaml")
	must := func(args ...string) string {
		t.Helper()
		code, stdout, stderr := rhumb(t, args...)
		if code != exitOK {
			t.Fatalf("%v: exit %d: %s", args, code, stderr)
		}
		return stdout
	}
	must("keygen", "pepper", "--out", pepper)
	said := must("keygen", "key", "team-a", "--pepper", pepper, "--keys", keys, "--model", "llama", "--rate", "0.5", "--burst", "10", "--priority", "high")
	first, _, _ := strings.Cut(strings.TrimPrefix(said, "token  "), "\n")
	var second apiKey
	if err := json.Unmarshal([]byte(must("keygen", "key", "team-b", "--pepper", pepper, "--keys", keys, "-o", "json")), &second); err != nil {
		t.Fatal(err)
	}
	if second.ID != "team-b" || second.File != keys || !strings.Contains(second.Entry, `- id: "team-b"`) {
		t.Errorf("as JSON: %+v", second)
	}

	r := ring(t, f)
	k, ok := r.Check(first)
	if !ok || k.ID != "team-a" || k.Rate != 0.5 || k.Burst != 10 || k.Class != regions.ClassHigh || !k.Allows("llama") || k.Allows("mistral") {
		t.Errorf("the token of team-a is %+v, %v", k, ok)
	}
	if k, ok := r.Check(second.Token); !ok || k.ID != "team-b" || k.Rate != 0 || !k.Allows("mistral") {
		t.Errorf("the token of team-b is %+v, %v", k, ok)
	}

	// Without --keys the entry is printed, to be added by hand.
	said = must("keygen", "key", "team-c", "--pepper", pepper, "--rate", "5")
	token, _, _ := strings.Cut(strings.TrimPrefix(said, "token  "), "\n")
	_, entry, found := strings.Cut(said, "\n\n")
	f.Write("keys.yaml", "keys:\n"+entry)
	if k, ok := ring(t, f).Check(token); !found || !ok || k.ID != "team-c" || k.Rate != 5 {
		t.Errorf("the token of team-c is %+v, %v; said was:\n%s", k, ok, said)
	}
	for _, file := range []string{pepper, keys} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
}

func TestKeygenKeyRefuses(t *testing.T) {
	dir := t.TempDir()
	pepper, keys, short := filepath.Join(dir, "pepper"), filepath.Join(dir, "keys.yaml"), filepath.Join(dir, "short")
	if code, _, stderr := rhumb(t, "keygen", "pepper", "--out", pepper); code != exitOK {
		t.Fatal(stderr)
	}
	if code, _, stderr := rhumb(t, "keygen", "key", "team-a", "--pepper", pepper, "--keys", keys); code != exitOK {
		t.Fatal(stderr)
	}
	if err := os.WriteFile(short, []byte("c2hvcnQ=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, want string }{
		{"keygen pepper --out " + pepper, "it exists"},
		{"keygen key team-a --pepper " + pepper + " --keys " + keys, `has a key "team-a" already`},
		{"keygen key Team-A --pepper " + pepper + " --keys " + keys, "write at most 32 of a-z"},
		{"keygen key team-b --burst 5 --pepper " + pepper + " --keys " + keys, "a burst without a rate"},
		{"keygen key team-b --priority top --pepper " + pepper + " --keys " + keys, "--priority top: want high, normal or low"},
		{"keygen key team-b --rate -1 --pepper " + pepper + " --keys " + keys, "out of range"},
		{"keygen key team-b --pepper " + short + " --keys " + keys, "32 bytes as one line of base64; make one with rhumb keygen pepper"},
		{"keygen key team-b --pepper " + dir + "/none --keys " + keys, "make one with rhumb keygen pepper"},
		{"keygen key team-b --pepper " + pepper + " --keys " + pepper, "pepper"},
		{"keygen key team-b --pepper " + pepper + " --keys " + dir, "is not a file"},
		{"keygen key", "accepts 1 arg"},
	} {
		code, stdout, stderr := rhumb(t, strings.Fields(tt.args)...)
		if code != exitUsage || !strings.Contains(stderr, tt.want) || strings.Contains(stdout, "rhumb_") {
			t.Errorf("%s: exit %d, %q, %q; want %q", tt.args, code, stdout, stderr, tt.want)
		}
	}
	got, err := keysfile.Load(keys)
	if err != nil || len(got) != 1 || got[0].ID != "team-a" {
		t.Errorf("what is left in the file: %+v, %v", got, err)
	}
}
