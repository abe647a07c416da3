package geo

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
)

var (
	berlin = regions.Location{Lat: 52_520_000, Lon: 13_405_000}
	osaka  = regions.Location{Lat: 34_690_000, Lon: 135_500_000}
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func small(tb testing.TB) *Map {
	tb.Helper()
	m, err := Open(smallDB(tb, flatType, flat))
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestOverridesCutWhatSurroundsThem(t *testing.T) {
	base := small(t)
	m, err := base.WithOverrides([]Override{
		{Prefix: prefix("11.64.0.0/16"), Cell: "office", Location: berlin, Weight: 5},
		{Prefix: prefix("11.64.7.0/24"), Country: "jp"},
		{Prefix: prefix("11.65.0.0/24"), Cell: "office", Location: berlin, Weight: 6},
		{Prefix: prefix("::ffff:11.66.0.0/112"), Location: osaka},
		{Prefix: prefix("11.128.0.0/10"), Country: "US"},
		{Prefix: prefix("2a00:4::/48"), Cell: regions.UnknownCell},
		{Prefix: prefix("2b00::/12"), Cell: "lab", Location: osaka},
	})
	if err != nil {
		t.Fatal(err)
	}
	checkPlaces(t, m, []place{
		{"11.64.0.1", "office", "11.64.0.0/22"},
		{"11.64.7.1", "JP", "11.64.7.0/24"},
		{"11.64.6.1", "office", "11.64.6.0/24"},
		{"11.65.0.1", "office", "11.65.0.0/24"},
		{"11.65.1.1", "US", "11.65.1.0/24"},
		{"11.66.9.9", "11.66.0.0/16", "11.66.0.0/16"},
		{"::ffff:11.66.9.9", "11.66.0.0/16", "11.66.0.0/16"},
		{"11.140.0.1", "US", "11.128.0.0/9"}, // the override says what the database does
		{"2a00:4::1", "unknown", "2a00:4::/48"},
		{"2a00:4:1::1", "DE", "2a00:4:1::/48"},
		{"2b00::1", "lab", "2b00::/20"},
	})
	cells := m.Cells()
	find := func(id regions.CellID) regions.Cell {
		i := slices.IndexFunc(cells, func(c regions.Cell) bool { return c.ID == id })
		if i < 0 {
			t.Fatalf("there is no cell %s", id)
		}
		return cells[i]
	}
	if got, want := find("office"), (regions.Cell{ID: "office", Location: berlin, Known: true, Weight: 11}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := find("11.66.0.0/16"); got.Location != osaka || !got.Known {
		t.Errorf("got %+v", got)
	}
	if len(cells) != len(base.Cells())+3 || !slices.IsSortedFunc(cells, func(a, b regions.Cell) int { return strings.Compare(string(a.ID), string(b.ID)) }) {
		t.Errorf("%d cells, from %d; want three more, in order", len(cells), len(base.Cells()))
	}
	if m.Kind() != base.Kind() || !m.Built().Equal(base.Built()) {
		t.Errorf("kind %q, built %v", m.Kind(), m.Built())
	}
}

func TestOverridesReplaceEarlierOnes(t *testing.T) {
	base := small(t)
	first, err := base.WithOverrides([]Override{{Prefix: prefix("11.64.0.0/16"), Cell: "a", Location: berlin}})
	if err != nil {
		t.Fatal(err)
	}
	second, err := first.WithOverrides([]Override{{Prefix: prefix("12.0.0.0/16"), Cell: "b", Location: osaka}})
	if err != nil {
		t.Fatal(err)
	}
	checkPlaces(t, base, []place{{"11.64.0.1", "US", "11.64.0.0/10"}, {"12.0.0.1", "US", "12.0.0.0/9"}})
	checkPlaces(t, first, []place{{"11.64.0.1", "a", "11.64.0.0/16"}})
	checkPlaces(t, second, []place{{"11.64.0.1", "US", "11.64.0.0/10"}, {"12.0.0.1", "b", "12.0.0.0/16"}})
}

func TestOverrideOfEverything(t *testing.T) {
	m, err := small(t).WithOverrides([]Override{
		{Prefix: prefix("0.0.0.0/0"), Cell: "earth", Location: berlin},
		{Prefix: prefix("255.255.255.0/24"), Country: "SE"},
		{Prefix: prefix("::/0"), Country: "SE"},
	})
	if err != nil {
		t.Fatal(err)
	}
	checkPlaces(t, m, []place{
		{"0.0.0.0", "earth", "0.0.0.0/8"}, {"11.2.3.4", "earth", "11.0.0.0/8"},
		{"255.255.254.0", "earth", "255.255.254.0/24"}, {"255.255.255.255", "SE", "255.255.255.0/24"},
		{"2a00::1", "SE", "2a00::/20"},
	})
}

func TestOverridesThatAreRefused(t *testing.T) {
	good := Override{Prefix: prefix("192.0.2.0/24"), Cell: "office", Location: berlin}
	with := func(change func(*Override)) []Override {
		o := good
		change(&o)
		return []Override{o}
	}
	for _, c := range []struct {
		name, want string
		overrides  []Override
	}{
		{"no prefix", "missing", with(func(o *Override) { o.Prefix = netip.Prefix{} })},
		{"host bits", "write 192.0.2.0/24", with(func(o *Override) { o.Prefix = netip.PrefixFrom(netip.MustParseAddr("192.0.2.9"), 24) })},
		{"longer than a unit", "longer than /24", with(func(o *Override) { o.Prefix = prefix("192.0.2.128/25") })},
		{"longer than a unit of IPv6", "longer than /48", with(func(o *Override) { o.Prefix = prefix("2001:db8::/49") })},
		{"longer than a unit in IPv6 form", "longer than /24", with(func(o *Override) { o.Prefix = prefix("::ffff:192.0.2.128/121") })},
		{"twice", "twice", []Override{good, {Prefix: good.Prefix, Country: "DE"}}},
		{"twice in two forms", "twice", []Override{good, {Prefix: prefix("::ffff:192.0.2.0/120"), Country: "DE"}}},
		{"no location", "location is missing", with(func(o *Override) { o.Location = regions.Location{} })},
		{"off the globe", "not on the globe", with(func(o *Override) { o.Location.Lat = 91_000_000 })},
		{"off the globe, westward", "not on the globe", with(func(o *Override) { o.Location.Lon = -181_000_000 })},
		{"a country and a cell", "comes without", with(func(o *Override) { o.Country = "DE" })},
		{"no such country", `"ZZ" has no centroid`, []Override{{Prefix: good.Prefix, Country: "ZZ"}}},
		{"a cell as a country", "no centroid", []Override{good, {Prefix: prefix("198.51.100.0/24"), Country: "office"}}},
		{"a cell like a country", "two letters", with(func(o *Override) { o.Cell = "de" })},
		{"a cell with a space", "printable", with(func(o *Override) { o.Cell = "the office" })},
		{"a long cell", "at most 64", with(func(o *Override) { o.Cell = regions.CellID(strings.Repeat("x", 65)) })},
		{"a cell in two places", "already at 52.520000, 13.405000", []Override{good, {Prefix: prefix("198.51.100.0/24"), Cell: "office", Location: osaka}}},
		{"a place for the unknown", "has no place", with(func(o *Override) { o.Cell = regions.UnknownCell })},
		{"a weight below 0", "below 0", with(func(o *Override) { o.Weight = -1 })},
	} {
		_, err := small(t).WithOverrides(c.overrides)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "GeoIP override") {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
		}
	}
}
