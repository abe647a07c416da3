package main

import (
	"encoding/binary"
	"strings"
	"testing"
)

// place writes one record as the package does, with coordinates relative to the
// one before.
func place(country, feature string, population, dLon, dLat int64) []byte {
	var msg []byte
	number := func(field int, v uint64) {
		msg = binary.AppendUvarint(binary.AppendUvarint(msg, uint64(field)<<3), v)
	}
	text := func(field int, s string) {
		msg = binary.AppendUvarint(binary.AppendUvarint(msg, uint64(field)<<3|2), uint64(len(s)))
		msg = append(msg, s...)
	}
	zigzag := func(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }
	number(1, 1)
	text(2, "name")
	text(fieldCountry, country)
	text(fieldFeature, feature)
	if population > 0 {
		number(fieldPopulation, uint64(population))
	}
	number(fieldLon, zigzag(dLon))
	number(fieldLat, zigzag(dLat))
	return append(binary.AppendUvarint(nil, uint64(len(msg))), msg...)
}

func TestCentroidsWeighPeople(t *testing.T) {
	var raw []byte
	raw = append(raw, place("DE", "PPL", 300, 1_000_000, 5_000_000)...) // 10 E 50 N
	raw = append(raw, place("DE", "PPLX", 900, 500_000, 0)...)          // counted elsewhere
	raw = append(raw, place("DE", "PPL", 100, -100_000, 0)...)          // 14 E 50 N
	raw = append(raw, place("AQ", "STN", 0, 0, -13_000_000)...)         // nobody lives there
	raw = append(raw, place("FJ", "PPL", 10, 16_400_000, 6_000_000)...) // 178 E 20 S
	raw = append(raw, place("FJ", "PPL", 10, -35_600_000, 0)...)        // 178 W 20 S
	got, err := centroids(raw)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(got)), "\n")[2:]
	want := []string{"AQ,-80000000,14000000,0", "DE,50013000,11000000,400", "FJ,-20011000,180000000,20"}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func FuzzCentroids(f *testing.F) {
	f.Add(place("DE", "PPL", 300, 1_000_000, 5_000_000))
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = centroids(raw) })
}
