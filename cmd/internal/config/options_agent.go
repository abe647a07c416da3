package config

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/keysfile"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/agent"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// AgentOptions reads what the configuration names and makes an agent's options
// of it, but for logger, registry and version. The configuration must have an
// agent section.
func (c *Config) AgentOptions(now time.Time) (agent.Options, error) {
	a, o := c.Agent, agent.DefaultOptions()
	id, roots, err := c.identity(now)
	if err != nil {
		return o, err
	}
	if id.Cert.Role != fleet.RoleRegion || id.Cert.Name != a.Region {
		return o, fmt.Errorf("fleet.cert_file: the certificate is of the %s %q, and this is the agent of region %q; make one with rhumb keygen region %s",
			id.Cert.Role, id.Cert.Name, a.Region, a.Region)
	}
	if o.Gossip, err = c.gossipOptions(id, roots); err != nil {
		return o, err
	}
	o.Gossip.Name = a.Region + "/" + a.Name
	o.Region, o.Location = regions.ID(a.Region), microdegrees(a.Location.Lat, a.Location.Lon)
	if o.Endpoints, err = a.endpoints(id.Cert); err != nil {
		return o, err
	}
	for _, m := range a.Models {
		o.Models = append(o.Models, agent.Model{Name: regions.ModelName(m.Name), Host: m.Host})
	}
	if o.Sources, err = a.sources(); err != nil {
		return o, err
	}
	if o.Admin, err = c.adminOptions(); err != nil {
		return o, err
	}
	if o.TLS, err = serverTLS("agent.tls", a.TLS); err != nil {
		return o, err
	}
	if o.Keys, err = a.Auth.keys(); err != nil {
		return o, err
	}
	if o.Selector, err = pool.ByName(a.Balance); err != nil {
		return o, fmt.Errorf("agent.balance: %w", err)
	}
	o.Listen, o.TrustedProxies = a.Listen, c.TrustedProxies
	a.Limits.apply(&o)
	o.Linger = a.Linger
	return o, nil
}

// apply puts the limits into an agent's options.
func (l Limits) apply(o *agent.Options) {
	o.Limits.Body = int64(l.Body)
	o.Limits.PodStall, o.Limits.ClientStall = l.ReadTimeout, l.WriteTimeout
	o.Head = gateway.HeadLimits{Size: int(l.Header), Time: l.HeaderTimeout, Idle: l.IdleTimeout}
	o.Grace = l.DrainTimeout
	o.Connections = guard.Limits{Connections: l.Connections, PerClient: l.ConnectionsPerClient, Age: l.ConnectionAge, Memory: int64(l.Memory)}
	if l.Memory == 0 {
		o.Connections.Memory = guard.MemoryLimit()
	}
}

// microdegrees is a place in the unit of the wire.
func microdegrees(lat, lon float64) regions.Location {
	return regions.Location{Lat: int32(math.Round(lat * 1e6)), Lon: int32(math.Round(lon * 1e6))}
}

// endpoints are the region's, as far as its certificate allows them.
func (a *Agent) endpoints(cert *fleet.Cert) ([]regions.Endpoint, error) {
	var out []regions.Endpoint
	for i, e := range a.Endpoints {
		at := index("agent.endpoints", i)
		parsed, err := regions.ParseEndpoint(e.URL, e.Addresses...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		if err := cert.Grant.AllowsEndpoint(parsed); err != nil {
			return nil, fmt.Errorf("%s: the fleet's certificate of this region does not allow it: %w; make a new one with rhumb keygen region %s --endpoint %s", at, err, a.Region, e.URL)
		}
		out = append(out, parsed)
	}
	return out, nil
}

// sources are where the pods are found.
func (a *Agent) sources() ([]discovery.Source, error) {
	slots := map[string]int{}
	var names []string
	for _, m := range a.Models {
		slots[m.Name], names = m.Slots, append(names, m.Name)
	}
	models := func(only []string, own int) []regions.PodModel {
		if len(only) == 0 {
			only = names
		}
		var out []regions.PodModel
		for _, m := range only {
			n := own
			if n == 0 {
				n = slots[m]
			}
			if n == 0 {
				n = defaultSlots
			}
			out = append(out, regions.PodModel{Name: regions.ModelName(m), Slots: n})
		}
		return out
	}
	var out []discovery.Source
	for i, d := range a.Discovery {
		s, err := d.source(models)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", index("agent.discovery", i), err)
		}
		out = append(out, s)
	}
	return out, nil
}

// defaultSlots is how many sequences a pod is taken to run at once where nobody
// says: what an inference server batches with its defaults on one GPU.
const defaultSlots = 8

// source makes one source of pods.
func (d Discovery) source(models func(only []string, slots int) []regions.PodModel) (discovery.Source, error) {
	if d.Type == "dns" {
		return d.dns(models(d.Models, d.Slots))
	}
	var pods []regions.Pod
	for i, p := range d.Pods {
		pod := regions.Pod{ID: regions.PodID(p.Name), Models: models(p.Models, p.Slots)}
		for _, x := range []struct {
			key, text string
			into      *netip.AddrPort
		}{{"http", p.HTTP, &pod.HTTP}, {"metrics", p.Metrics, &pod.Metrics}, {"grpc", p.GRPC, &pod.GRPC}} {
			if x.text == "" {
				continue
			}
			at, err := netip.ParseAddrPort(x.text)
			if err != nil {
				return nil, fmt.Errorf("%s.%s: %q is not IP:port; names are for discovery of type dns", index("pods", i), x.key, x.text)
			}
			*x.into = at
		}
		pods = append(pods, pod)
	}
	return discovery.NewStatic(pods)
}

// dns makes a source of the pods behind a name. No resolver is asked before it
// runs.
func (d Discovery) dns(models []regions.PodModel) (discovery.Source, error) {
	o := discovery.DefaultDNSOptions(d.Name)
	o.HTTPPort, o.MetricsPort, o.GRPCPort = uint16(d.httpPort()), uint16(d.MetricsPort), uint16(d.GRPCPort)
	o.Family, o.Models = strings.Replace(d.Family, "ipv", "ip", 1), models
	return discovery.NewDNS(o)
}

// httpPort is Triton's own unless another is given.
func (d Discovery) httpPort() int {
	if d.HTTPPort == 0 {
		return int(discovery.DefaultDNSOptions("").HTTPPort)
	}
	return d.HTTPPort
}

// keys are who may use the gateway, nil if everybody may.
func (a Auth) keys() (*keyring.Ring, error) {
	if a.Mode != "keys" {
		return nil, nil //nolint:nilnil // no keys is a choice
	}
	pepper, err := ReadPepper(a.PepperFile)
	if err != nil {
		return nil, fmt.Errorf("agent.auth.pepper_file: %w", err)
	}
	keys, err := keysfile.Load(a.KeysFile)
	if err != nil {
		return nil, fmt.Errorf("agent.auth.keys_file: %w", err)
	}
	ring, err := keyring.New(pepper, keys)
	if err != nil {
		return nil, fmt.Errorf("agent.auth.keys_file: %s: %w", a.KeysFile, err)
	}
	return ring, nil
}
