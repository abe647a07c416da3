package latency

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
)

// haversine is the independent answer: floating point, and another formula.
func haversine(a, b regions.Location) float64 {
	rad := func(v int32) float64 { return float64(v) / 1e6 * math.Pi / 180 }
	sLat, sLon := math.Sin((rad(b.Lat)-rad(a.Lat))/2), math.Sin((rad(b.Lon)-rad(a.Lon))/2)
	h := sLat*sLat + math.Cos(rad(a.Lat))*math.Cos(rad(b.Lat))*sLon*sLon
	return 2 * 6_371_009 * math.Atan2(math.Sqrt(h), math.Sqrt(max(0, 1-h)))
}

var location = rapid.Custom(func(t *rapid.T) regions.Location {
	return regions.Location{
		Lat: rapid.Int32Range(-90_000_000, 90_000_000).Draw(t, "lat"),
		Lon: rapid.Int32Range(-180_000_000, 180_000_000).Draw(t, "lon"),
	}
})

func at(lat, lon float64) regions.Location {
	return regions.Location{Lat: int32(math.Round(lat * 1e6)), Lon: int32(math.Round(lon * 1e6))}
}

func TestDistanceOfKnownPlaces(t *testing.T) {
	halfway := int64(math.Round(math.Pi * 6_371_009))
	for _, c := range []struct {
		name string
		a, b regions.Location
		want int64
	}{
		{"itself", at(51.5, -0.12), at(51.5, -0.12), 0},
		{"pole to pole", at(90, 0), at(-90, 0), halfway},
		{"one pole, two longitudes", at(90, 12), at(90, -170), 0},
		{"both sides of the antimeridian are one", at(10, 180), at(10, -180), 0},
		{"across the antimeridian", at(0, 179.5), at(0, -179.5), 111_195},
		{"antipodes", at(33, 44), at(-33, -136), halfway},
		{"a quarter", at(0, 0), at(0, 90), halfway / 2},
		{"London to New York", at(51.5074, -0.1278), at(40.7128, -74.0060), 5_570_230},
		{"a microdegree north", at(48, 2), at(48.00001, 2), 1},
	} {
		if got := Distance(c.a, c.b); absInt(got-c.want) > max(1, c.want/100_000) {
			t.Errorf("%s: %d m, want %d", c.name, got, c.want)
		}
	}
}

func absInt(v int64) int64 { return max(v, -v) }

func TestDistanceIsTheHaversine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := location.Draw(t, "a"), location.Draw(t, "b")
		if got, want := Distance(a, b), haversine(a, b); math.Abs(float64(got)-want) > 5 {
			t.Fatalf("%v to %v: %d m, haversine says %.1f", a, b, got, want)
		}
	})
}

func TestNearDistanceIsTheHaversine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := location.Draw(t, "a")
		b := a
		b.Lat = max(-90_000_000, min(90_000_000, a.Lat+rapid.Int32Range(-2000, 2000).Draw(t, "dlat")))
		if got, want := Distance(a, b), haversine(a, b); math.Abs(float64(got)-want) > 1 {
			t.Fatalf("%v to %v: %d m, haversine says %.2f", a, b, got, want)
		}
	})
}

func TestDistanceIsAMetric(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := location.Draw(t, "a"), location.Draw(t, "b"), location.Draw(t, "c")
		if Distance(a, a) != 0 {
			t.Fatalf("%v is %d m from itself", a, Distance(a, a))
		}
		if ab, ba := Distance(a, b), Distance(b, a); ab != ba {
			t.Fatalf("%v to %v: %d m there, %d m back", a, b, ab, ba)
		}
		// Each of the three is rounded.
		if ac, detour := Distance(a, c), Distance(a, b)+Distance(b, c); ac > detour+4 {
			t.Fatalf("%v to %v is %d m, by way of %v only %d m", a, c, ac, b, detour)
		}
	})
}

func TestArctansAreArcTangents(t *testing.T) {
	gain := 1.0
	for i, got := range arctans {
		want := math.Atan(math.Ldexp(1, -i)) * 180 / math.Pi * 1e6 * unitsPerMicrodegree
		if math.Abs(float64(got)-want) > 0.51 {
			t.Errorf("step %d is %d units, want %.1f", i, got, want)
		}
		gain *= math.Cos(math.Atan(math.Ldexp(1, -i)))
	}
	if want := gain * (1 << 40); math.Abs(cordicStart-want) > 1 {
		t.Errorf("the start is %d, want %.1f", int64(cordicStart), want)
	}
	if want := 2 * math.Pi * 6_371_009 / 180 / 1e6 / unitsPerMicrodegree * (1 << metresShift); math.Abs(metresPerUnit-want) > 1 {
		t.Errorf("metres per unit are %d, want %.1f", int64(metresPerUnit), want)
	}
}

func TestRootIsTheFloor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(0, 1<<62).Draw(t, "n")
		r := uint64(root(n))
		if r*r > n || (r+1)*(r+1) <= n {
			t.Fatalf("the root of %d is not %d", n, r)
		}
	})
}

// The numbers are golden: a change here changes plans between versions that run
// side by side.
func TestEstimateIsTheFit(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b regions.Location
		want regions.Micros
	}{
		{"one place", at(50, 8), at(50, 8), 23_400},
		{"London to New York", at(51.5074, -0.1278), at(40.7128, -74.0060), 105_839},
		{"Frankfurt to Tokyo", at(50.11, 8.68), at(35.68, 139.69), 161_528},
		{"antipodes", at(0, 0), at(0, 180), 319_624},
	} {
		if got := Estimate(c.a, c.b); got != c.want {
			t.Errorf("%s: %d µs, want %d", c.name, got, c.want)
		}
	}
}

func TestNoEstimateBeatsLight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := location.Draw(t, "a"), location.Draw(t, "b")
		if got, floor := Estimate(a, b), Floor(Distance(a, b)); got < floor {
			t.Fatalf("%v to %v: %d µs, light takes %d", a, b, got, floor)
		}
	})
}

func TestNowhereIsTheMeanOfRandomPlaces(t *testing.T) {
	want := 23_400 + 14.8*math.Pi*6371.009/2
	if math.Abs(float64(Nowhere)-want) > 100 {
		t.Errorf("nowhere is %d µs, want about %.0f", Nowhere, want)
	}
}

func TestMatrixSaysWhatThePriorSays(t *testing.T) {
	cells := []regions.Cell{
		{ID: "DE", Location: at(51, 10), Known: true},
		{ID: "JP", Location: at(35, 137), Known: true},
		{ID: regions.UnknownCell},
	}
	places := []Place{{"eu-west", at(53, -6)}, {"ap-northeast", at(35.6, 139.7)}, {"us-east", at(39, -77)}}
	m := Estimates(cells, places)
	for _, c := range cells {
		for _, p := range places {
			rtt, confidence := m.RTT(c, p.ID, p.Location)
			wantRTT, wantConfidence := Prior{}.RTT(c, p.ID, p.Location)
			if rtt != wantRTT || confidence != wantConfidence {
				t.Errorf("%s to %s: %d at %d, want %d at %d", c.ID, p.ID, rtt, confidence, wantRTT, wantConfidence)
			}
		}
	}
	near, _ := m.RTT(cells[0], "eu-west", places[0].Location)
	far, _ := m.RTT(cells[0], "ap-northeast", places[1].Location)
	if near >= far {
		t.Errorf("from Germany Ireland is at %d µs and Japan at %d", near, far)
	}
}

func TestUnknownCellIsEquallyFarFromAll(t *testing.T) {
	unknown := regions.Cell{ID: regions.UnknownCell, Location: at(1, 1)}
	m := Estimates([]regions.Cell{unknown}, []Place{{"a", at(53, -6)}, {"b", at(-33, 151)}})
	for _, p := range []regions.ID{"a", "b", "c"} {
		if rtt, confidence := m.RTT(unknown, p, at(2, 2)); rtt != Nowhere || confidence != OfNothing {
			t.Errorf("region %s is at %d µs with confidence %d, want %d with %d", p, rtt, confidence, Nowhere, OfNothing)
		}
	}
}

func TestMatrixFallsBackToThePrior(t *testing.T) {
	cell := regions.Cell{ID: "DE", Location: at(51, 10), Known: true}
	m := Estimates([]regions.Cell{cell}, []Place{{"a", at(53, -6)}})
	stranger := regions.Cell{ID: "FR", Location: at(47, 2), Known: true}
	for _, c := range []struct {
		name   string
		cell   regions.Cell
		region regions.ID
		at     regions.Location
	}{
		{"a region that moved", cell, "a", at(40, -70)},
		{"a new region", cell, "b", at(40, -70)},
		{"a new cell", stranger, "a", at(53, -6)},
	} {
		got, confidence := m.RTT(c.cell, c.region, c.at)
		if want := Estimate(c.cell.Location, c.at); got != want || confidence != OfEstimate {
			t.Errorf("%s: %d µs at %d, want %d at %d", c.name, got, confidence, want, OfEstimate)
		}
	}
}

func BenchmarkEstimates(b *testing.B) {
	cells := make([]regions.Cell, 2500)
	for i := range cells {
		cells[i] = regions.Cell{ID: regions.CellID(rune('a' + i)), Location: at(float64(i%180-90), float64(i%360-180)), Known: true}
	}
	places := make([]Place, 100)
	for i := range places {
		places[i] = Place{regions.ID(rune('a' + i)), at(float64(i-50), float64(i*3-150))}
	}
	for b.Loop() {
		Estimates(cells, places)
	}
}
