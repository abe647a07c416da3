// Package podsfile reads the file that lists a region's pods, for discovery of type
// file. It is as strict as the configuration.
package podsfile

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
	"github.com/rhumb-lb/rhumb/regions"
)

// file is what the file holds.
type file struct {
	Pods []entry `mapstructure:"pods"`
}

// entry is one pod. Addresses are IP:port; one that is empty is not offered.
type entry struct {
	Name    string `mapstructure:"name"`
	HTTP    string `mapstructure:"http"`
	GRPC    string `mapstructure:"grpc"`
	OpenAI  string `mapstructure:"openai"`
	Metrics string `mapstructure:"metrics"`
	// Models are empty for every model of the agent, and Slots 0 for the model's.
	Models []string `mapstructure:"models"`
	Slots  int      `mapstructure:"slots"`
	// Terminating pods finish what they have.
	Terminating bool `mapstructure:"terminating"`
}

// Rules are what the agent's configuration says of pods.
type Rules struct {
	// Models are those that a pod may name.
	Models []string
	// Slots are those of a pod for models, of none for all, with slots of its own or 0.
	Slots func(models []string, own int) []regions.PodModel
	// Most is how many slots a pod may have.
	Most int
}

// Decode reads a file's text: YAML, of which JSON is a part. The error is
// [strict.Problems].
func (r Rules) Decode(path string, text []byte) ([]regions.Pod, error) {
	var f file
	doc := strict.Read(path, text, &f)
	if !doc.Has("pods") && !doc.Tainted("pods") {
		doc.Fail(1, "pods", "is missing", `list the pods: - {name: pod-1, http: 10.0.0.1:8000}, or write "pods: []" if there are none`)
	}
	out := make([]regions.Pod, 0, len(f.Pods))
	names, addresses := map[string]int{}, map[netip.AddrPort]int{}
	for i, e := range f.Pods {
		c := &checked{doc: doc, at: fmt.Sprintf("pods[%d]", i)}
		p := c.pod(e, r)
		if first, twice := names[e.Name]; twice {
			c.fail("name", fmt.Sprintf("%q is already the name of pods[%d]", e.Name, first), "name each pod differently")
		}
		if first, twice := addresses[p.HTTP]; twice && p.HTTP.IsValid() {
			c.fail("http", fmt.Sprintf("%s is already the address of pods[%d]", p.HTTP, first), "list each server once, with all of its models")
		}
		names[e.Name], addresses[p.HTTP] = i, i
		out = append(out, p)
	}
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// checked is one entry while it is read.
type checked struct {
	doc *strict.Document
	at  string
}

func (c *checked) fail(key, what, remedy string) {
	if path := strict.Join(c.at, key); !c.doc.Tainted(path) { // else it was reported
		c.doc.Fail(c.doc.Line(path), path, what, remedy)
	}
}

func (c *checked) pod(e entry, r Rules) regions.Pod {
	if !isName(e.Name) {
		c.fail("name", fmt.Sprintf("%q is not a pod's name", e.Name), "write at most 253 of a-z, A-Z, 0-9, '.', '_', '/' and '-'")
	}
	p := regions.Pod{ID: regions.PodID(e.Name), Terminating: e.Terminating}
	by := map[netip.AddrPort]string{}
	for _, x := range [...]struct {
		key, text string
		into      *netip.AddrPort
	}{{"http", e.HTTP, &p.HTTP}, {"grpc", e.GRPC, &p.GRPC}, {"openai", e.OpenAI, &p.OpenAI}, {"metrics", e.Metrics, &p.Metrics}} {
		if x.text == "" && x.key != "http" {
			continue
		}
		at, err := netip.ParseAddrPort(x.text)
		switch other, twice := by[at]; {
		case err != nil || at.Port() == 0 || at.Addr().IsUnspecified():
			c.fail(x.key, fmt.Sprintf("%q is not the IP and port of a pod", x.text), "write it like 10.0.0.1:8000 or [fd00::1]:8000; names are for discovery of type dns")
		case twice:
			c.fail(x.key, fmt.Sprintf("%s is the address for %s too", at, other), "write the address of each; Triton's ports are 8000, 8001 for gRPC, 8002 for metrics and 9000 for OpenAI")
		default:
			*x.into, by[at] = at, x.key
		}
	}
	known, seen := map[string]bool{}, map[string]bool{}
	for _, m := range r.Models {
		known[m] = true
	}
	for i, m := range e.Models {
		switch key := fmt.Sprintf("models[%d]", i); {
		case !known[m]:
			c.fail(key, fmt.Sprintf("there is no model %q", m), "list it under agent.models of the configuration")
		case seen[m]:
			c.fail(key, fmt.Sprintf("%q is listed twice", m), "remove one")
		}
		seen[m] = true
	}
	if e.Slots < 0 || e.Slots > r.Most {
		c.fail("slots", fmt.Sprintf("%d is out of range", e.Slots), fmt.Sprintf("write a value from 0 to %d", r.Most))
	}
	p.Models = r.Slots(e.Models, e.Slots)
	return p
}

// isName allows the slash of a namespace beside what other pods' names have.
func isName(name string) bool {
	return name != "" && len(name) <= 253 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-/", r)
	})
}
