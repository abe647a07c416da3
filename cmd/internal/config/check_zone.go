package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Bounds of the TTL of routed answers. Below 5 s resolvers ask more than they
// answer, and many round up; above 60 s a failover waits for caches.
const (
	minTTL = 5 * time.Second
	maxTTL = 60 * time.Second
	// maxStaticTTL is a day: longer hides a mistake longer than it saves queries.
	maxStaticTTL = 24 * time.Hour
)

// hostLabel checks a label under the zone that a user chose.
func (c *checker) hostLabel(path, label string) bool {
	if !labelShape.MatchString(label) {
		c.fail(path, fmt.Sprintf("%q is not a lower-case DNS label", label), "use at most 63 of a-z, 0-9 and inner hyphens")
		return false
	}
	if use := regions.ReservedLabel(label); use != "" {
		c.fail(path, fmt.Sprintf("%q is reserved for %s", label, use), "choose another name")
		return false
	}
	return true
}

// zone checks the zone. An agent's file needs none.
func (c *checker) zone(z *Zone) {
	if c.cfg.Director == nil && !c.doc.Has("zone") {
		return
	}
	z.Name = strings.ToLower(strings.TrimSuffix(z.Name, "."))
	switch {
	case z.Name == "":
		c.fail("zone.name", "is missing", "write the domain that is delegated to the directors, like inference.example.com")
	case !isName(z.Name):
		c.fail("zone.name", fmt.Sprintf("%q is not a domain name", z.Name), "write it like inference.example.com")
	}
	between(c, "zone.ttl", z.TTL, minTTL, maxTTL)
	if c.cfg.Director == nil {
		return
	}
	if z.Serial == 0 {
		c.fail("zone.serial", "is missing", "start with 1 and raise it with every change of the zone, on all directors alike")
	}
	c.nameServers(z)
	names := c.serviceNames(z)
	c.static(z, names)
}

func (c *checker) nameServers(z *Zone) {
	c.some("zone.ns", len(z.NS), "list the zone's name servers: - {name: ns1, addresses: [192.0.2.1]}")
	seen := map[string]int{}
	for i, ns := range z.NS {
		at := index("zone.ns", i)
		if !regions.NameServerLabel(ns.Name) {
			c.fail(at+".name", fmt.Sprintf("%q is not a name server's name", ns.Name), "number them ns1, ns2, …")
		} else if first, twice := seen[ns.Name]; twice {
			c.fail(at+".name", fmt.Sprintf("%q is already the name of %s", ns.Name, index("zone.ns", first)), "number them ns1, ns2, …")
		}
		seen[ns.Name] = i
		c.some(at+".addresses", len(ns.Addresses), "list the addresses at which this director answers")
		c.addresses(at+".addresses", ns.Addresses)
	}
}

// serviceNames checks the routed hosts and returns the path of each label.
func (c *checker) serviceNames(z *Zone) map[string]string {
	paths := map[string]string{}
	for i, n := range z.Names {
		at := index("zone.names", i)
		if !c.hostLabel(at+".name", n.Name) {
			continue
		}
		if first, twice := paths[n.Name]; twice {
			c.fail(at+".name", fmt.Sprintf("%q is already the name of %s", n.Name, first), "keep one")
			continue
		}
		paths[n.Name] = at
		if n.Model != "" {
			c.modelName(at+".model", n.Model)
		}
	}
	return paths
}

// staticTypes are the types that a static record may have; the others are the
// zone's own business.
var staticTypes = []string{"A", "AAAA", "CAA", "CNAME", "MX", "SRV", "TXT"}

// static checks the static records; names are the routed hosts.
func (c *checker) static(z *Zone, names map[string]string) {
	first := map[string]int{} // by name
	seen := map[Record]int{}
	for i, r := range z.Static {
		at := index("zone.static", i)
		c.oneOf(at+".type", r.Type, staticTypes...)
		c.recordValue(at+".value", r)
		c.recordName(at+".name", r, names)
		if r.TTL != 0 || c.doc.Has(at+".ttl") {
			between(c, at+".ttl", r.TTL, minTTL, maxStaticTTL)
		}
		key := Record{Name: r.Name, Type: r.Type, Value: r.Value}
		if j, twice := seen[key]; twice {
			c.fail(at, "is the same record as "+index("zone.static", j), "remove one")
			continue
		}
		seen[key] = i
		other, shared := first[r.Name]
		if !shared {
			first[r.Name] = i
			continue
		}
		// RFC 1034 section 3.6.2: a name with a CNAME has nothing else.
		if was := z.Static[other].Type; r.Type == "CNAME" || was == "CNAME" {
			c.fail(at+".name", fmt.Sprintf("%q has a %s here and a %s as %s, but a name with a CNAME can have no other record", r.Name, r.Type, was, index("zone.static", other)),
				"remove the CNAME or the other record")
		}
	}
}

// recordLabel is a label of a record's name; underscores are for names such as
// _acme-challenge.
var recordLabel = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

func (c *checker) recordName(path string, r Record, names map[string]string) {
	labels := strings.Split(r.Name, ".")
	top := labels[len(labels)-1]
	routed := r.Type == "A" || r.Type == "AAAA" || r.Type == "CNAME"
	switch taken, isTaken := names[r.Name]; {
	case r.Name == "@":
		if routed {
			c.fail(path, "the zone itself is routed and has no static "+r.Type, "choose a name below the zone")
		}
		return
	case regions.ReservedLabel(top) != "":
		c.fail(path, fmt.Sprintf("%q is reserved for %s", top, regions.ReservedLabel(top)), "choose another name")
		return
	case isTaken && routed:
		c.fail(path, fmt.Sprintf("%q is routed by %s", r.Name, taken), "choose another name or remove that")
		return
	}
	for _, label := range labels {
		if !recordLabel.MatchString(label) {
			c.fail(path, fmt.Sprintf("%q is not a name below the zone", r.Name), "write lower-case labels with dots between them, or \"@\" for the zone itself")
			return
		}
	}
}

func (c *checker) recordValue(path string, r Record) {
	ip, err := netip.ParseAddr(r.Value)
	switch {
	case r.Value == "":
		c.fail(path, "is missing", "write the record's value as in a zone file")
	case strings.ContainsAny(r.Value, "\r\n\x00"):
		c.fail(path, "has a line break or a zero byte", "write it on one line")
	case r.Type == "A" && (err != nil || !ip.Is4()):
		c.fail(path, fmt.Sprintf("%q is not an IPv4 address", r.Value), "write one like 192.0.2.1")
	case r.Type == "AAAA" && (err != nil || !ip.Is6() || ip.Is4In6() || ip.Zone() != ""):
		c.fail(path, fmt.Sprintf("%q is not an IPv6 address", r.Value), "write one like 2001:db8::1")
	}
}
