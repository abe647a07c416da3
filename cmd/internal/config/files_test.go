package config

import (
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/configtest"
)

// served is an agent whose certificates are named by the test.
const served = `gossip: {key_file: gossip.key, advertise: "192.0.2.10:7946"}
fleet: {ca_file: fleet.pem, cert_file: FLEET.pem, key_file: FLEET.key}
agent:
  name: agent-1
  region: eu-west
  location: {lat: 53.35, lon: -6.26}
  endpoints: [{url: "http://192.0.2.10:8080"}]
  models: [{name: llama}]
  discovery: [{type: static, pods: [{name: pod-0, http: "10.0.0.1:8000"}]}]
  listen: [":8080"]
  tls: {cert_file: GATEWAY.pem, key_file: GATEWAY.key}
  auth: {mode: keys, keys_file: KEYS, pepper_file: pepper}
`

// TestWarnings: what will be wrong soon is told and is no error. A daemon goes on
// with a server's certificate that is over, but not with one of the fleet.
func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		what, fleet, gateway, keys string
		serving                    bool
		warns, fails               string // parts; empty: none
	}{
		{what: "all is well", fleet: "eu-west", gateway: "gateway", keys: "good.yaml"},
		{what: "fleet soon", fleet: "soon", gateway: "gateway", keys: "good.yaml",
			warns: "rhumb.yaml:2: fleet.cert_file: the certificate in soon.pem expires on 2026-06-14 12:00 UTC; make a new one with the fleet's key: rhumb keygen region eu-west"},
		{what: "gateway soon", fleet: "eu-west", gateway: "gateway-soon", keys: "good.yaml",
			warns: "rhumb.yaml:11: agent.tls.cert_file: the certificate in gateway-soon.pem expires on 2026-06-02 12:00 UTC; put a new"},
		{what: "no keys", fleet: "eu-west", gateway: "gateway", keys: "none.yaml",
			warns: "rhumb.yaml:12: agent.auth.keys_file: none.yaml has no key, so that nobody can use the gateway; add one with rhumb keygen key"},
		{what: "gateway expired, when checked", fleet: "eu-west", gateway: "gateway-expired", keys: "good.yaml",
			fails: "agent.tls.cert_file: the certificate in gateway-expired.pem expired on 2026-06-01 11:59 UTC"},
		{what: "gateway expired, when served", fleet: "eu-west", gateway: "gateway-expired", keys: "good.yaml", serving: true,
			warns: "agent.tls.cert_file: the certificate in gateway-expired.pem expired on 2026-06-01 11:59 UTC"},
		{what: "fleet expired, when served", fleet: "expired", gateway: "gateway", keys: "good.yaml", serving: true,
			fails: "fleet.cert_file: the certificate in expired.pem expired"},
		{what: "fleet not yet valid", fleet: "future", gateway: "gateway", keys: "good.yaml",
			fails: "fleet.cert_file: the certificate in future.pem is not valid before 2026-07-01 11:00 UTC"},
		{what: "another region's", fleet: "us-east", gateway: "gateway", keys: "good.yaml",
			fails: `us-east.pem is the certificate of the region "us-east", but this file is for the agent of region "eu-west"`},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := surroundings(t)
			f.Write("good.yaml", goodKeys)
			f.Write("none.yaml", "keys: []\n")
			path := f.Write("rhumb.yaml", strings.NewReplacer("FLEET", c.fleet, "GATEWAY", c.gateway, "KEYS", c.keys).Replace(served))
			var warned []string
			_, err := Load(path, Source{Now: atNoon, Serving: c.serving, Warn: func(p Problem) { warned = append(warned, plain(f, p.String())) }})
			all := strings.Join(warned, "\n")
			if (c.warns == "") != (len(warned) == 0) || len(warned) > 1 || !strings.Contains(all, c.warns) {
				t.Errorf("warnings:\n%s\nwant one with %q", all, c.warns)
			}
			if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(plain(f, err.Error()), c.fails) {
				t.Errorf("error %v, want %q", err, c.fails)
			}
		})
	}
}

// TestTwoFleetCertificates: while a fleet's key is being replaced, one certificate of
// the two that is valid is enough.
func TestTwoFleetCertificates(t *testing.T) {
	f := surroundings(t)
	old := configtest.New(t, noon.Add(-2500*configtest.Day))
	both := read(t, old.Path("fleet.pem")) + read(t, f.Path("fleet.pem"))
	f.Write("fleet.pem", both)
	f.Write("good.yaml", goodKeys)
	path := f.Write("rhumb.yaml", strings.NewReplacer("FLEET", "eu-west", "GATEWAY", "gateway", "KEYS", "good.yaml").Replace(served))
	if _, err := Load(path, Source{Now: atNoon}); err != nil {
		t.Error(err)
	}
	f.Write("fleet.pem", read(t, old.Path("fleet.pem")))
	if _, err := Load(path, Source{Now: atNoon}); err == nil || !strings.Contains(err.Error(), "fleet.pem expired on") {
		t.Errorf("a fleet that is over: %v", err)
	}
}

// TestBothDaemons: a file for both may name the certificate of either.
func TestBothDaemons(t *testing.T) {
	f := surroundings(t)
	f.Write("good.yaml", goodKeys)
	const director = `zone: {name: inference.example.com, serial: 1, ns: [{name: ns1, addresses: [192.0.2.1]}]}
director: {dns: {listen: ["127.0.0.1:53"]}}
`
	for _, name := range []string{"eu-west", "ns1"} {
		path := f.Write("rhumb.yaml", strings.NewReplacer("FLEET", name, "GATEWAY", "gateway", "KEYS", "good.yaml").Replace(served+director))
		if _, err := Load(path, Source{Now: atNoon}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOneFileForKeyAndCertificate: a server's may be in one file, in any order.
func TestOneFileForKeyAndCertificate(t *testing.T) {
	f := surroundings(t)
	f.Write("good.yaml", goodKeys)
	f.Write("both.pem", read(t, f.Path("gateway.key"))+read(t, f.Path("gateway.pem")))
	text := strings.NewReplacer("FLEET", "eu-west", "GATEWAY.pem", "both.pem", "GATEWAY.key", "both.pem", "KEYS", "good.yaml").Replace(served)
	cfg, err := Load(f.Write("rhumb.yaml", text), Source{Now: atNoon})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := cfg.AgentOptions(noon); err != nil || o.TLS == nil {
		t.Errorf("options: %v", err)
	}
}
