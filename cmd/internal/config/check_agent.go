package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

func (c *checker) agent(a *Agent) {
	if a.Name == "" || len(a.Name) > 63 || strings.ContainsFunc(a.Name, notInName) {
		c.fail("agent.name", fmt.Sprintf("%q is not an agent's name", a.Name), "write at most 63 of a-z, A-Z, 0-9, '.', '_' and '-', unique in the region")
	}
	if err := regions.ID(a.Region).Validate(); err != nil {
		c.fail("agent.region", fmt.Sprintf("%q is not a region's name", a.Region), "write a lower-case DNS label, like eu-west")
	}
	if !c.doc.Has("agent.location") {
		c.fail("agent.location", "is missing", "write where the region is, like {lat: 50.11, lon: 8.68}")
	} else {
		c.location("agent.location", a.Location.Lat, a.Location.Lon)
	}
	c.endpoints(a.Endpoints)
	c.models(a.Models)
	c.discovery(a)
	c.some("agent.listen", len(a.Listen), "list the gateway's addresses, like :8080")
	c.serveAll("agent.listen", a.Listen)
	c.tls("agent.tls", &a.TLS)
	if _, err := pool.ByName(a.Balance); err != nil {
		c.fail("agent.balance", err.Error(), "write one of them")
	}
	between(c, "agent.linger", a.Linger, 0, time.Hour)
	c.limits(a.Limits)
	c.auth(&a.Auth)
}

func notInName(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		return false
	default:
		return true
	}
}

func (c *checker) endpoints(list []Endpoint) {
	c.some("agent.endpoints", len(list), "list the region's public address: - {url: https://eu-west.example.com, addresses: [192.0.2.10]}")
	var urls []string
	for i, e := range list {
		at := index("agent.endpoints", i)
		parsed, err := regions.ParseEndpoint(e.URL, e.Addresses...)
		switch {
		case err != nil || !isHost(parsed.Host):
			c.fail(at+".url", fmt.Sprintf("%q is not a URL of scheme, host and port", e.URL), "write http or https, the host and perhaps a port, like https://eu-west.example.com:8443")
		case len(parsed.Addrs) == 0:
			c.fail(at+".addresses", "is missing", "list the addresses of "+parsed.Host+" for DNS to answer")
		}
		c.addresses(at+".addresses", e.Addresses)
		urls = append(urls, e.URL)
	}
	c.distinct("agent.endpoints", urls)
}

// maxModelName is longer than any name that fits a path segment which people
// type, and short enough that eight models fit a status packet.
const maxModelName = 128

// modelName checks a name as it stands in URLs.
func (c *checker) modelName(path, name string) bool {
	if name == "" || len(name) > maxModelName || strings.ContainsFunc(name, func(r rune) bool { return notInName(r) && r != ':' }) {
		c.fail(path, fmt.Sprintf("%q is not a model's name", name), fmt.Sprintf("write at most %d of a-z, A-Z, 0-9, '.', '_', ':' and '-'", maxModelName))
		return false
	}
	return true
}

// maxSlots is far above what any server batches; more is a slip of the finger.
const maxSlots = 65536

func (c *checker) models(list []Model) {
	c.some("agent.models", len(list), "list what the region serves: - {name: llama}")
	names, labels := map[string]int{}, map[string]int{}
	for i, m := range list {
		at := index("agent.models", i)
		between(c, at+".slots", m.Slots, 0, maxSlots)
		if !c.modelName(at+".name", m.Name) {
			continue
		}
		if first, twice := names[m.Name]; twice {
			c.fail(at+".name", fmt.Sprintf("%q is already the name of %s", m.Name, index("agent.models", first)), "remove one")
			continue
		}
		names[m.Name] = i
		path, label := at+".host", m.Host
		if label == "" {
			path, label = at+".name", regions.ModelName(m.Name).Label()
		}
		if !c.modelLabel(path, label, m) {
			continue
		}
		if first, twice := labels[label]; twice {
			c.fail(path, fmt.Sprintf("the DNS label %q is already that of model %q", label, list[first].Name), "set host: to another label")
			continue
		}
		labels[label] = i
	}
}

// modelLabel checks the label that a model has, given or derived.
func (c *checker) modelLabel(path, label string, m Model) bool {
	if m.Host != "" {
		return c.hostLabel(path, label)
	}
	if use := regions.ReservedLabel(label); use != "" || label == "" || len(m.Name) > 63 {
		why := fmt.Sprintf("makes the DNS label %q, which is reserved for %s", label, use)
		switch {
		case len(m.Name) > 63:
			why = "is too long for a DNS label"
		case label == "":
			why = "has no letter or digit for a DNS label"
		}
		c.fail(path, fmt.Sprintf("%q %s", m.Name, why), "set host: to a label of your own")
		return false
	}
	return true
}

func (c *checker) discovery(a *Agent) {
	c.some("agent.discovery", len(a.Discovery), "say where the pods are: - {type: static, pods: [{name: pod-1, http: 10.0.0.1:8000}]}")
	known := map[string]bool{}
	for _, m := range a.Models {
		known[m.Name] = true
	}
	names := map[string]string{}
	for i, d := range a.Discovery {
		at := index("agent.discovery", i)
		c.oneOf(at+".type", d.Type, "static", "dns")
		if d.Type == "dns" {
			c.dnsSource(at, d, known, names)
			continue
		}
		c.useless(at, "static", "name", "family", "http_port", "metrics_port", "grpc_port", "models", "slots")
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
}

// useless refuses keys of another type of discovery: who writes them expects
// something of them.
func (c *checker) useless(at, typ string, keys ...string) {
	for _, key := range keys {
		if c.doc.Has(strict.Join(at, key)) {
			c.fail(strict.Join(at, key), "has no effect with type "+typ, "remove it")
		}
	}
}

// dnsSource checks a source of pods by name. Nothing is looked up: a name may
// well have no address where the file is checked.
func (c *checker) dnsSource(at string, d Discovery, known map[string]bool, names map[string]string) {
	c.useless(at, "dns", "pods")
	name := strings.ToLower(strings.TrimSuffix(d.Name, "."))
	_, err := netip.ParseAddr(name)
	switch first, twice := names[name]; {
	case err == nil:
		c.fail(at+".name", fmt.Sprintf("%q is an address, not a name", d.Name), "list it as a pod under type static")
	case !isName(name):
		c.fail(at+".name", fmt.Sprintf("%q is not a name to look up", d.Name), "write the name of a headless Service with a dot at its end, like triton-llama.inference.svc.cluster.local.")
	case twice:
		c.fail(at+".name", fmt.Sprintf("%q is already looked up by %s", d.Name, first), "name it once, with all of its models")
	default:
		names[name] = at
	}
	if d.Family != "" {
		c.oneOf(at+".family", d.Family, "ipv4", "ipv6")
	}
	ports := map[int]string{d.httpPort(): "http_port"}
	between(c, at+".http_port", d.HTTPPort, 0, maxPort)
	for _, p := range []struct {
		key  string
		port int
	}{{"metrics_port", d.MetricsPort}, {"grpc_port", d.GRPCPort}} {
		between(c, strict.Join(at, p.key), p.port, 0, maxPort)
		if other, twice := ports[p.port]; twice {
			c.fail(strict.Join(at, p.key), fmt.Sprintf("%d is the %s too", p.port, other), "write the port of each; Triton's are 8000, 8001 for gRPC and 8002 for metrics")
		}
		if p.port != 0 {
			ports[p.port] = p.key
		}
	}
	if d.GRPCPort != 0 {
		c.noGRPC(at + ".grpc_port")
	}
	c.podModels(at, d.Models, known)
	between(c, at+".slots", d.Slots, 0, maxSlots)
}

// noGRPC warns of a setting that waits for the gateway to speak gRPC.
func (c *checker) noGRPC(path string) {
	c.warn(path, "has no effect yet: this version does not proxy gRPC", "leave it, or remove it")
}

// maxPort is the highest port that there is.
const maxPort = 65535

func (c *checker) pod(at string, p Pod, known map[string]bool) {
	if p.Name == "" || len(p.Name) > 253 || strings.ContainsFunc(p.Name, notInName) {
		c.fail(at+".name", fmt.Sprintf("%q is not a pod's name", p.Name), "write at most 253 of a-z, A-Z, 0-9, '.', '_' and '-'")
	}
	c.address(at+".http", p.HTTP)
	if p.Metrics != "" {
		c.address(at+".metrics", p.Metrics)
	}
	if p.GRPC != "" {
		c.address(at+".grpc", p.GRPC)
		c.noGRPC(at + ".grpc")
	}
	c.podModels(at, p.Models, known)
	between(c, at+".slots", p.Slots, 0, maxSlots)
}

// podModels checks which of the agent's models a pod may serve.
func (c *checker) podModels(at string, models []string, known map[string]bool) {
	for i, m := range models {
		if !known[m] {
			c.fail(index(at+".models", i), fmt.Sprintf("there is no model %q", m), "list it under agent.models")
		}
	}
	c.distinct(at+".models", models)
}

// limits refuses bounds that no request could meet, or that bound nothing.
func (c *checker) limits(l Limits) {
	const kib, mib, gib = Size(1 << 10), Size(1 << 20), Size(1 << 30)
	between(c, "agent.limits.body", l.Body, kib, 16*gib)
	between(c, "agent.limits.header", l.Header, 8*kib, mib)
	between(c, "agent.limits.header_timeout", l.HeaderTimeout, time.Second, time.Minute)
	between(c, "agent.limits.read_timeout", l.ReadTimeout, time.Second, 24*time.Hour)
	between(c, "agent.limits.write_timeout", l.WriteTimeout, time.Second, 24*time.Hour)
	between(c, "agent.limits.idle_timeout", l.IdleTimeout, time.Second, time.Hour)
	between(c, "agent.limits.drain_timeout", l.DrainTimeout, 0, 24*time.Hour)
	// Beyond ten million connections a machine is out of ports, files and memory.
	between(c, "agent.limits.connections", l.Connections, 1, 10_000_000)
	between(c, "agent.limits.connections_per_client", l.ConnectionsPerClient, 1, 10_000_000)
	between(c, "agent.limits.connection_age", l.ConnectionAge, 10*time.Second, 24*time.Hour)
	if l.Memory != 0 {
		between(c, "agent.limits.memory", l.Memory, 64*mib, 1024*gib)
	}
}

// auth checks who may use the gateway. A file of keys without the mode would look
// as if it guarded something.
func (c *checker) auth(a *Auth) {
	c.oneOf("agent.auth.mode", a.Mode, "none", "keys")
	if a.Mode == "none" {
		for _, x := range [...]struct{ path, file string }{{"agent.auth.keys_file", a.KeysFile}, {"agent.auth.pepper_file", a.PepperFile}} {
			if x.file != "" {
				c.fail(x.path, "has no effect with agent.auth.mode none", "write mode: keys, or remove this")
			}
		}
		return
	}
	keygen, pepper := optional, optional
	if a.Mode == "keys" {
		keygen, pepper = "rhumb keygen key ID --keys FILE", "rhumb keygen pepper"
	}
	c.file("agent.auth.keys_file", &a.KeysFile, keygen)
	c.file("agent.auth.pepper_file", &a.PepperFile, pepper)
}
