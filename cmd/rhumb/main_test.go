package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/gossip/gossiptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(gossiptest.Patient{M: m}) }

// rhumb runs a command line and returns its exit code and what it printed.
func rhumb(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestExitCodes(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("director: {}\nagnet: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args           string
		code           int
		stdout, stderr string // parts
	}{
		{"version", exitOK, "rhumb ", ""},
		{"version -o json", exitOK, `"platform":`, ""},
		{"version -o xml", exitUsage, "", `"xml": use text or json`},
		{"version now", exitUsage, "", "see rhumb version --help"},
		{"--help", exitOK, "Available Commands", ""},
		{"", exitOK, "Available Commands", ""},
		{"vresion", exitUsage, "", "version"},
		{"version --no-such-flag", exitUsage, "", "--no-such-flag"},
		{"check config", exitUsage, "", "accepts 1 arg"},
		{"check confgi", exitUsage, "", "no such command"},
		{"check", exitUsage, "", "see rhumb check --help"},
		{"check config absent.yaml", exitUsage, "", "absent.yaml"},
		{"check config " + bad, exitUsage, "", bad + ":2: agnet: no such key; did you mean agent?"},
		{"check config --set zone.ttl=1 --skip-files ../../deploy/director.yaml", exitUsage, "", "flag --set: zone.ttl"},
		{"check config --skip-files ../../deploy/director.yaml", exitOK, "../../deploy/director.yaml: ok (director)\n", ""},
		{"check config --skip-files ../../deploy/agent.yaml", exitOK, "../../deploy/agent.yaml: ok (agent)\n", ""},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			code, stdout, stderr := rhumb(t, strings.Fields(test.args)...)
			if code != test.code || !strings.Contains(stdout, test.stdout) || !strings.Contains(stderr, test.stderr) {
				t.Errorf("exit %d, want %d\nstdout: %s\nstderr: %s", code, test.code, stdout, stderr)
			}
			if (code == exitOK) != (stderr == "") {
				t.Errorf("exit %d with %q on the error output", code, stderr)
			}
		})
	}
}

func TestCheckConfigJSON(t *testing.T) {
	code, stdout, _ := rhumb(t, "check", "config", "-o", "json", "--skip-files", "--set", "zone.serial=x", "../../deploy/director.yaml")
	var v verdict
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if code != exitUsage || v.OK || len(v.Problems) != 1 || v.Problems[0].Path != "zone.serial" {
		t.Errorf("exit %d: %+v", code, v)
	}
}
