package reload

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/cmd/internal/config/configtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noon is by which certificates are valid.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// The configurations name every kind of file between them.
const (
	agentFile = `log: {level: info}
admin: {token_file: admin.token, tls: {cert_file: admin.pem, key_file: admin.key}}
gossip: {key_file: gossip.key, advertise: "192.0.2.10:7946"}
fleet: {ca_file: fleet.pem, cert_file: eu-west.pem, key_file: eu-west.key}
agent:
  name: agent-1
  region: eu-west
  location: {lat: 53.35, lon: -6.26}
  endpoints: [{url: "http://192.0.2.10:8080"}]
  models: [{name: llama}]
  discovery: [{type: static, pods: [{name: pod-0, http: "10.0.0.1:8000"}]}]
  listen: [":8080"]
  tls: {cert_file: gateway.pem, key_file: gateway.key}
  linger: 25s
  auth: {mode: keys, keys_file: keys.yaml, pepper_file: pepper}
`
	directorFile = `gossip: {key_file: gossip.key, advertise: "192.0.2.1:7946"}
fleet: {ca_file: fleet.pem, cert_file: ns1.pem, key_file: ns1.key}
zone:
  name: inference.example.com
  serial: 1
  ns: [{name: ns1, addresses: [192.0.2.1]}]
director:
  dns: {listen: ["127.0.0.1:53"]}
  redirect: {listen: [":443"], tls: {cert_file: gateway.pem, key_file: gateway.key}}
`
	mappedFile = directorFile + "  geo: {file: world.mmdb}\n"
	keysOf     = `keys: [{id: NAME, hash: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}]
`
)

// rig is a watcher in virtual time, over files in a folder of the test.
type rig struct {
	*configtest.Files
	t      *testing.T
	text   string // of the configuration
	path   string
	source config.Source
	hangup chan os.Signal
	log    bytes.Buffer
	reg    *prometheus.Registry

	applied []*config.Config
	refuse  error // of Apply
}

// newRig makes the files. It is to be made and used within a bubble.
func newRig(t *testing.T, text string) *rig {
	t.Helper()
	f := configtest.New(t, noon)
	f.Region("eu-west", "eu-west", noon, 365*configtest.Day, configtest.Endpoint(t, "http://192.0.2.10:8080"))
	f.Director("ns1", "ns1")
	for i, name := range []string{"gateway", "admin"} {
		f.Server(name, int64(i), noon, noon.Add(365*configtest.Day))
	}
	f.Write("admin.token", "secret\n")
	f.Write("keys.yaml", strings.Replace(keysOf, "NAME", "one", 1))
	if text == mappedFile {
		f.Write("world.mmdb", string(geography(t)))
	}
	return &rig{
		Files: f, t: t, text: text, path: f.Write("rhumb.yaml", text),
		source: config.Source{Now: func() time.Time { return noon }},
		hangup: make(chan os.Signal), reg: prometheus.NewRegistry(),
	}
}

// watch makes the watcher and runs it until the test ends. What happens between is
// before its first look.
func (r *rig) watch(between ...func()) {
	r.t.Helper()
	cfg, err := config.Load(r.path, r.source)
	if err != nil {
		r.t.Fatal(err)
	}
	w := New(r.path, r.source, cfg)
	w.Hangup, w.Registry = r.hangup, r.reg
	w.Log = slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{}))
	w.Apply = func(c *config.Config) error {
		if r.refuse != nil {
			return r.refuse
		}
		r.applied = append(r.applied, c)
		return nil
	}
	for _, f := range between {
		f()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the watcher ended with %v", err)
		}
	})
	synctest.Wait()
}

// edit changes the configuration's text, from what it was at the start.
func (r *rig) edit(old, renewed string) {
	r.t.Helper()
	if !strings.Contains(r.text, old) {
		r.t.Fatalf("there is no %q to edit", old)
	}
	r.Write("rhumb.yaml", strings.Replace(r.text, old, renewed, 1))
}

// later lets some looks pass.
func (r *rig) later() {
	<-time.After(3 * watchEvery) // in virtual time
	synctest.Wait()
}

// sighup sends a signal and waits until it was acted on.
func (r *rig) sighup() {
	r.hangup <- os.Interrupt // any will do
	synctest.Wait()
}

// took fails unless so many reloads were taken and refused so far.
func (r *rig) took(taken, refused int) {
	r.t.Helper()
	complaints := strings.Count(r.log.String(), "not reloaded")
	if len(r.applied) != taken || complaints != refused {
		r.t.Fatalf("taken %d times, want %d; complained %d times, want %d:\n%s", len(r.applied), taken, complaints, refused, r.log.String())
	}
	if got := r.metric("taken"); got != float64(taken) {
		r.t.Errorf("%v reloads counted as taken, want %d", got, taken)
	}
	if got := r.metric("refused"); got != float64(refused) {
		r.t.Errorf("%v reloads counted as refused, want %d", got, refused)
	}
}

// metric reads the counter of a result, or the gauge for "".
func (r *rig) metric(result string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if result == "" && m.GetGauge() != nil {
				return m.GetGauge().GetValue()
			}
			if len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// last is the end of the log.
func (r *rig) last() string {
	lines := strings.Split(strings.TrimSpace(r.log.String()), "\n")
	return lines[len(lines)-1]
}

var errApply = errors.New("the daemon says no")
