package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// maxAliases bounds a chain of aliases; resolvers themselves follow no more.
const maxAliases = 16

// read takes what a reply says of its question. exists is whether there is such a
// name. The error is of a reply that says nothing: the server failed, refused, or
// left the answer to others.
func read(reply *dns.Msg, t Type) (a Answer, exists bool, err error) {
	if reply.Rcode != dns.RcodeSuccess && reply.Rcode != dns.RcodeNameError {
		return a, false, fmt.Errorf("it answered %s", dns.RcodeToString[reply.Rcode])
	}
	name, ttl, aliases, err := follow(reply)
	if err != nil {
		return a, false, err
	}
	found := false
	for _, rr := range reply.Answer {
		if h := rr.Header(); same(h.Name, name) && h.Rrtype == uint16(t) && h.Class == dns.ClassINET {
			found, ttl = true, min(ttl, lifetime(h.Ttl))
			a.take(rr)
		}
	}
	a.TTL = ttl
	if found {
		a.addresses(reply.Extra)
		return a, true, nil
	}
	negative, ok := negativeTTL(reply.Ns)
	if !ok && !reply.RecursionAvailable && (aliases > 0 || !reply.Authoritative) {
		return a, false, errors.New("it sends to other servers, which only a recursive one asks")
	}
	a.TTL = min(ttl, negative)
	// Of an alias to nowhere the code is "no such name", but it is there (RFC 6604).
	return a, reply.Rcode == dns.RcodeSuccess || aliases > 0, nil
}

// forever is longer than any record holds (RFC 2181, section 8: 31 bits of seconds).
const forever = time.Duration(1<<31) * time.Second

// lifetime is a TTL; with the highest bit set it is none (RFC 2181, section 8).
func lifetime(seconds uint32) time.Duration {
	if seconds > 1<<31-1 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// follow follows the aliases within an answer, to the name that has the records.
func follow(reply *dns.Msg) (name string, ttl time.Duration, aliases int, err error) {
	name, ttl = reply.Question[0].Name, forever
	for {
		var alias *dns.CNAME
		for _, rr := range reply.Answer {
			if c, ok := rr.(*dns.CNAME); ok && same(c.Hdr.Name, name) {
				alias = c
				break
			}
		}
		if alias == nil {
			return name, ttl, aliases, nil
		}
		if aliases++; aliases > maxAliases {
			return name, ttl, aliases, errors.New("its aliases do not end")
		}
		name, ttl = alias.Target, min(ttl, lifetime(alias.Hdr.Ttl))
	}
}

// take adds a record of the type that was asked for. A target "." says that there
// is no such service.
func (a *Answer) take(rr dns.RR) {
	switch x := rr.(type) {
	case *dns.A:
		if addr, ok := netip.AddrFromSlice(x.A); ok {
			a.Addrs = append(a.Addrs, addr.Unmap())
		}
	case *dns.AAAA:
		if addr, ok := netip.AddrFromSlice(x.AAAA); ok {
			a.Addrs = append(a.Addrs, addr.Unmap())
		}
	case *dns.SRV:
		if x.Target != "." {
			a.Targets = append(a.Targets, Target{Name: x.Target, Port: x.Port, Priority: x.Priority, Weight: x.Weight})
		}
	}
}

// addresses gives targets the addresses that came along. They hold no longer than
// the answer that they make part of.
func (a *Answer) addresses(extra []dns.RR) {
	if len(a.Targets) == 0 {
		return
	}
	of := map[string][]netip.Addr{}
	for _, rr := range extra {
		one := Answer{}
		if one.take(rr); len(one.Addrs) > 0 {
			name := dns.CanonicalName(rr.Header().Name)
			of[name] = append(of[name], one.Addrs...)
			a.TTL = min(a.TTL, lifetime(rr.Header().Ttl))
		}
	}
	for i := range a.Targets {
		a.Targets[i].Addrs = of[dns.CanonicalName(a.Targets[i].Name)]
	}
}

// negativeTTL is how long "there is none" holds: by the SOA record that comes with
// it, the lesser of its TTL and its last field (RFC 2308, section 5); without one,
// not at all.
func negativeTTL(ns []dns.RR) (time.Duration, bool) {
	for _, rr := range ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(lifetime(soa.Hdr.Ttl), lifetime(soa.Minttl)), true
		}
	}
	return 0, false
}

func same(a, b string) bool { return dns.CanonicalName(a) == dns.CanonicalName(b) }
