package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/podsfile"
	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
)

// sourceKeys are the keys of a source of pods that have an effect with each type.
var sourceKeys = map[string][]string{
	"static":     {"pods"},
	"file":       {"file"},
	"dns":        {"name", "srv", "family", "http_port", "grpc_port", "openai_port", "metrics_port", "models", "slots"},
	"kubernetes": {"name", "namespace", "family", "http_port", "grpc_port", "openai_port", "metrics_port", "port_names", "models", "slots"},
}

func (c *checker) discovery(a *Agent) {
	c.some("agent.discovery", len(a.Discovery), "say where the pods are: - {type: static, pods: [{name: pod-1, http: 10.0.0.1:8000}]}")
	known := map[string]bool{}
	for _, m := range a.Models {
		known[m.Name] = true
	}
	names := map[string]string{}
	for i := range a.Discovery {
		d, at := &a.Discovery[i], index("agent.discovery", i)
		c.oneOf(at+".type", d.Type, "static", "file", "dns", "kubernetes")
		c.useless(at, d.Type)
		switch d.Type {
		case "file":
			c.podFile(at+".file", d, names)
		case "dns":
			c.dnsName(at, d, names)
			c.found(at, d, known)
		case "kubernetes":
			c.service(at, d, names)
			c.found(at, d, known)
		default:
			c.staticSource(at, d, known, names)
		}
	}
}

// podFile checks that a file that lists pods is there. What it says is looked at
// with the other files' contents.
func (c *checker) podFile(path string, d *Discovery, names map[string]string) {
	if d.File == "" {
		c.fail(path, "is missing", "name a file that lists pods")
		return
	}
	c.file(path, &d.File, optional)
	if first, twice := names["file "+d.File]; twice {
		c.fail(path, fmt.Sprintf("%s is already named by %s", d.File, first), "name it once")
		c.unreadable[path] = true // it was looked at
		return
	}
	names["file "+d.File] = path
}

// useless refuses keys of another type of discovery: who writes them expects
// something of them.
func (c *checker) useless(at, typ string) {
	own, ok := sourceKeys[typ]
	if !ok {
		return
	}
	for _, key := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Values(sourceKeys))...)))) {
		if path := strict.Join(at, key); !slices.Contains(own, key) && c.doc.Has(path) {
			c.fail(path, "has no effect with type "+typ, "remove it")
		}
	}
}

func (c *checker) staticSource(at string, d *Discovery, known map[string]bool, names map[string]string) {
	c.some(at+".pods", len(d.Pods), "list the pods: - {name: pod-1, http: 10.0.0.1:8000}")
	for j, p := range d.Pods {
		path := index(at+".pods", j)
		c.pod(path, p, known)
		if first, twice := names[p.Name]; twice {
			c.fail(path+".name", fmt.Sprintf("%q is already the name of %s", p.Name, first), "name each pod differently")
			continue
		}
		names[p.Name] = path
		if first, twice := names["at "+p.HTTP]; twice && p.HTTP != "" {
			c.fail(path+".http", fmt.Sprintf("%s is already the address of %s", p.HTTP, first), "list each server once, with all of its models")
		}
		names["at "+p.HTTP] = path
	}
}

func (c *checker) pod(at string, p Pod, known map[string]bool) {
	if p.Name == "" || len(p.Name) > 253 || strings.ContainsFunc(p.Name, notInName) {
		c.fail(at+".name", fmt.Sprintf("%q is not a pod's name", p.Name), "write at most 253 of a-z, A-Z, 0-9, '.', '_' and '-'")
	}
	by := map[string]string{}
	for _, x := range [...]struct{ key, address string }{{"http", p.HTTP}, {"grpc", p.GRPC}, {"openai", p.OpenAI}, {"metrics", p.Metrics}} {
		if x.address == "" && x.key != "http" {
			continue
		}
		c.address(strict.Join(at, x.key), x.address)
		if other, twice := by[x.address]; twice {
			c.fail(strict.Join(at, x.key), fmt.Sprintf("%s is the address for %s too", x.address, other), "write the address of each; "+tritonPorts)
		}
		by[x.address] = x.key
	}
	c.podModels(at, p.Models, known)
	between(c, at+".slots", p.Slots, 0, maxSlots)
}

// tritonPorts helps who has mixed them up.
const tritonPorts = "Triton's ports are 8000, 8001 for gRPC, 8002 for metrics and 9000 for OpenAI"

// dnsName checks the name of a source by DNS. Nothing is looked up: a name may
// well have no address where the file is checked.
func (c *checker) dnsName(at string, d *Discovery, names map[string]string) {
	name := strings.ToLower(strings.TrimSuffix(d.Name, "."))
	_, err := netip.ParseAddr(name)
	switch first, twice := names[name]; {
	case err == nil:
		c.fail(at+".name", fmt.Sprintf("%q is an address, not a name", d.Name), "list it as a pod under type static")
	case !isServiceName(name):
		c.fail(at+".name", fmt.Sprintf("%q is not a name to look up", d.Name), "write the name of a headless Service with a dot at its end, like triton-llama.inference.svc.cluster.local.")
	case twice:
		c.fail(at+".name", fmt.Sprintf("%q is already looked up by %s", d.Name, first), "name it once, with all of its models")
	default:
		names[name] = at
	}
	if strings.HasPrefix(d.Name, "_") && c.doc.Has(at+".srv") && !d.SRV {
		c.fail(at+".srv", fmt.Sprintf("%s can only have SRV records", d.Name), "remove it, or write the name without its first two labels")
	}
	if d.asksSRV() && c.doc.Has(at+".http_port") {
		c.fail(at+".http_port", "has no effect with SRV records, which have the port", "remove it")
	}
}

// isServiceName allows the underscores of SRV's names (RFC 2782).
func isServiceName(name string) bool {
	labels := strings.Split(name, ".")
	for i, l := range labels {
		labels[i] = strings.TrimPrefix(l, "_")
	}
	return isName(strings.Join(labels, "."))
}

// service checks which Service a source of type kubernetes is for.
func (c *checker) service(at string, d *Discovery, names map[string]string) {
	name := "service " + d.Namespace + "/" + d.Name
	switch first, twice := names[name]; {
	case !labelShape.MatchString(d.Name):
		c.fail(at+".name", fmt.Sprintf("%q is not a Service's name", d.Name), "write it as in Kubernetes, without the namespace, like triton-llama")
	case twice:
		c.fail(at+".name", fmt.Sprintf("%q is already found by %s", d.Name, first), "name it once, with all of its models")
	default:
		names[name] = at
	}
	if d.Namespace != "" && !labelShape.MatchString(d.Namespace) {
		c.fail(at+".namespace", fmt.Sprintf("%q is not a namespace", d.Namespace), "write it as in Kubernetes, like inference")
	}
	for _, x := range [...]struct {
		key, name string
		port      int
	}{
		{"http", d.PortNames.HTTP, d.HTTPPort}, {"grpc", d.PortNames.GRPC, d.GRPCPort},
		{"openai", d.PortNames.OpenAI, d.OpenAIPort}, {"metrics", d.PortNames.Metrics, d.MetricsPort},
	} {
		path := strict.Join(at+".port_names", x.key)
		switch {
		case x.name != "" && !labelShape.MatchString(x.name):
			c.fail(path, fmt.Sprintf("%q is not a port's name", x.name), "write it as the Service does, like "+x.key)
		case x.name != "" && x.port != 0:
			c.fail(path, "has no effect beside "+x.key+"_port", "keep one of them")
		}
	}
}

// found checks what the pods offer that a source finds by their addresses.
func (c *checker) found(at string, d *Discovery, known map[string]bool) {
	if d.Family != "" {
		c.oneOf(at+".family", d.Family, "ipv4", "ipv6")
	}
	ports := map[int]string{}
	for _, p := range []struct {
		key  string
		port int
		is   int // the port that it then is
	}{{"http_port", d.HTTPPort, d.httpPort()}, {"grpc_port", d.GRPCPort, d.GRPCPort}, {"openai_port", d.OpenAIPort, d.OpenAIPort}, {"metrics_port", d.MetricsPort, d.MetricsPort}} {
		between(c, strict.Join(at, p.key), p.port, 0, maxPort)
		if other, twice := ports[p.is]; twice {
			c.fail(strict.Join(at, p.key), fmt.Sprintf("%d is the %s too", p.is, other), "write the port of each; "+tritonPorts)
		}
		if p.is != 0 {
			ports[p.is] = p.key
		}
	}
	c.podModels(at, d.Models, known)
	between(c, at+".slots", d.Slots, 0, maxSlots)
}

// maxPort is the highest port that there is.
const maxPort = 65535

// podModels checks which of the agent's models a pod may serve.
func (c *checker) podModels(at string, models []string, known map[string]bool) {
	for i, m := range models {
		if !known[m] {
			c.fail(index(at+".models", i), fmt.Sprintf("there is no model %q", m), "list it under agent.models")
		}
	}
	c.distinct(at+".models", models)
}

// podFiles checks what is in the files that list pods. A daemon starts with one that
// is broken, and waits for it to be mended: other regions serve meanwhile, and a
// restart must not be worse than the change that went wrong.
func (c *checker) podFiles(a *Agent) {
	for i, d := range a.Discovery {
		path := index("agent.discovery", i) + ".file"
		if d.Type != "file" || !c.readable(path, d.File) {
			continue
		}
		text, err := os.ReadFile(d.File)
		if err == nil {
			_, err = a.podRules().Decode(d.File, text)
		}
		tell := c.doc.Report
		if c.serving {
			tell = c.tell
		}
		var problems Problems
		switch {
		case errors.As(err, &problems):
			for _, p := range problems {
				tell(p)
			}
		case err != nil:
			tell(c.at(path, err.Error(), "name a file that this user can read"))
		}
	}
}

// podRules are what a file that lists pods must keep to.
func (a *Agent) podRules() podsfile.Rules {
	slots, names := a.slots()
	return podsfile.Rules{Models: names, Slots: slots, Most: maxSlots}
}
