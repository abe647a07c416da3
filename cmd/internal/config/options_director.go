package config

import (
	"fmt"
	"time"

	"github.com/rhumb-lb/rhumb/director/geo"
	"github.com/rhumb-lb/rhumb/director/node"
	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/dnsserver"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
)

// DirectorOptions reads what the configuration names and makes a director's
// options of it, but for logger, registry and version. The configuration must
// have a director section.
func (c *Config) DirectorOptions(now time.Time) (node.Options, error) {
	d, o := c.Director, node.DefaultOptions()
	id, roots, err := c.identity(now)
	if err != nil {
		return o, err
	}
	if id.Cert.Role != fleet.RoleDirector {
		return o, fmt.Errorf("fleet.cert_file: the certificate is of the %s %q, and this is a director; make one with rhumb keygen director NAME", id.Cert.Role, id.Cert.Name)
	}
	if o.Gossip, err = c.gossipOptions(id, roots); err != nil {
		return o, err
	}
	o.Gossip.Name = id.Cert.Name
	if o.Admin, err = c.adminOptions(); err != nil {
		return o, err
	}
	if o.RedirectTLS, err = serverTLS("director.redirect.tls", d.Redirect.TLS); err != nil {
		return o, err
	}
	if o.Geo, err = d.Geo.load(); err != nil {
		return o, err
	}
	c.Zone.apply(&o)
	o.DNS, o.Why, o.StateFile, o.TrustedProxies = d.DNS.Listen, d.DNS.Why, d.StateFile, c.TrustedProxies
	d.Redirect.apply(&o)
	if len(d.Redirect.Addresses) == 0 && len(d.Redirect.Listen) > 0 {
		for _, ns := range c.Zone.NS { // the redirectors run where the name servers do
			o.RouteAddrs = append(o.RouteAddrs, ns.Addresses...)
		}
	}
	return o, nil
}

// apply puts the zone into a director's options.
func (z Zone) apply(o *node.Options) {
	o.Zone.Name, o.Zone.Serial, o.TTL = z.Name, z.Serial, z.TTL
	for _, ns := range z.NS {
		o.Zone.NS = append(o.Zone.NS, dnsserver.NameServer{Name: ns.Name, Addrs: ns.Addresses})
	}
	for _, n := range z.Names {
		o.Hosts = append(o.Hosts, node.Host{Label: n.Name, Model: regions.ModelName(n.Model)})
	}
	for _, r := range z.Static {
		o.Zone.Static = append(o.Zone.Static, r.line())
	}
}

// line is the record in zone-file form.
func (r Record) line() string {
	if r.TTL == 0 {
		return fmt.Sprintf("%s IN %s %s", r.Name, r.Type, r.Value)
	}
	return fmt.Sprintf("%s %d IN %s %s", r.Name, int(r.TTL/time.Second), r.Type, r.Value)
}

// apply puts the redirector's settings into a director's options.
func (r Redirect) apply(o *node.Options) {
	o.Redirect, o.Location = r.Listen, redirect.Location(r.Location)
	o.Scheme, o.Port, o.RouteAddrs = r.Scheme, uint16(r.Port), r.Addresses
}

// load reads the database, or the one that is built in, with the overrides.
func (g Geo) load() (*geo.Map, error) {
	m, err := geo.Default()
	if g.File != "" {
		m, err = geo.Load(g.File)
	}
	if err != nil {
		return nil, fmt.Errorf("director.geo.file: %w", err)
	}
	var all []geo.Override
	for _, o := range g.Overrides {
		x := geo.Override{Prefix: o.CIDR, Country: o.Country}
		if o.Country == "" {
			x.Location = microdegrees(o.Lat, o.Lon)
		}
		all = append(all, x)
	}
	if m, err = m.WithOverrides(all); err != nil {
		return nil, fmt.Errorf("director.geo.overrides: %w", err)
	}
	return m, nil
}
