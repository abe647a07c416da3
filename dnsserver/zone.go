package dnsserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// zone is the zone's own data, immutable once built: one pointer is swapped
// on a reload.
type zone struct {
	name     string // absolute, lower case
	nodes    map[string]*node
	soa      dns.SOA
	wildcard bool // some static record is a wildcard
}

// node is a name that exists by the zone's own data. One without record sets
// is an empty non-terminal, or the Answerer's.
type node struct {
	sets map[uint16][]dns.RR
	// closed names hold all that they will ever have: the name servers', and
	// those with a CNAME. The Answerer is not asked for them.
	closed bool
}

// newZone checks a zone's options and builds it. An error names the record or
// name at fault and the remedy.
func newZone(opts Zone) (*zone, error) {
	name, err := zoneName(opts.Name)
	if err != nil {
		return nil, err
	}
	z := &zone{name: name, nodes: map[string]*node{name: {}}}
	if len(opts.NS) == 0 {
		return nil, fmt.Errorf("zone %s: no name server; add one, better two, with their addresses", name)
	}
	mbox, err := z.mailbox(opts.Hostmaster)
	if err != nil {
		return nil, err
	}
	if err := z.addNameServers(opts); err != nil {
		return nil, err
	}
	z.soa = dns.SOA{
		Hdr:     dns.RR_Header{Name: name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: seconds(opts.TTL)},
		Ns:      z.absolute(opts.NS[0].Name),
		Mbox:    mbox,
		Serial:  opts.Serial,
		Refresh: seconds(opts.Refresh),
		Retry:   seconds(opts.Retry),
		Expire:  seconds(opts.Expire),
		Minttl:  seconds(opts.Negative),
	}
	soa := z.soa
	z.add(&soa)
	for _, line := range opts.Static {
		if err := z.addStatic(line, opts); err != nil {
			return nil, fmt.Errorf("zone %s: static record %q: %w", name, line, err)
		}
	}
	return z, z.finish()
}

// zoneName returns the apex in canonical form.
func zoneName(s string) (string, error) {
	name := strings.ToLower(dns.Fqdn(s))
	if s == "" || name == "." {
		return "", errors.New("zone name is empty; set the domain that is delegated to this server")
	}
	if _, ok := dns.IsDomainName(name); !ok || !plain(name) {
		return "", fmt.Errorf("zone name %q is not a domain name of letters, digits, hyphens and underscores", s)
	}
	return name, nil
}

// plain reports whether a name has only letters, digits, hyphens, underscores
// and dots, so that its text and its octets are the same.
func plain(name string) bool {
	return strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}) < 0
}

// absolute returns a configured name in canonical form: relative to the zone
// unless it ends in a dot, "@" is the zone.
func (z *zone) absolute(name string) string {
	switch {
	case name == "@":
		return z.name
	case strings.HasSuffix(name, "."):
		return strings.ToLower(name)
	}
	return strings.ToLower(name) + "." + z.name
}

// contains reports whether a canonical name is the apex or below it.
func (z *zone) contains(name string) bool { return within(z.name, name) }

// within reports whether name is parent or below it, by labels: an escaped dot
// does not end one.
func within(parent, name string) bool {
	if !strings.HasSuffix(name, parent) {
		return false
	}
	at := len(name) - len(parent)
	if at == 0 || parent == "." {
		return true
	}
	if name[at-1] != '.' {
		return false
	}
	escapes := 0
	for i := at - 2; i >= 0 && name[i] == '\\'; i-- {
		escapes++
	}
	return escapes%2 == 0
}

// mailbox turns "user@host" into the name that SOA's RNAME wants: dots before
// the @ are escaped (RFC 1035 section 8).
func (z *zone) mailbox(address string) (string, error) {
	if address == "" {
		return "hostmaster." + z.name, nil
	}
	user, host, ok := strings.Cut(address, "@")
	name := strings.ReplaceAll(user, ".", `\.`) + "." + strings.ToLower(dns.Fqdn(host))
	if _, valid := dns.IsDomainName(name); !ok || user == "" || host == "" || !valid {
		return "", fmt.Errorf("zone %s: hostmaster %q is not a mailbox; write it as user@host", z.name, address)
	}
	return name, nil
}

// addNameServers adds the NS set and, for names inside the zone, their
// addresses.
func (z *zone) addNameServers(opts Zone) error {
	ttl := seconds(opts.TTL)
	for _, server := range opts.NS {
		name := z.absolute(server.Name)
		if _, ok := dns.IsDomainName(name); !ok || !plain(name) || name == z.name {
			return fmt.Errorf("zone %s: name server %q is not a host name below the zone or elsewhere", z.name, server.Name)
		}
		if strings.HasSuffix(name, "."+z.name+z.name) {
			return fmt.Errorf("zone %s: name server %q lacks the final dot", z.name, server.Name)
		}
		ns := &dns.NS{Hdr: dns.RR_Header{Name: z.name, Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: ttl}, Ns: name}
		if !z.addUnique(ns) {
			return fmt.Errorf("zone %s: name server %q is there twice", z.name, server.Name)
		}
		if !z.contains(name) {
			if len(server.Addrs) > 0 {
				return fmt.Errorf("zone %s: name server %q is outside of the zone, so its addresses can't be served here; remove them", z.name, server.Name)
			}
			continue
		}
		if err := z.addGlue(name, server.Addrs, ttl); err != nil {
			return err
		}
	}
	return nil
}

// addGlue adds a name server's own addresses.
func (z *zone) addGlue(name string, addrs []netip.Addr, ttl uint32) error {
	header := dns.RR_Header{Name: name, Class: dns.ClassINET, Ttl: ttl}
	for _, rtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		header.Rrtype = rtype
		for _, rr := range addressRecords(header, addrs) {
			if !z.addUnique(rr) {
				return fmt.Errorf("zone %s: name server %s has an address twice: %s", z.name, name, rr)
			}
		}
	}
	n := z.nodes[name]
	if n == nil || len(n.sets) == 0 {
		return fmt.Errorf("zone %s: name server %s has no address; give it those of this server or of its peer", z.name, name)
	}
	n.closed = true
	return nil
}

// addStatic parses and adds one static record.
func (z *zone) addStatic(line string, opts Zone) error {
	parser := dns.NewZoneParser(strings.NewReader(line+"\n"), z.name, "")
	parser.SetDefaultTTL(seconds(opts.TTL))
	rr, ok := parser.Next()
	if err := parser.Err(); err != nil {
		return fmt.Errorf("not a record in zone-file form: %w", err)
	}
	if !ok {
		return errors.New("no record; write owner, TTL, type and data as in a zone file")
	}
	if _, more := parser.Next(); more || parser.Err() != nil {
		return errors.New("more than one record; write one in each entry")
	}
	header := rr.Header()
	header.Name = strings.ToLower(header.Name)
	if err := z.checkStatic(header, opts); err != nil {
		return err
	}
	if _, err := dns.PackRR(rr, make([]byte, dns.MaxMsgSize), 0, nil, false); err != nil {
		return fmt.Errorf("can't be sent: %w", err)
	}
	if !z.addUnique(rr) {
		return errors.New("is there twice")
	}
	z.wildcard = z.wildcard || strings.HasPrefix(header.Name, "*.")
	return nil
}

// checkStatic refuses what a static record may not be or own.
func (z *zone) checkStatic(header *dns.RR_Header, opts Zone) error {
	name := header.Name
	switch {
	case header.Class != dns.ClassINET:
		return errors.New("class is not IN")
	case !z.contains(name):
		return fmt.Errorf("%s is outside of the zone", name)
	case name != z.name && strings.HasSuffix(name, "."+z.name+z.name):
		return fmt.Errorf("%s has the zone's name twice; end an absolute name with a dot", name)
	}
	switch header.Rrtype {
	case dns.TypeNS, dns.TypeSOA, dns.TypeDNAME, dns.TypeDS, dns.TypeDNSKEY, dns.TypeRRSIG,
		dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeCDS, dns.TypeCDNSKEY, dns.TypeOPT, dns.TypeNone:
		return fmt.Errorf("type %s is the server's own or needs a delegation, which static records can't be", dns.Type(header.Rrtype))
	}
	if header.Rrtype >= dns.TypeTKEY && header.Rrtype <= dns.TypeANY {
		return fmt.Errorf("type %s is for queries only", dns.Type(header.Rrtype))
	}
	if name == z.name {
		switch header.Rrtype {
		case dns.TypeCNAME:
			return errors.New("CNAME can't stand at the zone's apex, beside SOA and NS (RFC 1912 section 2.4)")
		case dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB:
			return fmt.Errorf("type %s of the zone's apex is decided per client", dns.Type(header.Rrtype))
		}
	}
	if n := z.nodes[name]; n != nil && n.closed && n.sets[dns.TypeCNAME] == nil {
		return fmt.Errorf("%s is a name server's name; give its addresses there", name)
	}
	for _, reserved := range opts.Reserved {
		if within(z.absolute(reserved), name) {
			return fmt.Errorf("%s is reserved for names that are decided per client; choose a name that is not %s or below it", name, z.absolute(reserved))
		}
	}
	return nil
}

// add adds a record and the empty non-terminals above it.
func (z *zone) add(rr dns.RR) {
	header := rr.Header()
	n := z.node(header.Name)
	if n.sets == nil {
		n.sets = make(map[uint16][]dns.RR)
	}
	n.sets[header.Rrtype] = append(n.sets[header.Rrtype], rr)
	if header.Rrtype == dns.TypeCNAME {
		n.closed = true
	}
}

// addUnique adds a record unless it is there.
func (z *zone) addUnique(rr dns.RR) bool {
	if n := z.nodes[rr.Header().Name]; n != nil {
		for _, other := range n.sets[rr.Header().Rrtype] {
			if dns.IsDuplicate(rr, other) {
				return false
			}
		}
	}
	z.add(rr)
	return true
}

// node returns the name's node, made with all its ancestors if need be.
func (z *zone) node(name string) *node {
	for at := name; z.nodes[at] == nil; at = parent(at) {
		z.nodes[at] = &node{}
	}
	return z.nodes[name]
}

// parent returns the name without its first label.
func parent(name string) string {
	at, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[at:]
}

// finish checks what only the whole zone shows, and makes TTLs equal within
// each record set (RFC 2181 section 5.2): the lowest counts.
func (z *zone) finish() error {
	for name, n := range z.nodes {
		if cnames := n.sets[dns.TypeCNAME]; len(cnames) > 1 || (len(cnames) == 1 && len(n.sets) > 1) {
			return fmt.Errorf("zone %s: %s has a CNAME beside other records, which RFC 1034 section 3.6.2 forbids; remove one", z.name, name)
		}
		for _, set := range n.sets {
			lowest := slices.MinFunc(set, func(a, b dns.RR) int { return int(int64(a.Header().Ttl) - int64(b.Header().Ttl)) })
			for _, rr := range set {
				rr.Header().Ttl = lowest.Header().Ttl
			}
		}
	}
	return nil
}

// denial returns the SOA record for a negative reply: its TTL is how long the
// denial may be kept (RFC 2308 section 3). Its owner, and the names in it that
// lie in the zone, are written as the query wrote the zone's name, so that
// they compress to pointers into the question.
func (z *zone) denial(qname string) *dns.SOA {
	soa := z.soa
	soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
	if asked := qname[len(qname)-len(z.name):]; asked != z.name {
		soa.Hdr.Name = asked
		soa.Ns = respell(soa.Ns, z.name, asked)
		soa.Mbox = respell(soa.Mbox, z.name, asked)
	}
	return &soa
}

// respell replaces the zone's name at the end of a name in it by its spelling
// in the query.
func respell(name, zone, asked string) string {
	if !within(zone, name) {
		return name
	}
	return name[:len(name)-len(zone)] + asked
}
