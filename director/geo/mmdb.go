package geo

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/oschwald/geoip2-golang/v2"
	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/rhumb-lb/rhumb/regions"
)

// record is what is read of a network's data. A flat database has country_code,
// MaxMind's types have country. Their registered_country is left alone: it says
// where the holder has its papers, which for anycast and satellite networks is
// not where the client is.
type record struct {
	Code    string `maxminddb:"country_code"`
	Country struct {
		Code string `maxminddb:"iso_code"`
	} `maxminddb:"country"`
}

// maxBuilt is the last second of the year 9999: what claims to be younger is
// corrupt.
const maxBuilt = 253402300799

// keepOffsets bounds the memory of which record means which cell. A country
// database has some 250 records; a city database has millions, which are decoded
// again now and then.
const keepOffsets = 1 << 16

// read takes a database's networks into the map's base tables.
func (m *Map) read(data []byte) error {
	db, err := maxminddb.OpenBytes(data)
	if err != nil {
		return fmt.Errorf("not a sound MaxMind DB file: %w", err)
	}
	if err := checkTree(data, db.Metadata); err != nil {
		return fmt.Errorf("not a sound MaxMind DB file: %w", err)
	}
	if uint64(db.Metadata.BuildEpoch) > maxBuilt {
		return fmt.Errorf("not a sound MaxMind DB file: its build time, %d s, is not within the next millennia", db.Metadata.BuildEpoch)
	}
	if err := checkType(data, db); err != nil {
		return err
	}
	m.kind, m.built = db.Metadata.DatabaseType, db.Metadata.BuildTime().UTC()
	return m.readNetworks(db)
}

// checkType lets databases pass that can name countries, and has MaxMind's own
// kinds verified in full. The flat ones do not pass that verification, which
// demands a description; reading every network checks those.
func checkType(data []byte, db *maxminddb.Reader) error {
	typed, err := geoip2.OpenBytes(data)
	var flat geoip2.UnknownDatabaseTypeError
	if errors.As(err, &flat) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("not a sound MaxMind DB file: %w", err)
	}
	var other geoip2.InvalidMethodError
	if _, err := typed.Country(netip.IPv4Unspecified()); errors.As(err, &other) {
		return fmt.Errorf("a database of type %s does not name countries; want a City or Country database", other.DatabaseType)
	}
	if err := db.Verify(); err != nil {
		return fmt.Errorf("not a sound MaxMind DB file: %w", err)
	}
	return nil
}

func (m *Map) readNetworks(db *maxminddb.Reader) error {
	codes := newCodes(m.cells)
	v4, v6 := filler{table: newTable(4)}, filler{table: newTable(6)}
	left := db.Metadata.NodeCount + 1 // a binary tree has one leaf more than nodes
	for network := range db.Networks(maxminddb.IncludeNetworksWithoutData()) {
		if left == 0 {
			return errors.New("not a sound MaxMind DB file: its search tree has a loop")
		}
		left--
		cell, err := codes.cell(network)
		if err != nil {
			return fmt.Errorf("read network %s: %w", network.Prefix(), err)
		}
		p := network.Prefix()
		into := &v6
		switch {
		case p.Addr().Is4():
			into = &v4
		case p.Addr() == netip.IPv6Unspecified() && p.Bits() <= 96:
			// No border within ::/96, where these files keep IPv4.
			if err := v4.add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), cell); err != nil {
				return err
			}
		}
		if err := into.add(p, cell); err != nil {
			return err
		}
	}
	if !codes.found {
		return fmt.Errorf("no record of this database (type %q) has a country, in country_code or country.iso_code", m.kind)
	}
	m.base4, m.base6 = v4.done(), v6.done()
	return nil
}

// codes finds the cell of a record.
type codes struct {
	cells   map[string]uint16  // by country code
	offsets map[uintptr]uint16 // by where the record is in the file
	found   bool               // some record had a code
}

func newCodes(cells []regions.Cell) *codes {
	c := &codes{cells: make(map[string]uint16, len(cells)), offsets: make(map[uintptr]uint16)}
	for i := range cells {
		if cells[i].Known {
			c.cells[string(cells[i].ID)] = uint16(i)
		}
	}
	return c
}

func (c *codes) cell(network maxminddb.Result) (uint16, error) {
	if err := network.Err(); err != nil {
		return unknown, err
	}
	if !network.Found() {
		return unknown, nil
	}
	if cell, ok := c.offsets[network.Offset()]; ok {
		return cell, nil
	}
	var r record
	if err := network.Decode(&r); err != nil {
		return unknown, err
	}
	code := r.Code
	if code == "" {
		code = r.Country.Code
	}
	c.found = c.found || code != ""
	// Codes that are no country's (EU, AP, ZZ, T1 and others) have no centroid.
	cell := c.cells[strings.ToUpper(code)]
	if len(c.offsets) < keepOffsets {
		c.offsets[network.Offset()] = cell
	}
	return cell, nil
}
