package geo

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/oschwald/geoip2-golang/v2"

	"github.com/rhumb-lb/rhumb/regions"
)

// flat and nested are the two forms of a record.
func flat(code string) mmdbtype.Map { return mmdbtype.Map{"country_code": mmdbtype.String(code)} }

func nested(code string) mmdbtype.Map {
	return mmdbtype.Map{
		"country":            mmdbtype.Map{"iso_code": mmdbtype.String(code)},
		"registered_country": mmdbtype.Map{"iso_code": mmdbtype.String("AU")},
	}
}

var builtAt = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

type entry struct {
	prefix string
	record mmdbtype.Map
}

// makeDB writes a database with the entries in order, a later one over an
// earlier one.
func makeDB(tb testing.TB, opts mmdbwriter.Options, entries ...entry) []byte {
	tb.Helper()
	opts.BuildEpoch, opts.IncludeReservedNetworks = builtAt.Unix(), true
	tree, err := mmdbwriter.New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		_, network, err := net.ParseCIDR(e.prefix)
		if err != nil {
			tb.Fatal(err)
		}
		if err := tree.Insert(network, e.record); err != nil {
			tb.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := tree.WriteTo(&b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

var (
	flatType    = mmdbwriter.Options{DatabaseType: "country ipvAll", RecordSize: 24}
	countryType = mmdbwriter.Options{
		DatabaseType: "GeoLite2-Country", RecordSize: 28,
		Description: map[string]string{"en": "test"}, Languages: []string{"en"},
	}
)

func smallDB(tb testing.TB, opts mmdbwriter.Options, record func(string) mmdbtype.Map) []byte {
	tb.Helper()
	return makeDB(tb, opts,
		entry{"11.0.0.0/8", record("US")},
		entry{"11.2.0.0/16", record("CA")},
		entry{"11.2.3.128/25", record("MX")},
		entry{"11.2.4.0/25", record("MX")},
		entry{"12.0.0.0/9", record("us")},
		entry{"13.0.0.0/8", record("EU")},
		entry{"2a00::/16", record("DE")},
		entry{"2a00:1::/32", record("FR")},
		entry{"2a00:2:0:8000::/49", record("FR")},
		entry{"2a00:3::/64", record("FR")},
	)
}

type place struct {
	addr  string
	cell  regions.CellID
	scope string
}

func checkPlaces(t *testing.T, m *Map, places []place) {
	t.Helper()
	for _, p := range places {
		got := m.Locate(netip.MustParseAddr(p.addr))
		if got.Cell != p.cell || got.Scope.String() != p.scope {
			t.Errorf("%s is in %s with scope %s, want %s with %s", p.addr, got.Cell, got.Scope, p.cell, p.scope)
		}
	}
}

func TestOpenReadsBothForms(t *testing.T) {
	aliased := countryType
	bare := countryType
	bare.DisableIPv4Aliasing = true
	wide := flatType
	wide.RecordSize = 32
	for _, c := range []struct {
		name   string
		opts   mmdbwriter.Options
		record func(string) mmdbtype.Map
	}{
		{"flat", flatType, flat}, {"flat, 32 bits", wide, flat},
		{"MaxMind", aliased, nested}, {"MaxMind without aliases", bare, nested},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := Open(smallDB(t, c.opts, c.record))
			if err != nil {
				t.Fatal(err)
			}
			if m.Kind() != c.opts.DatabaseType || !m.Built().Equal(builtAt) {
				t.Errorf("kind %q, built %v", m.Kind(), m.Built())
			}
			checkPlaces(t, m, []place{
				{"11.1.0.1", "US", "11.0.0.0/15"},
				{"11.2.0.1", "CA", "11.2.0.0/22"},
				{"11.2.3.200", "CA", "11.2.0.0/22"}, // by the first address of its unit
				{"11.2.4.200", "MX", "11.2.4.0/24"}, // by the first address of its unit
				{"11.2.128.1", "CA", "11.2.128.0/17"},
				{"12.1.2.3", "US", "12.0.0.0/9"}, // lower case in the file
				{"12.200.0.1", "unknown", "12.128.0.0/9"},
				{"13.0.0.1", "unknown", "13.0.0.0/8"}, // a code that is no country's
				{"99.0.0.1", "unknown", "99.0.0.0/8"},
				{"2a00:0:1::1", "DE", "2a00::/32"},
				{"2a00:1:ffff::1", "FR", "2a00:1::/32"},
				{"2a00:2:0:9000::1", "DE", "2a00:2::/32"}, // by the first address of its unit
				{"2a00:3:0:1::1", "FR", "2a00:3::/48"},    // by the first address of its unit
				{"2a00:8000::1", "DE", "2a00:8000::/20"},
				{"3fff::1", "unknown", "3fff::/20"},
				{"2002:b00:1::1", "unknown", "2002::/20"}, // 6to4 of 11.0.0.1
			})
		})
	}
}

func TestScopesOfADatabaseWithAliases(t *testing.T) {
	m, err := Open(smallDB(t, countryType, nested))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(9, 10))
	embedded := []string{"::/96", "::ffff:0:0/96", "64:ff9b::/96", "2001::/32", "2002::/16", "::/0"}
	checkScopes(t, m, r, func(r *rand.Rand) netip.Addr {
		return within(r, netip.MustParsePrefix(embedded[r.IntN(len(embedded))]))
	})
}

func TestOpenAgreesWithGeoIP2(t *testing.T) {
	data := smallDB(t, countryType, nested)
	m, err := Open(data)
	if err != nil {
		t.Fatal(err)
	}
	db, err := geoip2.OpenBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"11.0.0.0", "11.2.3.0", "11.2.4.0", "2a00::", "2a00:1::"} {
		addr := netip.MustParseAddr(a)
		want, err := db.Country(addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Locate(addr).Cell; string(got) != want.Country.ISOCode {
			t.Errorf("%s is in %s, geoip2 says %s", a, got, want.Country.ISOCode)
		}
	}
}

func TestIPv4DatabaseLeavesIPv6Unknown(t *testing.T) {
	opts := flatType
	opts.IPVersion = 4
	m, err := Open(makeDB(t, opts, entry{"11.0.0.0/8", flat("US")}))
	if err != nil {
		t.Fatal(err)
	}
	checkPlaces(t, m, []place{{"11.1.1.1", "US", "11.0.0.0/8"}, {"2a00::1", "unknown", "2a00::/20"}})
}

func TestOneNetworkForEverything(t *testing.T) {
	opts := flatType
	opts.DisableIPv4Aliasing = true
	m, err := Open(makeDB(t, opts, entry{"::/0", flat("NZ")}))
	if err != nil {
		t.Fatal(err)
	}
	checkPlaces(t, m, []place{{"1.2.3.4", "NZ", "1.0.0.0/8"}, {"2a00::1", "NZ", "2a00::/20"}, {"::1", "NZ", "::/20"}})
}

func TestOpenRefusesWhatNamesNoCountry(t *testing.T) {
	asn := countryType
	asn.DatabaseType = "GeoLite2-ASN"
	number := mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(64500)}
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		{"another MaxMind type", "GeoLite2-ASN does not name countries", makeDB(t, asn, entry{"11.0.0.0/8", number})},
		{"no country in any record", "no record", makeDB(t, flatType, entry{"11.0.0.0/8", number})},
		{"no record", "no record", makeDB(t, flatType)},
		{"a code that is a number", "read network 11.0.0.0/8", makeDB(t, flatType, entry{"11.0.0.0/8", mmdbtype.Map{"country_code": mmdbtype.Uint32(1)}})},
		{"empty", "not a sound MaxMind DB", nil},
		{"text", "not a sound MaxMind DB", []byte("<html>try later</html>")},
	} {
		if _, err := Open(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
		}
	}
}

func TestLoadReadsTheFileOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "country.mmdb")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file gives %v", err)
	}
	if err := os.WriteFile(path, smallDB(t, flatType, flat), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("overwritten"), 0o600); err != nil {
		t.Fatal(err)
	}
	checkPlaces(t, m, []place{{"11.1.0.1", "US", "11.0.0.0/15"}})
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a broken file gives %v", err)
	}
}

// survive opens what may be corrupt: an error is fine, and so is a map that
// answers; a panic or a hang is not.
func survive(tb testing.TB, data []byte) {
	tb.Helper()
	m, err := Open(data)
	if err != nil {
		return
	}
	for _, a := range []string{"0.0.0.0", "11.2.3.4", "255.255.255.255", "::", "2a00:1::", "ffff:ffff:ffff:ffff::"} {
		addr := netip.MustParseAddr(a)
		checkClient(tb, addr, m.Locate(addr))
	}
}

func TestCorruptFilesAreSurvived(t *testing.T) {
	for _, db := range [][]byte{smallDB(t, flatType, flat), smallDB(t, countryType, nested)} {
		for n := 0; n < len(db); n += 7 {
			if _, err := Open(db[:n]); err == nil {
				t.Fatalf("%d of %d bytes were accepted", n, len(db))
			}
		}
		r := rand.New(rand.NewPCG(11, 12))
		for range 5000 {
			broken := slices.Clone(db)
			for range 1 + r.IntN(4) {
				broken[r.IntN(len(broken))] ^= 1 << r.IntN(8)
			}
			survive(t, broken)
		}
	}
}

// handmade is a database with a given tree, of 32-bit records, and one record
// behind it.
func handmade(nodes [][2]uint32) []byte {
	var b []byte
	for _, n := range nodes {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, n[0]), n[1])
	}
	b = append(b, make([]byte, 16)...)
	text := func(s string) { b = append(append(b, 2<<5|byte(len(s))), s...) }
	number := func(key string, n int) {
		text(key)
		b = binary.BigEndian.AppendUint16(append(b, 5<<5|2), uint16(n))
	}
	b = append(b, 7<<5|1)
	text("country_code")
	text("US")
	b = append(b, "\xab\xcd\xefMaxMind.com"...)
	b = append(b, 7<<5|7)
	number("binary_format_major_version", 2)
	number("binary_format_minor_version", 0)
	number("build_epoch", 1)
	number("ip_version", 6)
	number("node_count", len(nodes))
	number("record_size", 32)
	text("database_type")
	text("country")
	return b
}

func TestTreesThatNobodyCanWalkAreRefused(t *testing.T) {
	const n = 100
	data := uint32(n + 16)
	if _, err := Open(handmade([][2]uint32{{17, 17}})); err != nil {
		t.Fatalf("the plain one: %v", err)
	}
	ladder := make([][2]uint32, n) // 2^100 ways
	for i := range ladder {
		ladder[i] = [2]uint32{uint32(i + 1), uint32(i + 1)}
	}
	ladder[n-1] = [2]uint32{data, data}
	aliases := slices.Clone(ladder) // 2^99 ways, each to an alias of IPv4's root
	for i := range 96 {
		aliases[i][0] = uint32(i + 1)
	}
	aliases[96] = [2]uint32{data, data}
	loop := make([][2]uint32, n)
	for i := range loop {
		loop[i] = [2]uint32{uint32(i + 1), data}
	}
	for i := 96; i < n; i++ {
		loop[i] = [2]uint32{96, 96}
	}
	for name, nodes := range map[string][][2]uint32{
		"a ladder": ladder, "a ladder to aliases": aliases, "a loop in IPv4": loop,
		"a loop": {{0, 0}}, "a loop below": {{1, 17}, {1, 1}},
	} {
		if _, err := Open(handmade(nodes)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(smallDB(f, flatType, flat))
	f.Add(smallDB(f, countryType, nested))
	f.Add(handmade([][2]uint32{{17, 17}}))
	f.Fuzz(func(t *testing.T, data []byte) { survive(t, data) })
}

// testData names a folder with more databases to try, which are too large or not
// free to be kept here: MaxMind's own test databases below geoip/maxmind-test.
const testData = "RHUMB_TEST_DATA"

func TestMaxMindsTestDatabases(t *testing.T) {
	root := filepath.Join(os.Getenv(testData), "geoip", "maxmind-test")
	bad, err := filepath.Glob(filepath.Join(root, "bad-data", "*", "*.mmdb"))
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(testData) == "" || len(bad) == 0 {
		t.Skipf("%s does not name a folder with geoip/maxmind-test", testData)
	}
	for _, path := range bad {
		if _, err := Load(path); err == nil {
			t.Errorf("%s was accepted", path)
		}
	}
	for name, ok := range map[string]bool{
		"GeoIP2-City-Test.mmdb": true, "GeoLite2-City-Test.mmdb": true, "GeoLite2-Country-Test.mmdb": true,
		"GeoLite2-ASN-Test.mmdb": false, "GeoIP2-City-Test-Broken-Double-Format.mmdb": false,
		"GeoIP2-City-Test-Invalid-Node-Count.mmdb": false,
	} {
		m, err := Load(filepath.Join(root, name))
		if ok != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if m != nil {
			if got := m.Locate(netip.MustParseAddr("2001:218::1")).Cell; got != "JP" {
				t.Errorf("%s: 2001:218::1 is in %s, want JP", name, got)
			}
		}
	}
}
