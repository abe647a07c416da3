package config

import (
	"cmp"
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
	"github.com/rhumb-lb/rhumb/regions/discovery/kube"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
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
	for i, m := range a.Models {
		affinity, err := regions.ParseAffinity(m.Affinity)
		if err != nil {
			return o, fmt.Errorf("%s.affinity: %w", index("agent.models", i), err)
		}
		route := proxy.Route{NoReplay: m.Replay == "off", NoResume: m.Resume == "off"}
		if m.Profile != "" {
			if route.Profile, err = resume.NewProfile(m.Profile); err != nil {
				return o, fmt.Errorf("%s.profile: %w", index("agent.models", i), err)
			}
		}
		o.Models = append(o.Models, agent.Model{Name: regions.ModelName(m.Name), Host: m.Host, Balance: m.Balance, Affinity: affinity, Route: route})
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
	o.Balance = a.Balance
	if o.Canary.Every, err = a.Probe.every(); err != nil {
		return o, fmt.Errorf("agent.probe.canary: %w", err)
	}
	o.Canary.Text, o.FixedSlots = a.Probe.CanaryText, !a.LearnSlots
	o.Listen, o.TrustedProxies = a.Listen, c.TrustedProxies
	a.Limits.apply(&o)
	o.Linger = a.Linger
	return o, nil
}

// every is how often a canary is made, 0 for never.
func (p Probe) every() (time.Duration, error) {
	if p.Canary == "off" {
		return 0, nil
	}
	every, err := time.ParseDuration(p.Canary)
	if err != nil || every <= 0 {
		return 0, fmt.Errorf("%q is neither off nor a duration with a unit", p.Canary)
	}
	return every, nil
}

// apply puts the limits into an agent's options.
func (l Limits) apply(o *agent.Options) {
	o.Limits.Body = int64(l.Body)
	o.Limits.Dial, o.Limits.FirstByte, o.Limits.Token = l.ConnectTimeout, l.FirstByteTimeout, l.ReadTimeout
	o.Admit.Bound, o.Admit.MaxWait = l.Queue, l.QueueWait
	o.Admit.LongestWait = max(o.Admit.LongestWait, l.QueueWait)
	o.Limits.Total, o.Limits.ClientStall, o.Limits.Idle = l.TotalTimeout, l.WriteTimeout, l.StreamIdleTimeout
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
	var out []discovery.Source
	for i, d := range a.Discovery {
		s, err := d.source(a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", index("agent.discovery", i), err)
		}
		out = append(out, s)
	}
	return out, nil
}

// slots is a function that gives a pod's models with their slots: those it may
// serve, or all, and its own slots, or the models'. names are all models.
func (a *Agent) slots() (of func(only []string, own int) []regions.PodModel, names []string) {
	slots := map[string]int{}
	for _, m := range a.Models {
		slots[m.Name], names = m.Slots, append(names, m.Name)
	}
	return func(only []string, own int) []regions.PodModel {
		if len(only) == 0 {
			only = names
		}
		var out []regions.PodModel
		for _, m := range only {
			out = append(out, regions.PodModel{Name: regions.ModelName(m), Slots: cmp.Or(own, slots[m])})
		}
		return out
	}, names
}

// source makes one source of pods. Nothing is asked before it runs.
func (d Discovery) source(a *Agent) (discovery.Source, error) {
	models, _ := a.slots()
	switch d.Type {
	case "file":
		return discovery.NewFile(discovery.FileOptions{Path: d.File, Decode: a.podRules().Decode})
	case "dns":
		return d.dns(models(d.Models, d.Slots))
	case "kubernetes":
		return d.kubernetes(models(d.Models, d.Slots))
	}
	var pods []regions.Pod
	for i, p := range d.Pods {
		pod := regions.Pod{ID: regions.PodID(p.Name), Models: models(p.Models, p.Slots)}
		for _, x := range []struct {
			key, text string
			into      *netip.AddrPort
		}{{"http", p.HTTP, &pod.HTTP}, {"grpc", p.GRPC, &pod.GRPC}, {"openai", p.OpenAI, &pod.OpenAI}, {"metrics", p.Metrics, &pod.Metrics}} {
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

// dns makes a source of the pods behind a name.
func (d Discovery) dns(models []regions.PodModel) (discovery.Source, error) {
	o := discovery.DefaultDNSOptions(d.Name)
	o.SRV, o.HTTPPort = d.asksSRV(), uint16(d.httpPort())
	o.GRPCPort, o.OpenAIPort, o.MetricsPort = uint16(d.GRPCPort), uint16(d.OpenAIPort), uint16(d.MetricsPort)
	o.Family, o.Models = d.family(), models
	return discovery.NewDNS(o)
}

// kubernetes makes a source of the pods behind a Service.
func (d Discovery) kubernetes(models []regions.PodModel) (discovery.Source, error) {
	o := kube.DefaultOptions(d.Name)
	o.Namespace, o.Family, o.Models = d.Namespace, d.family(), models
	for _, x := range [...]struct {
		into *kube.Port
		name string
		port int
	}{
		{&o.Ports.HTTP, d.PortNames.HTTP, d.HTTPPort}, {&o.Ports.GRPC, d.PortNames.GRPC, d.GRPCPort},
		{&o.Ports.OpenAI, d.PortNames.OpenAI, d.OpenAIPort}, {&o.Ports.Metrics, d.PortNames.Metrics, d.MetricsPort},
	} {
		x.into.Name, x.into.Number = cmp.Or(x.name, x.into.Name), uint16(x.port)
	}
	return kube.New(o)
}

// family is the family in discovery's words.
func (d Discovery) family() string { return strings.Replace(d.Family, "ipv", "ip", 1) }

// asksSRV reports whether a source by DNS asks for SRV records.
func (d Discovery) asksSRV() bool { return d.SRV || discovery.DefaultDNSOptions(d.Name).SRV }

// httpPort is Triton's own unless another is given or found.
func (d Discovery) httpPort() int {
	if d.HTTPPort == 0 && d.Type == "dns" && !d.asksSRV() {
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
