package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// city is what a centroid needs of a record: a protobuf message whose
// coordinates are differences to the record before, in 100,000ths of a degree.
type city struct {
	country, feature string
	population       int64
	dLon, dLat       int64
}

// The fields of a record.
const (
	fieldCountry    = 3
	fieldFeature    = 7
	fieldPopulation = 9
	fieldLon        = 10
	fieldLat        = 11
)

// doubled are the GeoNames feature codes of places whose people are counted
// elsewhere or gone: a section of a populated place, an abandoned, a destroyed
// and a historical one.
var doubled = []string{"PPLX", "PPLQ", "PPLW", "PPLH"}

// sum adds up places as vectors from the Earth's centre, weighted by people.
type sum struct {
	x, y, z    float64
	population int64
}

func (s *sum) add(lat, lon, weight float64) {
	sinLat, cosLat := math.Sincos(lat * math.Pi / 180)
	sinLon, cosLon := math.Sincos(lon * math.Pi / 180)
	s.x += weight * cosLat * cosLon
	s.y += weight * cosLat * sinLon
	s.z += weight * sinLat
}

// place is the centroid in microdegrees, rounded to a thousandth of a degree
// (110 m): less means nothing for a country, and rounding hides the last digits
// in which machines differ.
func (s *sum) place() (lat, lon int64) {
	round := func(rad float64) int64 { return int64(math.Round(rad*180/math.Pi*1000)) * 1000 }
	return round(math.Atan2(s.z, math.Hypot(s.x, s.y))), round(math.Atan2(s.y, s.x))
}

// centroids is the table of countries as CSV. A country of whose places no
// population is known gets their plain mean and a population of 0.
func centroids(raw []byte) ([]byte, error) {
	weighted, plain := map[string]*sum{}, map[string]*sum{}
	var lat, lon int64
	for len(raw) > 0 {
		size, n := binary.Uvarint(raw)
		if n <= 0 || uint64(len(raw)-n) < size {
			return nil, errors.New("a record is cut short")
		}
		c, err := readCity(raw[n : n+int(size)])
		if err != nil {
			return nil, err
		}
		raw = raw[n+int(size):]
		lat, lon = lat+c.dLat, lon+c.dLon
		if len(c.country) != 2 || slices.Contains(doubled, c.feature) {
			continue
		}
		if plain[c.country] == nil {
			plain[c.country], weighted[c.country] = new(sum), new(sum)
		}
		plain[c.country].add(float64(lat)/1e5, float64(lon)/1e5, 1)
		weighted[c.country].add(float64(lat)/1e5, float64(lon)/1e5, float64(c.population))
		weighted[c.country].population += c.population
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# Population-weighted centroids, made from %s (see NOTICE.md).\n", cities.pkg)
	fmt.Fprintln(&out, "code,lat_microdeg,lon_microdeg,population")
	for _, code := range slices.SortedFunc(maps.Keys(weighted), cmp.Compare[string]) {
		s := weighted[code]
		if s.population == 0 {
			s = plain[code]
		}
		lat, lon := s.place()
		fmt.Fprintf(&out, "%s,%d,%d,%d\n", code, lat, lon, s.population)
	}
	return out.Bytes(), nil
}

func readCity(msg []byte) (city, error) {
	var c city
	for len(msg) > 0 {
		tag, n := binary.Uvarint(msg)
		if n <= 0 {
			return c, errors.New("a field's tag is cut short")
		}
		msg = msg[n:]
		value, n := binary.Uvarint(msg)
		if n <= 0 {
			return c, errors.New("a field is cut short")
		}
		msg = msg[n:]
		switch field := tag >> 3; tag & 7 {
		case 0: // a number
			c.number(field, value)
		case 2: // bytes
			if uint64(len(msg)) < value {
				return c, errors.New("a text is cut short")
			}
			c.text(field, string(msg[:value]))
			msg = msg[value:]
		default:
			return c, fmt.Errorf("field %d has the unexpected wire type %d", field, tag&7)
		}
	}
	return c, nil
}

func (c *city) number(field, value uint64) {
	signed := int64(value>>1) ^ -int64(value&1) // zigzag
	switch field {
	case fieldPopulation:
		c.population = int64(value)
	case fieldLon:
		c.dLon = signed
	case fieldLat:
		c.dLat = signed
	}
}

func (c *city) text(field uint64, s string) {
	switch field {
	case fieldCountry:
		c.country = s
	case fieldFeature:
		c.feature = s
	}
}
