package reload

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/configtest"
)

// geography is a database in MaxMind's format.
func geography(t *testing.T) []byte {
	t.Helper()
	f, err := os.Open("../../../../director/geo/data/country.mmdb.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// younger is the database with another time at which it was made.
func younger(t *testing.T, db []byte) []byte {
	t.Helper()
	const key = "build_epoch"
	at := bytes.LastIndex(db, []byte(key))
	if at < 0 {
		t.Fatal("not a database")
	}
	db = bytes.Clone(db)
	db[at+len(key)+3]++ // behind two bytes of type and size
	return db
}

// TestTaken: what a running daemon can take over is taken over by itself, once.
func TestTaken(t *testing.T) {
	for what, c := range map[string]struct {
		file   string
		change func(r *rig)
		logged string
	}{
		"a setting":       {agentFile, func(r *rig) { r.edit("linger: 25s", "linger: 5s") }, "changed=[agent.linger]"},
		"the log's level": {agentFile, func(r *rig) { r.edit("level: info", "level: debug") }, "changed=[log.level]"},
		"two settings":    {agentFile, func(r *rig) { r.edit("linger: 25s", "linger: 5s\n  limits: {body: 1MiB}") }, `changed="[agent.linger agent.limits.body]"`},
		"auth switched off": {agentFile, func(r *rig) {
			r.edit(", keys_file: keys.yaml, pepper_file: pepper", "")
			r.edit("{mode: keys, keys_file: keys.yaml, pepper_file: pepper}", "{}")
		}, "agent.auth.keys_file"},
		"a record":                  {directorFile, func(r *rig) { r.edit("serial: 1", "serial: 2\n  static: [{name: www, type: A, value: 192.0.2.80}]") }, "zone.serial zone.static"},
		"a comment":                 {directorFile, func(r *rig) { r.edit("zone:", "# ours\nzone:") }, "changed=[]"},
		"API keys":                  {agentFile, func(r *rig) { r.Write("keys.yaml", strings.Replace(keysOf, "NAME", "two", 1)) }, "changed=\"[the content of agent.auth.keys_file]\""},
		"the pepper":                {agentFile, func(r *rig) { r.Write("pepper", configtest.Secret("other")) }, "the content of agent.auth.pepper_file"},
		"the admin token":           {agentFile, func(r *rig) { r.Write("admin.token", "other\n") }, "the content of admin.token_file"},
		"the gateway's certificate": {agentFile, func(r *rig) { r.Server("gateway", 7, noon, noon.Add(300*configtest.Day)) }, "the content of agent.tls.cert_file the content of agent.tls.key_file"},
		"the admin certificate":     {agentFile, func(r *rig) { r.Server("admin", 7, noon, noon.Add(300*configtest.Day)) }, "the content of admin.tls.cert_file"},
		"the redirector's":          {directorFile, func(r *rig) { r.Server("gateway", 7, noon, noon.Add(300*configtest.Day)) }, "the content of director.redirect.tls.cert_file"},
		"the geography":             {mappedFile, func(r *rig) { r.Write("world.mmdb", string(younger(r.t, geography(r.t)))) }, "the content of director.geo.file"},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.file)
				r.watch()
				r.later()
				r.took(0, 0)
				c.change(r)
				r.later()
				r.took(1, 0)
				if !strings.Contains(r.last(), c.logged) {
					t.Errorf("logged %s, want %s", r.last(), c.logged)
				}
				if r.metric("") != 1 {
					t.Error("the gauge says that it was refused")
				}
			})
		})
	}
}

// TestRefused: what is wrong or needs a restart changes nothing, not even what
// could change; it is complained about once for each content, and again if asked.
// As it was before, or mended, it is taken.
func TestRefused(t *testing.T) {
	another := func(r *rig) {
		r.Region("eu-west", "eu-west", noon, 300*configtest.Day, configtest.Endpoint(r.t, "http://192.0.2.10:8080"))
	}
	for what, c := range map[string]struct {
		file         string
		change, mend func(r *rig)
		logged       string
	}{
		"syntax":      {agentFile, func(r *rig) { r.Write("rhumb.yaml", "agent: [") }, nil, "rhumb.yaml:1: not YAML"},
		"no file":     {agentFile, func(r *rig) { r.Remove("rhumb.yaml") }, nil, "read configuration"},
		"unknown key": {agentFile, func(r *rig) { r.edit("linger: 25s", "lingre: 25s") }, nil, "rhumb.yaml:14: agent.lingre: no such key"},
		"a restart": {agentFile, func(r *rig) { r.edit(`listen: [":8080"]`, `listen: [":8081"]`) }, nil,
			"only a restart can change agent.listen; nothing was changed"},
		"both": {agentFile, func(r *rig) { r.edit("name: agent-1", "name: agent-2\n  balance: weighted\n  limits: {body: 1MiB}") }, nil,
			"only a restart can change agent.balance, agent.name; nothing was changed"},
		"other role":  {directorFile, func(r *rig) { r.Write("rhumb.yaml", agentFile) }, nil, "only a restart can change agent, director"},
		"broken keys": {agentFile, func(r *rig) { r.Write("keys.yaml", "keys: 7\n") }, func(r *rig) { r.Write("keys.yaml", strings.Replace(keysOf, "NAME", "new", 1)) }, "keys.yaml:1: keys: is not a list"},
		"no keys":     {agentFile, func(r *rig) { r.Remove("keys.yaml") }, func(r *rig) { r.Write("keys.yaml", "keys: []") }, "rhumb.yaml:15: agent.auth.keys_file: there is no file"},
		"half a pair": {agentFile, func(r *rig) { r.Write("gateway.key", "") }, func(r *rig) { r.Server("gateway", 8, noon, noon.Add(99*configtest.Day)) }, "gateway.key is not the private key"},
		"a geography cut short": {mappedFile, func(r *rig) { r.Write("world.mmdb", string(geography(r.t)[:5000])) }, func(r *rig) { r.Write("world.mmdb", string(geography(r.t))) },
			"rhumb.yaml:10: director.geo.file: load the GeoIP database"},
		"new fleet certificate": {agentFile, another, nil, "only a restart can change the content of fleet.cert_file, the content of fleet.key_file"},
		"new gossip key":        {agentFile, func(r *rig) { r.Write("gossip.key", configtest.Secret("other")) }, func(r *rig) { r.Write("gossip.key", configtest.Secret("gossip.key")) }, "the content of gossip.key_file"},
		"the daemon refuses":    {agentFile, func(r *rig) { r.refuse = errApply; r.edit("linger: 25s", "linger: 5s") }, func(r *rig) { r.refuse = nil; r.edit("linger: 25s", "linger: 6s") }, errApply.Error()},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.file)
				pair := map[string]string{}
				for _, name := range []string{"eu-west.pem", "eu-west.key"} {
					b, err := os.ReadFile(r.Path(name))
					if err != nil {
						t.Fatal(err)
					}
					pair[name] = string(b)
				}
				r.watch()
				c.change(r)
				r.later()
				r.took(0, 1)
				if !strings.Contains(r.last(), strings.ReplaceAll(c.logged, `"`, `\"`)) {
					t.Errorf("logged %s\nwant %s", r.last(), c.logged)
				}
				if r.metric("") != 0 {
					t.Error("the gauge says that all is well")
				}
				r.later()
				r.took(0, 1)
				r.sighup()
				r.took(0, 2)
				if c.mend != nil {
					c.mend(r)
				} else {
					r.Write("rhumb.yaml", c.file)
					for name, text := range pair {
						r.Write(name, text)
					}
				}
				r.later()
				r.took(1, 2)
				if r.metric("") != 1 {
					t.Error("the gauge still says that it was refused")
				}
			})
		})
	}
}

// TestChangesSinceTheLast: what is logged as changed is so since the last reload, not
// since the start.
func TestChangesSinceTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, agentFile)
		r.watch()
		for n, step := range []struct{ linger, changed string }{
			{"linger: 5s", "changed=[agent.linger]"},
			{"linger: 5s\n  limits: {body: 1MiB}", "changed=[agent.limits.body]"},
			{"linger: 25s\n  limits: {body: 1MiB}", "changed=[agent.linger]"},
		} {
			r.edit("linger: 25s", step.linger)
			r.later()
			r.took(n+1, 0)
			if !strings.Contains(r.last(), step.changed) {
				t.Errorf("logged %s, want %s", r.last(), step.changed)
			}
		}
	})
}

// TestHalfWritten: half of a file is not taken over, though it is in order, if the
// rest comes before the next look. Here it is without its keys.
func TestHalfWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, agentFile)
		r.watch()
		half, _, found := strings.Cut(agentFile, "  auth:")
		if !found {
			t.Fatal("the file has no auth at its end")
		}
		r.Write("rhumb.yaml", half)
		<-time.After(watchEvery)
		synctest.Wait()
		r.took(0, 0)
		r.edit("level: info", "level: debug")
		r.later()
		r.took(1, 0)
		if got := r.applied[0].Agent.Auth.Mode; got != "keys" {
			t.Errorf("auth.mode %q was taken over", got)
		}
		r.Write("rhumb.yaml", half) // and stays
		r.later()
		r.took(2, 0)
	})
}

// TestSighup asks for a reload of what did not change.
func TestSighup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, agentFile)
		r.watch()
		for n := range 3 {
			r.sighup()
			r.took(n+1, 0)
		}
		r.later()
		r.took(3, 0)
	})
}

// TestReplaced: a change is seen whichever way files are replaced.
func TestReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, agentFile)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		// As Kubernetes mounts a ConfigMap: keys.yaml → ..data/keys.yaml, ..data → ..1.
		r.Write("..1/keys.yaml", strings.Replace(keysOf, "NAME", "one", 1))
		r.Remove("keys.yaml")
		must(os.Symlink("..1", r.Path("..data")))
		must(os.Symlink("..data/keys.yaml", r.Path("keys.yaml")))
		r.watch()
		r.later()
		r.took(0, 0)

		r.Write("..2/keys.yaml", strings.Replace(keysOf, "NAME", "two", 1))
		must(os.Symlink("..2", r.Path("..data_tmp")))
		must(os.Rename(r.Path("..data_tmp"), r.Path("..data")))
		must(os.RemoveAll(r.Path("..1")))
		r.later()
		r.took(1, 0)

		// As editors write: a new file, renamed over the old one; of the same size and
		// with the same time.
		info, err := os.Stat(r.path)
		must(err)
		renewed := r.Write(".rhumb.yaml.swp", strings.Replace(agentFile, "linger: 25s", "linger: 35s", 1))
		must(os.Chtimes(renewed, info.ModTime(), info.ModTime()))
		must(os.Rename(renewed, r.path))
		r.later()
		r.took(2, 0)
		if got := r.applied[1].Agent.Linger; got != 35*time.Second {
			t.Errorf("linger is %v", got)
		}

		// In place, with the same size and time: on a file system with a coarse clock.
		info, err = os.Stat(r.path)
		must(err)
		r.edit("linger: 25s", "linger: 45s")
		must(os.Chtimes(r.path, info.ModTime(), info.ModTime()))
		r.later()
		r.took(3, 0)
	})
}

// TestChangedBeforeTheFirstLook: what changes while the daemon starts is no
// different from what changes later.
func TestChangedBeforeTheFirstLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, agentFile)
		r.watch(func() { r.edit("linger: 25s", "linger: 5s") })
		r.later()
		r.took(1, 0)
	})
}

// TestNewFile: a file that only the new configuration names is watched from the
// time that it is named, also while it is what is wrong.
func TestNewFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, agentFile)
		r.watch()
		r.edit("keys_file: keys.yaml", "keys_file: more.yaml")
		r.later()
		r.took(0, 1)
		r.Write("more.yaml", "keys: 7\n")
		r.later()
		r.took(0, 2)
		r.Write("more.yaml", strings.Replace(keysOf, "NAME", "more", 1))
		r.later()
		r.took(1, 2)
		r.Write("more.yaml", strings.Replace(keysOf, "NAME", "less", 1))
		r.later()
		r.took(2, 2)
		r.Write("keys.yaml", "which nobody reads any more")
		r.later()
		r.took(2, 2)
	})
}

// TestEnvironmentAndFlagsStay: a reload gives the same precedence as the start.
func TestEnvironmentAndFlagsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, agentFile)
		r.source.Environ = []string{"RHUMB_AGENT_LIMITS_BODY=2MiB", "RHUMB_AGENT_LINGER=3s", "HOME=x"}
		r.source.Set = []string{"agent.linger=7s"}
		r.watch()
		r.edit("linger: 25s", "linger: 5s\n  limits: {read_timeout: 30s}")
		r.later()
		r.took(1, 0)
		if !strings.Contains(r.last(), "changed=[agent.limits.read_timeout]") {
			t.Errorf("logged %s", r.last())
		}
		a := r.applied[0].Agent
		if a.Linger != 7*time.Second || a.Limits.Body != 2<<20 || a.Limits.ReadTimeout != 30*time.Second {
			t.Errorf("linger %v, body %v, read_timeout %v; want 7s of the flag, 2MiB of the environment, 30s of the file", a.Linger, a.Limits.Body, a.Limits.ReadTimeout)
		}
	})
}
