package regions

import "net/netip"

// The unit of decision: addresses that are never told apart. A /24 and a /48
// are what public resolvers send at the finest (RFC 7871 section 11.1 advises
// them for privacy) and what networks route at the finest.
const (
	UnitBits4 = 24
	UnitBits6 = 48
)

// Unit is the block of addresses that an address is decided with: its /24, or
// its /48 for IPv6. An IPv4 address in IPv6 form counts as IPv4. It is applied
// to ECS prefixes, source addresses and forwarded addresses alike, before
// geography, hash and decision. The unit of an invalid address is the zero
// prefix.
func Unit(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := UnitBits6
	if addr.Is4() {
		bits = UnitBits4
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// CellID names clients that are treated alike: a country's code, or an
// operator's CIDR.
type CellID string

// UnknownCell holds the clients of whom no place is known. It is equally far
// from every region.
const UnknownCell CellID = "unknown"

// Cell is a set of clients that are treated alike.
type Cell struct {
	ID       CellID
	Location Location
	// Known is false where the cell has no place: equally far from all.
	Known bool
	// Weight is the share of all clients that live here before anything was
	// measured, in any unit common to all cells.
	Weight int64
}

// Client is who asks, as far as a decision cares.
type Client struct {
	Unit netip.Prefix
	Cell CellID
	// Scope is the block around Unit in which every address is in the same
	// cell; it has at most the unit's bits.
	Scope netip.Prefix
}
