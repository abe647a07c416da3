package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
)

func TestKeygen(t *testing.T) {
	dir := t.TempDir()
	ca, key := filepath.Join(dir, "fleet.pem"), filepath.Join(dir, "fleet.key")
	must := func(args ...string) {
		t.Helper()
		if code, _, stderr := rhumb(t, args...); code != exitOK {
			t.Fatalf("%v: exit %d: %s", args, code, stderr)
		}
	}
	must("keygen", "fleet", "--out", dir)
	must("keygen", "region", "eu-west", "--fleet", ca, "--fleet-key", key, "--out", dir,
		"--endpoint", "https://eu.example.com=192.0.2.1,2001:db8::1", "--endpoint", "http://192.0.2.2:8080", "--max-slots", "64")
	must("keygen", "director", "ns1", "--fleet", ca, "--fleet-key", key, "--out", dir)

	shared := filepath.Join(dir, "gossip.key")
	must("keygen", "gossip", "--out", shared)
	text, err := os.ReadFile(shared)
	if err != nil {
		t.Fatal(err)
	}
	if key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text))); err != nil || len(key) != gossip.KeySize {
		t.Errorf("gossip key of %d bytes, %v", len(key), err)
	}

	roots, err := fleet.LoadRoots(ca)
	if err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]fleet.Role{"eu-west": fleet.RoleRegion, "ns1": fleet.RoleDirector} {
		id, err := fleet.LoadIdentity(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"), roots, time.Now())
		if err != nil || id.Cert.Role != role || id.Cert.Name != name {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
		if name == "eu-west" && (len(id.Cert.Grant.Endpoints) != 2 || id.Cert.Grant.MaxSlots != 64) {
			t.Errorf("grant: %+v", id.Cert.Grant)
		}
	}

	for _, tt := range []struct{ args, want string }{
		{"keygen fleet --out " + dir, "it exists"},
		{"keygen fleet --days 0 --out " + t.TempDir(), "--days 0: want 1"},
		{"keygen region us --fleet " + dir + "/none --fleet-key " + key + " --endpoint http://192.0.2.1 --out " + dir, "rhumb keygen fleet"},
		{"keygen region us --fleet " + ca + " --fleet-key " + key + " --out " + dir, "endpoint"},
		{"keygen region US --fleet " + ca + " --fleet-key " + key + " --endpoint http://192.0.2.1 --out " + dir, "label"},
		{"keygen region us --fleet " + ca + " --fleet-key " + key + " --endpoint us=x --out " + dir, "address"},
		{"keygen gossip --out " + shared, "it exists"},
		{"keygen operator x", "no such command"},
	} {
		code, _, stderr := rhumb(t, strings.Fields(tt.args)...)
		if code != exitUsage || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d, %q; want %q", tt.args, code, stderr, tt.want)
		}
	}
}
