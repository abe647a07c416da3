package dnsserver

import (
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
)

// The address families of RFC 7871 section 6 (IANA address family numbers).
// Family 0 is not one: dig sends it with SOURCE 0 for "+subnet=0", and every
// name server accepts that.
const (
	familyNone = 0
	familyIPv4 = 1
	familyIPv6 = 2
)

// ecsHeader is FAMILY, SOURCE PREFIX-LENGTH and SCOPE PREFIX-LENGTH, and
// ecsScope where the last one stands in the option's data.
const (
	ecsHeader = 4
	ecsScope  = 3
)

// ecs is a query's client-subnet option (RFC 7871).
type ecs struct {
	raw    []byte       // the option's data as it came, part of the query's wire
	client netip.Prefix // invalid for SOURCE 0: the query does not say
}

// parseECS reads the data of a client-subnet option. It works on the option's
// octets, since RFC 7871 section 7.1.2 wants FORMERR where their number does
// not fit SOURCE, or bits past SOURCE are set: a decoder that pads the address
// can't tell.
func parseECS(data []byte) (ecs, error) {
	if len(data) < ecsHeader {
		return ecs{}, errFormat
	}
	source, scope, address := int(data[2]), data[ecsScope], data[ecsHeader:]
	if scope != 0 || len(address) != (source+7)/8 {
		return ecs{}, errFormat
	}
	var full [16]byte
	var addr netip.Addr
	switch binary.BigEndian.Uint16(data) {
	case familyNone:
		if source != 0 {
			return ecs{}, errFormat
		}
		return ecs{raw: data}, nil
	case familyIPv4:
		if source > 32 {
			return ecs{}, errFormat
		}
		copy(full[:4], address)
		addr = netip.AddrFrom4([4]byte(full[:4]))
	case familyIPv6:
		if source > 128 {
			return ecs{}, errFormat
		}
		copy(full[:], address)
		addr = netip.AddrFrom16(full)
	default:
		return ecs{}, errFormat
	}
	client := netip.PrefixFrom(addr, source)
	if client.Masked().Addr() != addr {
		return ecs{}, errFormat
	}
	if source == 0 {
		client = netip.Prefix{}
	}
	return ecs{raw: data, client: client}, nil
}

// option returns the option for the reply: FAMILY, SOURCE and ADDRESS as they
// came, octet for octet, and the scope (RFC 7871 section 7.2.1).
func (e ecs) option(scope uint8) dns.EDNS0 {
	data := append([]byte(nil), e.raw...)
	if !e.client.IsValid() {
		scope = 0
	}
	if width := uint8(e.client.Addr().BitLen()); scope > width {
		scope = width
	}
	data[ecsScope] = scope
	return &dns.EDNS0_LOCAL{Code: dns.EDNS0SUBNET, Data: data}
}
