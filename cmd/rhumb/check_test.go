package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/configtest"
)

// TestCheckConfigFiles: a check looks into the files that are named, unless it is
// told not to, and warns of what will be wrong soon without failing.
func TestCheckConfigFiles(t *testing.T) {
	f := configtest.New(t, time.Now())
	at := configtest.Endpoint(t, "http://127.0.0.1:8080")
	f.Region("eu-west", "eu-west", f.Now, 30*configtest.Day, at)
	f.Write("keys.yaml", "keys: []\n")
	file := f.Write("agent.yaml", strings.Replace(guarded, "127.0.0.1:0", "127.0.0.1:7946", 1))

	code, stdout, stderr := rhumb(t, "check", "config", file)
	want := "warning: " + file + ":11: agent.auth.keys_file: "
	if code != exitOK || stderr != "" || !strings.HasPrefix(stdout, want) || !strings.HasSuffix(stdout, "\n"+file+": ok (agent)\n") {
		t.Errorf("exit %d, %q, %q; want a warning and ok", code, stdout, stderr)
	}
	code, stdout, _ = rhumb(t, "check", "config", file, "-o", "json")
	var v verdict
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitOK || !v.OK || len(v.Warnings) != 1 || v.Warnings[0].Path != "agent.auth.keys_file" {
		t.Errorf("exit %d, %+v, %v", code, v, err)
	}

	f.Region("eu-west", "eu-west", f.Now.Add(-40*configtest.Day), 30*configtest.Day, at)
	expired := f.Now.Add(-10 * configtest.Day).UTC().Format("2006-01-02 15:04 UTC")
	code, _, stderr = rhumb(t, "check", "config", file)
	if want := file + ":2: fleet.cert_file: the certificate in " + f.Path("eu-west.pem") + " expired on " + expired + "; make a new one"; code != exitUsage || !strings.Contains(stderr, "\n"+want) || !strings.HasPrefix(stderr, "warning: ") {
		t.Errorf("exit %d, %q; want %q", code, stderr, want)
	}
	if code, stdout, _ := rhumb(t, "check", "config", file, "--skip-files"); code != exitOK || stdout != file+": ok (agent)\n" {
		t.Errorf("with --skip-files: exit %d, %q", code, stdout)
	}
}
