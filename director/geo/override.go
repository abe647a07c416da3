package geo

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/rhumb-lb/rhumb/regions"
)

// Override puts a block of addresses into a cell, whatever the database says.
// It either names a country, whose cell the block then joins, or it declares a
// cell: an ID and a place.
type Override struct {
	// Prefix has no bits set behind its length, and is no longer than a unit
	// (/24, or /48 for IPv6).
	Prefix netip.Prefix
	// Country is the two-letter code of a country that has a centroid. Cell and
	// Location are empty then.
	Country string
	// Cell is the ID of a cell of the operator's own; several overrides may
	// share one if they agree on its place. It is the prefix if it is empty.
	// It can't be two letters, which name countries.
	// [regions.UnknownCell] makes the block equally far from all; it has no
	// Location.
	Cell regions.CellID
	// Location is where the cell is. The zero location, in the open sea off
	// Ghana, counts as forgotten.
	Location regions.Location
	// Weight is how many people are behind the prefix, to compare with
	// countries; the weights of overrides that share a cell are added.
	Weight int64
}

// maxCellID keeps an ID short enough for a string of a TXT record and a label.
const maxCellID = 64

// WithOverrides is a map of the same database with these overrides, in place of
// any that m has. Of two that hold an address the longer prefix wins. It fails if
// one is not as [Override] demands or if a prefix is given twice.
func (m *Map) WithOverrides(overrides []Override) (*Map, error) {
	places, err := centroids()
	if err != nil {
		return nil, err
	}
	b := overrider{cells: places, index: make(map[regions.CellID]uint16), seen: make(map[netip.Prefix]bool)}
	for i, c := range b.cells {
		b.index[c.ID] = uint16(i)
	}
	for i, o := range overrides {
		if err := b.add(o); err != nil {
			return nil, fmt.Errorf("GeoIP override %d (%s): %w", i+1, o.Prefix, err)
		}
	}
	return &Map{
		kind: m.kind, built: m.built, base4: m.base4, base6: m.base6,
		cells: b.cells, sorted: sortCells(b.cells),
		v4: m.base4.overlay(b.v4), v6: m.base6.overlay(b.v6),
	}, nil
}

// overrider turns overrides into cells and spans.
type overrider struct {
	cells  []regions.Cell
	index  map[regions.CellID]uint16
	seen   map[netip.Prefix]bool
	v4, v6 []span
}

func (b *overrider) add(o Override) error {
	p, err := checkPrefix(o.Prefix)
	if err != nil {
		return err
	}
	if b.seen[p] {
		return errors.New("the prefix is given twice; keep one")
	}
	b.seen[p] = true
	cell, err := b.cell(o, p)
	if err != nil {
		return err
	}
	unitBits, spans := regions.UnitBits6, &b.v6
	if p.Addr().Is4() {
		unitBits, spans = regions.UnitBits4, &b.v4
	}
	start := number(p.Addr())
	*spans = append(*spans, span{start: start, end: start + 1<<(unitBits-p.Bits()), cell: cell})
	return nil
}

// checkPrefix refuses what can't be an override's prefix, and turns IPv4 in IPv6
// form into IPv4.
func checkPrefix(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, errors.New("the prefix is missing or not valid; write it like 192.0.2.0/24 or 2001:db8::/32")
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p.Masked() != p {
		return p, fmt.Errorf("the prefix has bits set behind its length; write %s", p.Masked())
	}
	if p.Addr().Is4() && p.Bits() > regions.UnitBits4 {
		return p, fmt.Errorf("the prefix is longer than /%d, and all of a /%d is decided alike; widen it", regions.UnitBits4, regions.UnitBits4)
	}
	if p.Bits() > regions.UnitBits6 {
		return p, fmt.Errorf("the prefix is longer than /%d, and all of a /%d is decided alike; widen it", regions.UnitBits6, regions.UnitBits6)
	}
	return p, nil
}

// cell finds the cell that an override asks for, or makes it.
func (b *overrider) cell(o Override, p netip.Prefix) (uint16, error) {
	if o.Weight < 0 {
		return 0, fmt.Errorf("the weight %d is below 0", o.Weight)
	}
	if o.Country != "" {
		if o.Cell != "" || o.Location != (regions.Location{}) || o.Weight != 0 {
			return 0, errors.New("a country comes without cell, location and weight; leave them out, or leave out the country")
		}
		i, ok := b.index[regions.CellID(strings.ToUpper(o.Country))]
		if !ok || !isCountry(o.Country) {
			return 0, fmt.Errorf("country %q has no centroid; give a cell with a location", o.Country)
		}
		return i, nil
	}
	id := o.Cell
	if id == "" {
		id = regions.CellID(p.String())
	}
	if id == regions.UnknownCell {
		if o.Location != (regions.Location{}) || o.Weight != 0 {
			return 0, fmt.Errorf("cell %q has no place; leave out location and weight", id)
		}
		return unknown, nil
	}
	return b.own(id, o)
}

// own finds or makes a cell of the operator's own.
func (b *overrider) own(id regions.CellID, o Override) (uint16, error) {
	if err := checkCellID(id); err != nil {
		return 0, err
	}
	if err := checkLocation(o.Location); err != nil {
		return 0, err
	}
	if i, ok := b.index[id]; ok {
		c := &b.cells[i]
		if c.Location != o.Location {
			return 0, fmt.Errorf("cell %q is already at %s; give it one place, or another name here", id, degrees(c.Location))
		}
		c.Weight += o.Weight
		return i, nil
	}
	if len(b.cells) > math.MaxUint16 {
		return 0, fmt.Errorf("there are more than %d cells; let overrides share some", math.MaxUint16)
	}
	i := uint16(len(b.cells))
	b.cells = append(b.cells, regions.Cell{ID: id, Location: o.Location, Known: true, Weight: o.Weight})
	b.index[id] = i
	return i, nil
}

func checkCellID(id regions.CellID) error {
	if len(id) > maxCellID || strings.ContainsFunc(string(id), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("cell %q: want at most %d printable ASCII characters without a space", id, maxCellID)
	}
	if isCountry(string(id)) {
		return fmt.Errorf("cell %q: two letters name a country; put it under country, or choose a longer name", id)
	}
	return nil
}

func checkLocation(l regions.Location) error {
	if l == (regions.Location{}) {
		return errors.New("the location is missing; give latitude and longitude, or a country")
	}
	if max(l.Lat, -l.Lat) > 90_000_000 || max(l.Lon, -l.Lon) > 180_000_000 {
		return fmt.Errorf("the location %s is not on the globe; want latitude -90 to 90, longitude -180 to 180", degrees(l))
	}
	return nil
}

func degrees(l regions.Location) string {
	return fmt.Sprintf("%.6f, %.6f", float64(l.Lat)/1e6, float64(l.Lon)/1e6)
}

// isCountry says whether a code has the form of ISO 3166-1 alpha-2, in either
// case.
func isCountry(code string) bool {
	return len(code) == 2 && !slices.ContainsFunc([]byte(code), func(c byte) bool { return c|0x20 < 'a' || c|0x20 > 'z' })
}
