package dnsserver

import (
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Answerer decides what a name of the zone means for a client. The server
// asks it for every query that the zone's own records do not settle, from
// many goroutines at once, so it must be fast (microseconds: no I/O) and safe
// for concurrent use.
//
// The promise that health never makes a name vanish is the Answerer's: for a
// configured name it returns Found with its last good Answer however bad
// things look. The server turns nothing but NotFound into NXDOMAIN.
type Answerer interface {
	// Lookup answers for name, the absolute lower-case query name (it ends in
	// a dot and lies inside the zone), and for client: the prefix that the
	// query's client-subnet option carried, bits as they came, or the
	// packet's source address as a /32 or /128.
	//
	// scope is the prefix length in bits for which the answer holds (RFC 7871
	// SCOPE PREFIX-LENGTH, in client's address family). Every address inside
	// of it must get this same answer, and scopes must be equal or disjoint.
	// It counts only with Found and is clamped to the family's width.
	Lookup(name string, client netip.Prefix) (answer *Answer, scope uint8, result Result)

	// Generation changes whenever any answer may have changed. Whoever keeps
	// answers compares it before reusing one.
	Generation() uint64
}

// Result says what the Answerer knows of a name. Its zero value is no result
// and is answered with SERVFAIL, so that a forgotten one denies nothing.
type Result uint8

// The results of a lookup.
const (
	// Found: the name exists and its Answer is not nil. A type that the
	// Answer has no data for is answered NODATA.
	Found Result = iota + 1
	// NotFound: the name does not exist by configuration. The reply is
	// NXDOMAIN, but where static records lie at or below the name.
	NotFound
	// Empty: the name has no data itself but names below it do (RFC 8020's
	// empty non-terminal). The reply is NODATA.
	Empty
	// Unready: neither a last good state nor a first sync yet. The query is
	// dropped, so that the resolver asks another name server.
	Unready
	// Unsure: started but not synced, and the name is not in the
	// configuration: it may be a learnt one. The reply is SERVFAIL, which a
	// resolver does not take for a denial.
	Unsure
)

// String returns the result's name in lower case, for logs and tests.
func (r Result) String() string {
	switch r {
	case Found:
		return "found"
	case NotFound:
		return "not found"
	case Empty:
		return "empty"
	case Unready:
		return "unready"
	case Unsure:
		return "unsure"
	}
	return "invalid"
}

// Answer is everything that the server may say of a name to a client. It is
// immutable once returned by Lookup: the same pointer means the same bytes,
// so that packed replies can hang on it.
type Answer struct {
	// Targets are the endpoints to give. A and AAAA give the addresses of the
	// first target with the lowest Priority.
	Targets []Target
	// TXT are the strings of the name's TXT record, in order. Strings longer
	// than 255 octets are split, as RFC 1035 section 3.3.14 needs.
	TXT []string
	// TTL is how long resolvers may keep the answer. It goes out in whole
	// seconds, rounded up.
	TTL time.Duration
	// Stale marks an answer from a last good state that could not be
	// refreshed: a reply with EDNS says so by Extended DNS Error 3 (RFC 8914).
	Stale bool
}

// Target is one endpoint of an Answer: what A, AAAA and, where they are
// served, HTTPS and SVCB records say of it.
type Target struct {
	// Name is the endpoint's own name (absolute, lower case), or empty for
	// the name that was asked.
	Name string
	// Addrs are its IPv4 and IPv6 addresses, in the order to give them.
	Addrs []netip.Addr
	// Port is its TCP port, 0 for the scheme's default.
	Port uint16
	// ALPN are the protocol ids it speaks ("h2", "http/1.1").
	ALPN []string
	// Priority orders targets as in RFC 9460: the lowest is tried first.
	Priority uint16
}

// first returns the target whose addresses A and AAAA give: the first of the
// lowest priority. One target, so that the two types never name two places.
func (a *Answer) first() *Target {
	var best *Target
	for i := range a.Targets {
		if best == nil || a.Targets[i].Priority < best.Priority {
			best = &a.Targets[i]
		}
	}
	return best
}

// records returns the answer's record set of one type under owner, nil if it
// has none.
func (a *Answer) records(owner string, qtype uint16) []dns.RR {
	header := dns.RR_Header{Name: owner, Rrtype: qtype, Class: dns.ClassINET, Ttl: seconds(a.TTL)}
	switch qtype {
	case dns.TypeA, dns.TypeAAAA:
		target := a.first()
		if target == nil {
			return nil
		}
		return addressRecords(header, target.Addrs)
	case dns.TypeTXT:
		if len(a.TXT) == 0 {
			return nil
		}
		return []dns.RR{&dns.TXT{Hdr: header, Txt: characterStrings(a.TXT)}}
	}
	return nil
}

// addressRecords returns an A or AAAA record, as the header says, for every
// address of that family.
func addressRecords(header dns.RR_Header, addrs []netip.Addr) []dns.RR {
	var set []dns.RR
	for _, addr := range addrs {
		addr = addr.Unmap()
		switch {
		case header.Rrtype == dns.TypeA && addr.Is4():
			set = append(set, &dns.A{Hdr: header, A: addr.AsSlice()})
		case header.Rrtype == dns.TypeAAAA && addr.Is6():
			set = append(set, &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()})
		}
	}
	return set
}

// characterStrings splits texts into the strings of a TXT record. The library
// keeps them in zone-file form, where a backslash starts an escape.
func characterStrings(texts []string) []string {
	const longest = 255 // RFC 1035 section 3.3: one length octet
	out := make([]string, 0, len(texts))
	for _, text := range texts {
		for len(text) > longest {
			out = append(out, escapeText(text[:longest]))
			text = text[longest:]
		}
		out = append(out, escapeText(text))
	}
	return out
}

func escapeText(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

// seconds converts a TTL to whole seconds, rounded up, so that a TTL of less
// than a second does not become "never keep", and inside the 31 bits of RFC
// 2181 section 8.
func seconds(d time.Duration) uint32 {
	const most = 1<<31 - 1
	switch whole := (d + time.Second - 1) / time.Second; {
	case d <= 0:
		return 0
	case d > most*time.Second:
		return most
	default:
		return uint32(whole)
	}
}
