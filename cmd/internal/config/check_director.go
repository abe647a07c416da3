package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
)

func (c *checker) director(d *Director) {
	c.some("director.dns.listen", len(d.DNS.Listen), "list the addresses for DNS, like 192.0.2.1:53")
	c.serveAll("director.dns.listen", d.DNS.Listen)
	c.serveAll("director.redirect.listen", d.Redirect.Listen)
	c.oneOf("director.redirect.location", d.Redirect.Location, "name", "endpoint")
	c.oneOf("director.redirect.scheme", d.Redirect.Scheme, "http", "https")
	between(c, "director.redirect.port", d.Redirect.Port, 0, math.MaxUint16)
	c.addresses("director.redirect.addresses", d.Redirect.Addresses)
	c.tls("director.redirect.tls", &d.Redirect.TLS)
	c.stateFile(&d.StateFile)
	c.file("director.geo.file", &d.Geo.File, optional)
	c.overrides(d.Geo.Overrides)
}

// stateFile makes the path full. The file itself appears with the first state,
// so only its folder must be there.
func (c *checker) stateFile(name *string) {
	if *name == "" {
		return
	}
	*name = c.full(*name)
	if c.skip {
		return
	}
	folder := filepath.Dir(*name)
	switch err := openFile(folder, true); {
	case errors.Is(err, fs.ErrNotExist):
		c.fail("director.state_file", fmt.Sprintf("there is no folder %s to keep it in", folder), "create the folder or mend the path")
	case err != nil:
		c.fail("director.state_file", "can't be kept there: "+err.Error(), "name a file in a folder that this user can write to")
	}
	if info, err := os.Stat(*name); err == nil && !info.Mode().IsRegular() {
		c.fail("director.state_file", fmt.Sprintf("%s is no regular file", *name), "name a file, as director.state in that folder")
	}
}

// Longest prefixes of an override. A client is known by its /24 or /48 and no
// finer, so that a longer override would apply to clients beside it or not at all.
const (
	maxBits4 = 24
	maxBits6 = 48
)

func (c *checker) overrides(list []Override) {
	type placed struct {
		cidr netip.Prefix
		path string
	}
	var sorted []placed
	for i, o := range list {
		at := index("director.geo.overrides", i)
		c.place(at, o)
		if !c.network(at+".cidr", o.CIDR) {
			continue
		}
		longest := maxBits6
		if o.CIDR.Addr().Is4() {
			longest = maxBits4
		}
		if o.CIDR.Bits() > longest {
			c.fail(at+".cidr", fmt.Sprintf("%v is longer than /%d", o.CIDR, longest), fmt.Sprintf("write the /%d: clients are told apart no finer", longest))
			continue
		}
		sorted = append(sorted, placed{o.CIDR, at + ".cidr"})
	}
	slices.SortStableFunc(sorted, func(a, b placed) int {
		if cmp := a.cidr.Addr().Compare(b.cidr.Addr()); cmp != 0 {
			return cmp
		}
		return a.cidr.Bits() - b.cidr.Bits()
	})
	// Networks are nested or apart, so one that overlaps any before it overlaps
	// the last that did not.
	var last placed
	for _, p := range sorted {
		if last.cidr.IsValid() && last.cidr.Overlaps(p.cidr) {
			c.fail(p.path, fmt.Sprintf("%v overlaps %v of %s", p.cidr, last.cidr, last.path), "keep one, or split the larger into networks that don't overlap")
			continue
		}
		last = p
	}
}

// countryShape is ISO 3166-1 alpha-2.
var countryShape = regexp.MustCompile(`^[A-Z]{2}$`)

func (c *checker) place(at string, o Override) {
	atPoint := c.doc.Has(at+".lat") || c.doc.Has(at+".lon")
	switch {
	case o.Country != "" && atPoint:
		c.fail(at+".country", "is given beside lat and lon", "keep the country or the place")
	case o.Country == "" && !atPoint:
		c.fail(at, "has no place", "give it a country, or lat and lon")
	case o.Country != "" && !countryShape.MatchString(o.Country):
		c.fail(at+".country", fmt.Sprintf("%q is not a country code", o.Country), "write two capital letters, like DE")
	case atPoint:
		c.location(at, o.Lat, o.Lon)
	}
}

func (c *checker) location(at string, lat, lon float64) {
	for _, v := range []struct {
		key          string
		value, bound float64
	}{{"lat", lat, 90}, {"lon", lon, 180}} {
		path := strict.Join(at, v.key)
		switch {
		case !c.doc.Has(path):
			c.fail(path, "is missing", "write it in degrees, like 50.11")
		case !(v.value >= -v.bound && v.value <= v.bound): // also refuses NaN
			c.fail(path, fmt.Sprintf("%v is out of range", v.value), fmt.Sprintf("write degrees from -%v to %v", v.bound, v.bound))
		}
	}
}
