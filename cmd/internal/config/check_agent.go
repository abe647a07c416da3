package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
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
	c.models(a)
	c.discovery(a)
	c.some("agent.listen", len(a.Listen), "list the gateway's addresses, like :8080")
	c.serveAll("agent.listen", a.Listen)
	c.tls("agent.tls", &a.TLS)
	c.oneOf("agent.balance", a.Balance, balance.Names()...)
	c.probe(a.Probe)
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

func (c *checker) models(a *Agent) {
	list := a.Models
	c.some("agent.models", len(list), "list what the region serves: - {name: llama}")
	names, labels := map[string]int{}, map[string]int{}
	for i, m := range list {
		at := index("agent.models", i)
		between(c, at+".slots", m.Slots, 0, maxSlots)
		c.balance(at, &m, a.Balance)
		c.generation(at, &m)
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

// generation checks what is done when a pod is lost.
func (c *checker) generation(at string, m *Model) {
	if m.Profile != "" {
		c.oneOf(at+".profile", m.Profile, resume.Names()...)
	}
	for _, x := range []struct{ key, value string }{{".replay", m.Replay}, {".resume", m.Resume}} {
		if x.value != "" {
			c.oneOf(at+x.key, x.value, "on", "off")
		}
	}
	if m.Resume == "on" && m.Profile == "" {
		c.fail(at+".resume", "has no effect without a profile", "write a profile beside it, one of "+strings.Join(resume.Names(), ", "))
	}
}

// balance checks how pods are chosen for a model of its own. An affinity that
// nothing hashes would look as if it kept sessions together.
func (c *checker) balance(at string, m *Model, all string) {
	name := all
	if m.Balance != "" {
		c.oneOf(at+".balance", m.Balance, balance.Names()...)
		name = m.Balance
	}
	_, err := regions.ParseAffinity(m.Affinity)
	switch {
	case err != nil:
		c.fail(at+".affinity", err.Error(), "write one of them, like header:X-Session")
	case m.Affinity != "" && name != "hash":
		c.fail(at+".affinity", "has no effect without balance: hash", "write balance: hash beside it, or remove it")
	case m.Affinity == "" && name == "hash":
		c.fail(at+".affinity", "is missing, and balance is hash", "write what to hash: header:X-Session, cookie:NAME, key, uri, client or prompt")
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

// A canary costs a slot for a moment. Every 10 s is a thousandth of a busy pod's
// work, and one in an hour finds nobody in time.
const (
	canaryLeast = 10 * time.Second
	canaryMost  = time.Hour
	// maxCanaryText is a few sentences; a longer prompt would be work.
	maxCanaryText = 1024
)

func (c *checker) probe(p Probe) {
	every, err := p.every()
	if err != nil {
		c.fail("agent.probe.canary", err.Error(), "write off, or how often, like 30s")
	} else if every != 0 {
		between(c, "agent.probe.canary", every, canaryLeast, canaryMost)
	}
	if p.CanaryText == "" || len(p.CanaryText) > maxCanaryText {
		c.fail("agent.probe.canary_text", fmt.Sprintf("has %d bytes", len(p.CanaryText)), fmt.Sprintf("write a text of 1 to %d bytes", maxCanaryText))
	}
}

// limits refuses bounds that no request could meet, or that bound nothing.
func (c *checker) limits(l Limits) {
	const kib, mib, gib = Size(1 << 10), Size(1 << 20), Size(1 << 30)
	between(c, "agent.limits.body", l.Body, kib, 16*gib)
	between(c, "agent.limits.header", l.Header, 8*kib, mib)
	between(c, "agent.limits.header_timeout", l.HeaderTimeout, time.Second, time.Minute)
	between(c, "agent.limits.connect_timeout", l.ConnectTimeout, 10*time.Millisecond, time.Minute)
	between(c, "agent.limits.first_byte_timeout", l.FirstByteTimeout, time.Second, 24*time.Hour)
	between(c, "agent.limits.queue", l.Queue, 0, 1<<20)
	between(c, "agent.limits.queue_wait", l.QueueWait, time.Millisecond, time.Hour)
	between(c, "agent.limits.total_timeout", l.TotalTimeout, 0, 24*time.Hour)
	between(c, "agent.limits.read_timeout", l.ReadTimeout, time.Second, 24*time.Hour)
	between(c, "agent.limits.write_timeout", l.WriteTimeout, time.Second, 24*time.Hour)
	between(c, "agent.limits.idle_timeout", l.IdleTimeout, time.Second, time.Hour)
	between(c, "agent.limits.stream_idle_timeout", l.StreamIdleTimeout, time.Second, 24*time.Hour)
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
