package config

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
)

// regional is a file of an agent that ends where its sources of pods are listed.
const regional = `gossip: {bind: "127.0.0.1:7946", key_file: g}
fleet: {ca_file: a, cert_file: b, key_file: c}
agent:
  name: a-1
  region: eu-west
  location: {lat: 53.35, lon: -6.26}
  endpoints: [{url: "http://192.0.2.10:8080"}]
  models: [{name: llama, slots: 4}, {name: mistral}]
  listen: [":8080"]
  discovery:
`

// TestDNSDiscovery runs the source that each item makes, on the one name that
// every machine knows.
func TestDNSDiscovery(t *testing.T) {
	both := []regions.PodModel{{Name: "llama", Slots: 4}, {Name: "mistral"}}
	for item, want := range map[string]regions.Pod{
		`{type: dns, name: localhost}`: {
			ID: "127.0.0.1:8000", HTTP: netip.MustParseAddrPort("127.0.0.1:8000"), Models: both,
		},
		`{type: dns, name: localhost, family: ipv4, http_port: 9000, metrics_port: 9002, grpc_port: 9001, models: [llama], slots: 16}`: {
			ID: "127.0.0.1:9000", HTTP: netip.MustParseAddrPort("127.0.0.1:9000"),
			Metrics: netip.MustParseAddrPort("127.0.0.1:9002"), GRPC: netip.MustParseAddrPort("127.0.0.1:9001"),
			Models: []regions.PodModel{{Name: "llama", Slots: 16}},
		},
	} {
		cfg, err := Parse("rhumb.yaml", []byte(regional+"    - "+item+"\n"), Source{SkipFiles: true})
		if err != nil {
			t.Fatal(err)
		}
		sources, err := cfg.Agent.sources()
		if err != nil || len(sources) != 1 {
			t.Fatalf("%s: %d sources, %v", item, len(sources), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var got regions.Pod
		err = sources[0].Run(ctx, func(pods []regions.Pod) {
			if i := slices.IndexFunc(pods, func(p regions.Pod) bool { return p.HTTP.Addr().Is4() }); i >= 0 {
				got = pods[i]
			}
			cancel()
		})
		cancel()
		if err != nil || got.ID != want.ID || got.HTTP != want.HTTP || got.Metrics != want.Metrics || got.GRPC != want.GRPC || !slices.Equal(got.Models, want.Models) {
			t.Errorf("%s: got %+v, %v, want %+v", item, got, err, want)
		}
	}
}

// TestDNSDiscoveryLooksNothingUp: a file is right or wrong whatever a resolver
// says, so that it can be checked where the name is not known.
func TestDNSDiscoveryLooksNothingUp(t *testing.T) {
	file := regional + "    - {type: dns, name: no-such-service.inference.invalid.}\n"
	if _, err := Parse("rhumb.yaml", []byte(file), Source{SkipFiles: true}); err != nil {
		t.Error(err)
	}
	if _, err := Parse("rhumb.yaml", []byte(strings.Replace(file, "dns", "dsn", 1)), Source{SkipFiles: true}); err == nil {
		t.Error("a type that there is not is accepted")
	}
}
