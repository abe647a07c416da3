// Package geo says where a client is: it maps an address to a cell, a set of
// clients that are treated alike. A cell is a country, or what an operator
// declares for a CIDR.
//
// The binary carries a country by address and a population-weighted centroid by
// country (data/NOTICE.md says from where). A database of the operator's own, in
// MaxMind's format, takes the place of the former. A [Map] is made once, off to
// the side, and never changes: to renew it, make another and swap the pointer.
package geo

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Map is where every address is. It is immutable and may be read by many
// goroutines at once. It does not keep the database's file: what is needed of it
// was taken out when it was read, per unit and not per address.
type Map struct {
	kind  string
	built time.Time
	cells []regions.Cell // cells[0] is the unknown one; a number in a table is an index into it
	v4    table          // what is in force: the database under the overrides
	v6    table
	base4 table // the database alone
	base6 table
	// sorted is cells in order of ID.
	sorted []regions.Cell
}

// The shortest scopes. A shorter one would let a resolver answer a part of the
// world from one draw, however its clients are spread.
const (
	// minScope4 is the largest block that IANA has given to one holder.
	minScope4 = 8
	// minScope6 is about the largest block that a provider holds (240e::/18 and
	// 2001:8000::/19 are the largest in the embedded database, /20 the usual
	// one for the largest). What is longer without a border is unallocated
	// space or a registry's placeholder.
	minScope6 = 20
)

// maxFile bounds a database's size. The largest city databases have half of it.
const maxFile = 1 << 30

// Open reads a database in MaxMind's format: MaxMind's own City, Country and
// Enterprise types and their likes, or a flat one whose records have a
// country_code. It checks the whole file. A database without IPv6 leaves all of
// IPv6 unknown. The data may be changed or dropped afterwards.
func Open(data []byte) (*Map, error) {
	places, err := centroids()
	if err != nil {
		return nil, err
	}
	m := &Map{cells: places}
	if err := m.read(data); err != nil {
		return nil, err
	}
	m.v4, m.v6 = m.base4, m.base6
	m.sorted = sortCells(m.cells)
	return m, nil
}

// Load is [Open] for a file. The file is read whole and closed: it may be
// replaced or overwritten at any time.
func Load(path string) (*Map, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load the GeoIP database: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("load the GeoIP database %s: it has %d bytes, at most %d are read", path, info.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load the GeoIP database: %w", err)
	}
	m, err := Open(data)
	if err != nil {
		return nil, fmt.Errorf("load the GeoIP database %s: %w", path, err)
	}
	return m, nil
}

// Kind is the type that the database gives itself, like "GeoLite2-Country".
func (m *Map) Kind() string { return m.kind }

// Built is when the database was made, by its own word.
func (m *Map) Built() time.Time { return m.built }

// Cells are all cells that [Map.Locate] can answer, sorted by ID: the countries
// that have a centroid, the operator's, and [regions.UnknownCell]. Weights are
// in people. The slice is the caller's.
func (m *Map) Cells() []regions.Cell { return slices.Clone(m.sorted) }

// Locate says which unit and cell an address is in, and the largest block
// around it of which the same holds, within the limits for scopes. The scopes
// of two addresses are equal or disjoint. An address that the database does not
// know, or knows under a code that is no country's, is in the unknown cell; its
// scope is the block around it of which nothing is known. Where networks are
// finer than units, the network of the unit's first address speaks for it all.
//
// IPv4 that is embedded in IPv6 by tunnels (6to4, Teredo, NAT64) is not looked
// into: the address of a relay does not say where the client is.
func (m *Map) Locate(addr netip.Addr) regions.Client {
	unit := regions.Unit(addr)
	if !unit.IsValid() {
		return regions.Client{Cell: regions.UnknownCell}
	}
	first := unit.Addr()
	t := &m.v6
	if first.Is4() {
		t = &m.v4
	}
	cell, bits := t.find(number(first))
	scope, err := first.Prefix(bits)
	if err != nil { // the table has no such bits
		scope = unit
	}
	return regions.Client{Unit: unit, Cell: m.cells[cell].ID, Scope: scope}
}

// number is an address's unit as a number: its first 24 bits, or 48 for IPv6.
func number(addr netip.Addr) uint64 {
	if addr.Is4() {
		b := addr.As4()
		return uint64(binary.BigEndian.Uint32(b[:])) >> (32 - regions.UnitBits4)
	}
	b := addr.As16()
	return binary.BigEndian.Uint64(b[:8]) >> (64 - regions.UnitBits6)
}

func sortCells(cells []regions.Cell) []regions.Cell {
	return slices.SortedFunc(slices.Values(cells), func(a, b regions.Cell) int { return cmp.Compare(a.ID, b.ID) })
}
