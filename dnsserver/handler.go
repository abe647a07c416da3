package dnsserver

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/miekg/dns"
)

// transport is how a query came.
type transport uint8

const (
	overUDP transport = iota
	overTCP
	transports // how many there are
)

func (t transport) String() string {
	if t == overTCP {
		return "tcp"
	}
	return "udp"
}

// handler turns one message into its reply. It has no sockets and no state
// but the zone, so that a fuzzer, a test and both transports drive the same
// code; it is safe for concurrent use.
type handler struct {
	zone     atomic.Pointer[zone]
	answerer Answerer
	payload  uint16 // largest UDP reply
	nsid     string
	log      *slog.Logger
	metrics  *metrics
	panics   panics
}

// outcome is what a query comes to, before it is a message.
type outcome struct {
	drop   dropReason // dropNot: reply
	rcode  int
	auth   bool // AA: the data is ours to give
	answer []dns.RR
	ns     []dns.RR
	extra  []dns.RR // nice to have: left out first, without TC
	extras extras
}

// handle returns the reply to wire, or nil for silence, and counts it. buf is
// scratch that the reply may use: the caller owns both, and wire and reply
// are its own again once it has sent the reply.
//
// A panic on the way costs this one query a SERVFAIL and nothing else.
func (h *handler) handle(buf, wire []byte, source netip.Addr, via transport) (reply []byte) {
	var q query
	defer func() {
		if fault := recover(); fault != nil {
			h.metrics.panics.Inc()
			h.panics.log(h.log, fault)
			if reply = q.failure(buf, wire); reply != nil {
				h.metrics.answered(via, q.qtype, dns.RcodeServerFailure)
			}
		}
	}()
	if len(wire) < headerSize {
		h.metrics.drop(via, dropShort)
		return nil
	}
	bits := binary.BigEndian.Uint16(wire[2:])
	if bits&bitQR != 0 {
		h.metrics.drop(via, dropResponse) // never answered: two servers would do so for ever
		return nil
	}
	if opcode(bits) != dns.OpcodeQuery {
		rcode := dns.RcodeNotImplemented
		if opcode(bits) == dns.OpcodeUpdate {
			rcode = dns.RcodeRefused
		}
		h.metrics.answered(via, dns.TypeNone, rcode)
		return headerOnly(buf, wire, rcode)
	}
	out := h.decide(&q, wire, source)
	if out.drop != dropNot {
		h.metrics.drop(via, out.drop)
		return nil
	}
	limit := dns.MaxMsgSize
	if via == overUDP {
		limit = q.edns.limit(h.payload)
	}
	reply, truncated, err := h.pack(buf, &q, out, limit)
	if err != nil {
		h.metrics.packErrors.Inc()
		out.rcode, truncated = dns.RcodeServerFailure, false
		reply = q.failure(buf, wire)
	}
	h.metrics.answered(via, q.qtype, out.rcode)
	if truncated {
		h.metrics.truncated(via)
	}
	return reply
}

// decide parses a query and says what it comes to. The order is that of RFC
// 8906's expectations: form, EDNS version, class, zone, type, name.
func (h *handler) decide(q *query, wire []byte, source netip.Addr) outcome {
	if err := q.parse(wire); err != nil {
		return outcome{rcode: dns.RcodeFormatError}
	}
	if q.edns.version != 0 {
		return outcome{rcode: dns.RcodeBadVers}
	}
	if q.qclass != dns.ClassINET {
		return outcome{rcode: dns.RcodeRefused}
	}
	z := h.zone.Load()
	if !z.contains(q.canonical) {
		return outcome{rcode: dns.RcodeRefused, extras: extras{hasEDE: true, ede: dns.ExtendedErrorCodeNotAuthoritative}}
	}
	out := h.decideInZone(z, q, source)
	// We use client subnets for this zone, so every reply from it says for
	// which clients it holds (RFC 7871 section 7.2.1).
	out.extras.ecs = true
	return out
}

// decideInZone settles the types that are no data, and asks for the others.
func (h *handler) decideInZone(z *zone, q *query, source netip.Addr) outcome {
	switch q.qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		return outcome{rcode: dns.RcodeRefused}
	case dns.TypeNXNAME:
		// Never a type to ask for (RFC 9824 section 3.5).
		return outcome{rcode: dns.RcodeFormatError, extras: extras{hasEDE: true, ede: dns.ExtendedErrorCodeInvalidQueryType}}
	}
	out := h.resolve(z, q, clientOf(q, source))
	if out.rcode == dns.RcodeSuccess || out.rcode == dns.RcodeNameError {
		out.auth = true
		if len(out.answer) == 0 {
			out.ns = []dns.RR{z.denial(q.name)}
			out.extras.scope = 0 // resolvers keep a denial for all clients anyway (RFC 7871 section 7.4)
		}
	}
	return out
}

// clientOf returns whom the answer is for: the client that the resolver
// names, else the resolver itself.
func clientOf(q *query, source netip.Addr) netip.Prefix {
	if q.edns.hasECS && q.edns.ecs.client.IsValid() {
		return q.edns.ecs.client
	}
	source = source.Unmap().WithZone("")
	return netip.PrefixFrom(source, source.BitLen())
}

// resolve finds the records of the name and type: the zone's own first, then
// the Answerer's.
func (h *handler) resolve(z *zone, q *query, client netip.Prefix) outcome {
	own := z.nodes[q.canonical]
	if own != nil && (own.closed || (q.qtype != dns.TypeANY && own.sets[q.qtype] != nil)) {
		return z.own(own, q)
	}
	answer, scope, result := h.answerer.Lookup(q.canonical, client)
	switch result {
	case Found:
		if answer == nil {
			return outcome{rcode: dns.RcodeServerFailure}
		}
		out := outcome{answer: answer.records(q.name, q.qtype), extras: extras{scope: scope}}
		if q.qtype == dns.TypeANY {
			out = z.any(own, answer, scope, q)
		}
		if answer.Stale {
			out.extras.hasEDE, out.extras.ede = true, dns.ExtendedErrorCodeStaleAnswer
		}
		return out
	case Empty:
		return z.own(own, q)
	case NotFound:
		if own == nil {
			return h.wild(z, q, client)
		}
		return z.own(own, q)
	case Unready:
		return outcome{drop: dropUnready}
	}
	return outcome{rcode: dns.RcodeServerFailure, extras: extras{hasEDE: true, ede: dns.ExtendedErrorCodeNotReady}}
}

// own answers from a node of the zone, which may be nil: a name without data.
func (z *zone) own(n *node, q *query) outcome {
	if n == nil {
		return outcome{}
	}
	set := n.sets[q.qtype]
	if q.qtype == dns.TypeANY {
		set = n.anySet()
	}
	if alias := n.sets[dns.TypeCNAME]; alias != nil {
		// The resolver follows it by itself; what it leads to may depend on
		// the client, and the alias does not.
		set = alias
	}
	out := outcome{answer: owned(set, q)}
	if q.qtype == dns.TypeNS {
		out.extra = z.glue(set)
	}
	return out
}

// any answers ANY with one record set (RFC 8482 section 4.1), addresses for
// choice.
func (z *zone) any(own *node, answer *Answer, scope uint8, q *query) outcome {
	for _, rtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT} {
		if set := answer.records(q.name, rtype); set != nil {
			return outcome{answer: set, extras: extras{scope: scope}}
		}
	}
	return z.own(own, q)
}

// anySet returns one set of the node, the same each time: that of the lowest
// type.
func (n *node) anySet() []dns.RR {
	lowest := uint16(0)
	for rtype := range n.sets {
		if lowest == 0 || rtype < lowest {
			lowest = rtype
		}
	}
	return n.sets[lowest]
}

// wild answers a name that does not exist: from a wildcard at its closest
// encloser (RFC 4592 section 3.3.1), or by NXDOMAIN.
func (h *handler) wild(z *zone, q *query, client netip.Prefix) outcome {
	if !z.wildcard {
		return outcome{rcode: dns.RcodeNameError}
	}
	for at := parent(q.canonical); z.contains(at); at = parent(at) {
		if z.nodes[at] != nil {
			if n := z.nodes["*."+at]; n != nil {
				return z.own(n, q)
			}
			break
		}
		// An encloser that only the Answerer knows has no wildcard below it:
		// static names bring nodes for all their ancestors.
		if _, _, result := h.answerer.Lookup(at, client); result == Found || result == Empty {
			break
		}
	}
	return outcome{rcode: dns.RcodeNameError}
}

// owned returns a set of the zone under the name as it was asked: the same
// records where that is how they are stored, copies otherwise (wildcards and
// queries in mixed case).
func owned(set []dns.RR, q *query) []dns.RR {
	if len(set) == 0 || set[0].Header().Name == q.name {
		return set
	}
	copies := make([]dns.RR, len(set))
	for i, rr := range set {
		copies[i] = dns.Copy(rr)
		copies[i].Header().Name = q.name
	}
	return copies
}

// glue returns the addresses of the name servers in a set.
func (z *zone) glue(set []dns.RR) []dns.RR {
	var glue []dns.RR
	for _, rr := range set {
		ns, ok := rr.(*dns.NS)
		if !ok {
			continue
		}
		if n := z.nodes[ns.Ns]; n != nil {
			glue = append(glue, slices.Concat(n.sets[dns.TypeA], n.sets[dns.TypeAAAA])...)
		}
	}
	return glue
}
