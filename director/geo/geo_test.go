package geo

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/rhumb-lb/rhumb/regions"
)

func embedded(tb testing.TB) *Map {
	tb.Helper()
	m, err := Default()
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestDefaultKnowsWherePeopleAre(t *testing.T) {
	m := embedded(t)
	for _, c := range []struct {
		addr string
		want regions.CellID
	}{
		{"81.2.69.0", "GB"},
		{"81.2.69.160", "GB"},
		{"133.242.0.0", "JP"},
		{"8.8.8.0", "US"},
		{"::ffff:8.8.8.8", "US"},
		{"2003::1", "DE"},
		{"240e::1", "CN"},
		{"2400:2000::1%eth0", "JP"},
		{"10.1.2.3", regions.UnknownCell},
		{"127.0.0.1", regions.UnknownCell},
		{"192.0.2.1", regions.UnknownCell},
		{"::1", regions.UnknownCell},
		{"::8.8.8.8", regions.UnknownCell},
		{"2002:808:808::1", regions.UnknownCell},
		{"fe80::1", regions.UnknownCell},
	} {
		addr := netip.MustParseAddr(c.addr)
		got := m.Locate(addr)
		if got.Cell != c.want {
			t.Errorf("%s is in %s, want %s", c.addr, got.Cell, c.want)
		}
		checkClient(t, addr, got)
	}
}

func TestNoAddressIsNowhere(t *testing.T) {
	if got, want := embedded(t).Locate(netip.Addr{}), (regions.Client{Cell: regions.UnknownCell}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestDefaultIsOneAndKnowsItsAge(t *testing.T) {
	m := embedded(t)
	if embedded(t) != m {
		t.Error("the default was read twice")
	}
	if m.Kind() == "" || m.Built().Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("kind %q, built %v", m.Kind(), m.Built())
	}
}

func TestCellsAreSortedAndWeighed(t *testing.T) {
	cells := embedded(t).Cells()
	if len(cells) < 200 {
		t.Fatalf("there are only %d cells", len(cells))
	}
	var people int64
	for i, c := range cells {
		if i > 0 && cells[i-1].ID >= c.ID {
			t.Errorf("cell %s comes after %s", c.ID, cells[i-1].ID)
		}
		if c.Known == (c.ID == regions.UnknownCell) {
			t.Errorf("cell %s: known is %v", c.ID, c.Known)
		}
		people += c.Weight
	}
	unknown := cells[slices.IndexFunc(cells, func(c regions.Cell) bool { return c.ID == regions.UnknownCell })]
	if share := float64(unknown.Weight) / float64(people); share < 0.005 || share > 0.02 {
		t.Errorf("the unknown cell has %.3f of the weight", share)
	}
	cells[0].ID = "changed"
	if embedded(t).Cells()[0].ID == "changed" {
		t.Error("the caller's change reached the map")
	}
}

// checkClient checks what holds for every answer.
func checkClient(tb testing.TB, addr netip.Addr, c regions.Client) {
	tb.Helper()
	shortest := minScope6
	if c.Unit.Addr().Is4() {
		shortest = minScope4
	}
	switch {
	case c.Unit != regions.Unit(addr):
		tb.Fatalf("the unit of %s is %s, want %s", addr, c.Unit, regions.Unit(addr))
	case c.Scope.Bits() < shortest || c.Scope.Bits() > c.Unit.Bits():
		tb.Fatalf("the scope of %s is %s, want /%d to /%d", addr, c.Scope, shortest, c.Unit.Bits())
	case c.Scope != c.Scope.Masked() || !c.Scope.Contains(c.Unit.Addr()):
		tb.Fatalf("the scope of %s is %s, which is not a block around %s", addr, c.Scope, c.Unit)
	}
}

// draws is how many addresses of each family the properties are checked on.
const draws = 100_000

func random4(r *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, r.Uint32())))
}

// random6 is mostly in the part of IPv6 that is in use, 2000::/4.
func random6(r *rand.Rand) netip.Addr {
	high := r.Uint64()
	if r.IntN(10) > 0 {
		high = high>>4 | 0x2<<60
	}
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, high), r.Uint64())))
}

// within is a random address of a block.
func within(r *rand.Rand, p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		if r.IntN(2) == 1 {
			b[bit/8] |= 0x80 >> (bit % 8)
		}
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// last is the last address of a block.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// checkScopes checks, on random addresses, that scopes are equal or disjoint and
// that all within one scope is in one cell.
func checkScopes(t *testing.T, m *Map, r *rand.Rand, random func(*rand.Rand) netip.Addr) {
	t.Helper()
	seen := map[netip.Prefix]regions.CellID{}
	for range draws {
		addr := random(r)
		c := m.Locate(addr)
		checkClient(t, addr, c)
		if cell, ok := seen[c.Scope]; ok && cell != c.Cell {
			t.Fatalf("the scope %s is in %s and in %s", c.Scope, cell, c.Cell)
		}
		seen[c.Scope] = c.Cell
		for _, other := range []netip.Addr{c.Scope.Addr(), last(c.Scope), within(r, c.Scope), within(r, c.Scope)} {
			if o := m.Locate(other); o.Cell != c.Cell || o.Scope != c.Scope {
				t.Fatalf("%s is in %s with scope %s, but %s in %s with scope %s", addr, c.Cell, c.Scope, other, o.Cell, o.Scope)
			}
		}
	}
	scopes := make([]netip.Prefix, 0, len(seen))
	for s := range seen {
		scopes = append(scopes, s)
	}
	slices.SortFunc(scopes, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	for i := 1; i < len(scopes); i++ {
		if scopes[i].Overlaps(scopes[i-1]) {
			t.Fatalf("the scopes %s and %s overlap", scopes[i-1], scopes[i])
		}
	}
}

func TestScopesOfTheDefault(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	checkScopes(t, embedded(t), r, random4)
	checkScopes(t, embedded(t), r, random6)
}

func TestScopesUnderRandomOverrides(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var overrides []Override
	seen := map[netip.Prefix]bool{}
	for len(overrides) < 2000 {
		addr, bits := random4(r), 4+r.IntN(21)
		if r.IntN(2) == 0 {
			addr, bits = random6(r), 8+r.IntN(41)
		}
		if len(overrides) > 0 && r.IntN(2) == 0 { // inside of another one
			outer := overrides[r.IntN(len(overrides))].Prefix
			addr, bits = within(r, outer), max(bits, outer.Bits())
			if addr.Is4() {
				bits = min(bits, 24)
			}
		}
		p := netip.PrefixFrom(addr, bits).Masked()
		if !seen[p] {
			seen[p] = true
			overrides = append(overrides, Override{
				Prefix: p, Cell: regions.CellID(fmt.Sprintf("cell-%d", len(overrides))),
				Location: regions.Location{Lat: int32(len(overrides)) + 1},
			})
		}
	}
	m, err := embedded(t).WithOverrides(overrides)
	if err != nil {
		t.Fatal(err)
	}
	near := func(random func(*rand.Rand) netip.Addr, is4 bool) func(*rand.Rand) netip.Addr {
		return func(r *rand.Rand) netip.Addr {
			if o := overrides[r.IntN(len(overrides))]; o.Prefix.Addr().Is4() == is4 && r.IntN(2) == 0 {
				return within(r, o.Prefix)
			}
			return random(r)
		}
	}
	checkScopes(t, m, r, near(random4, true))
	checkScopes(t, m, r, near(random6, false))
	checkLongest(t, m, r, overrides)
}

// checkLongest checks that the longest override that holds an address wins.
func checkLongest(t *testing.T, m *Map, r *rand.Rand, overrides []Override) {
	t.Helper()
	for range 2000 {
		addr := within(r, overrides[r.IntN(len(overrides))].Prefix)
		var best Override
		for _, o := range overrides {
			if o.Prefix.Contains(regions.Unit(addr).Addr()) && (!best.Prefix.IsValid() || o.Prefix.Bits() > best.Prefix.Bits()) {
				best = o
			}
		}
		if got := m.Locate(addr).Cell; got != best.Cell {
			t.Fatalf("%s is in %s, want %s by override %s", addr, got, best.Cell, best.Prefix)
		}
	}
}

// The library's own lookup of a unit's first address is the other way to the
// same answer.
func TestLocateAgreesWithTheLibrary(t *testing.T) {
	data, err := inflate(countryDB)
	if err != nil {
		t.Fatal(err)
	}
	db, err := maxminddb.OpenBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	m, r := embedded(t), rand.New(rand.NewPCG(5, 6))
	known := map[regions.CellID]bool{}
	for _, c := range m.Cells() {
		known[c.ID] = true
	}
	for i := range draws {
		addr := random4(r)
		if i%2 == 0 {
			addr = random6(r)
		}
		var rec record
		if err := db.Lookup(regions.Unit(addr).Addr()).Decode(&rec); err != nil {
			t.Fatal(err)
		}
		want := regions.CellID(rec.Code)
		if !known[want] {
			want = regions.UnknownCell
		}
		if got := m.Locate(addr).Cell; got != want {
			t.Fatalf("%s is in %s, the library says %s", addr, got, want)
		}
	}
}

func TestLocateDoesNotAllocate(t *testing.T) {
	m := embedded(t)
	v4, v6 := netip.MustParseAddr("81.2.69.160"), netip.MustParseAddr("2a00:1450::1")
	if n := testing.AllocsPerRun(100, func() { m.Locate(v4); m.Locate(v6) }); n != 0 {
		t.Errorf("two lookups allocate %.0f times", n)
	}
}

func BenchmarkLocate(b *testing.B) {
	m, r := embedded(b), rand.New(rand.NewPCG(7, 8))
	addrs := make([]netip.Addr, 1<<12)
	for i := range addrs {
		addrs[i] = random4(r)
		if i%2 == 0 {
			addrs[i] = random6(r)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		m.Locate(addrs[i%len(addrs)])
		i++
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		data, err := inflate(countryDB)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Open(data); err != nil {
			b.Fatal(err)
		}
	}
}
