package config

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
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

// sourceOf makes the source of an item.
func sourceOf(t *testing.T, item string) discovery.Source {
	t.Helper()
	cfg, err := Parse("rhumb.yaml", []byte(regional+"    - "+item+"\n"), Source{SkipFiles: true})
	if err != nil {
		t.Fatal(err)
	}
	sources, err := cfg.Agent.sources()
	if err != nil || len(sources) != 1 {
		t.Fatalf("%s: %d sources, %v", item, len(sources), err)
	}
	return sources[0]
}

// TestDNSDiscovery runs the source that each item makes, on the one name that
// every machine knows.
func TestDNSDiscovery(t *testing.T) {
	both := []regions.PodModel{{Name: "llama", Slots: 4}, {Name: "mistral"}}
	for item, want := range map[string]regions.Pod{
		`{type: dns, name: localhost}`: {
			ID: "127.0.0.1:8000", HTTP: netip.MustParseAddrPort("127.0.0.1:8000"), Models: both,
		},
		`{type: dns, name: localhost, family: ipv4, http_port: 9000, metrics_port: 9002, grpc_port: 9001, openai_port: 9003, models: [llama], slots: 16}`: {
			ID: "127.0.0.1:9000", HTTP: netip.MustParseAddrPort("127.0.0.1:9000"),
			Metrics: netip.MustParseAddrPort("127.0.0.1:9002"), GRPC: netip.MustParseAddrPort("127.0.0.1:9001"), OpenAI: netip.MustParseAddrPort("127.0.0.1:9003"),
			Models: []regions.PodModel{{Name: "llama", Slots: 16}},
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var got regions.Pod
		err := sourceOf(t, item).Run(ctx, func(pods []regions.Pod) {
			if i := slices.IndexFunc(pods, func(p regions.Pod) bool { return p.HTTP.Addr().Is4() }); i >= 0 {
				got = pods[i]
			}
			cancel()
		})
		cancel()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", item, got, err, want)
		}
	}
}

// TestFileDiscovery: a file's pods have the agent's models and slots where they say
// nothing else.
func TestFileDiscovery(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pods.yaml")
	const pods = `pods: [{name: a, http: "10.0.0.1:8000", openai: "10.0.0.1:9000"}, {name: b, http: "10.0.0.2:8000", models: [llama], slots: 16}]`
	if err := os.WriteFile(path, []byte(pods), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := sourceOf(t, "{type: file, file: "+path+"}").Run(ctx, func(got []regions.Pod) {
		want := []regions.Pod{
			{ID: "a", HTTP: netip.MustParseAddrPort("10.0.0.1:8000"), OpenAI: netip.MustParseAddrPort("10.0.0.1:9000"), Models: []regions.PodModel{{Name: "llama", Slots: 4}, {Name: "mistral", Slots: 0}}},
			{ID: "b", HTTP: netip.MustParseAddrPort("10.0.0.2:8000"), Models: []regions.PodModel{{Name: "llama", Slots: 16}}},
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		cancel()
	})
	if err != nil {
		t.Error(err)
	}
}

// TestFileDiscoveryServing: a file of pods that is broken is an error to who checks
// it, and a daemon starts all the same.
func TestFileDiscoveryServing(t *testing.T) {
	f := surroundings(t)
	text := strings.NewReplacer(`{type: static, pods: [{name: pod-0, http: "10.0.0.1:8000"}]}`, "{type: file, file: pods.yaml}",
		"FLEET", "eu-west", "GATEWAY", "gateway", "KEYS", "good.yaml").Replace(served)
	f.Write("good.yaml", goodKeys)
	path := f.Write("rhumb.yaml", text)
	var warned []string
	for _, serving := range []bool{false, true} {
		cfg, err := Load(path, Source{Now: atNoon, Serving: serving, Warn: func(p Problem) { warned = append(warned, plain(f, p.String())) }})
		if serving != (err == nil) {
			t.Fatalf("serving %t: %v", serving, err)
		}
		if err == nil {
			if _, err = cfg.Agent.sources(); err != nil {
				t.Error(err)
			}
		}
	}
	if all := strings.Join(warned, "\n"); !strings.Contains(all, "pods.yaml:2: pods[0].metrik: no such key") {
		t.Errorf("warnings:\n%s", all)
	}
}

// TestKubernetesDiscovery: outside of a cluster there is a source, which says so.
func TestKubernetesDiscovery(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, item := range []string{
		"{type: kubernetes, name: triton-llama}",
		"{type: kubernetes, name: triton-llama, namespace: inference, family: ipv6, http_port: 8000, port_names: {grpc: rpc, openai: chat, metrics: prom}, models: [llama], slots: 4}",
	} {
		err := sourceOf(t, item).Run(t.Context(), func([]regions.Pod) { t.Error("found pods") })
		if err == nil || !strings.Contains(err.Error(), "this is no pod of Kubernetes") {
			t.Errorf("%s: %v", item, err)
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
