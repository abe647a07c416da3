package geo

import (
	"slices"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
)

func TestCentroidsAreWherePeopleLive(t *testing.T) {
	cells, err := centroids()
	if err != nil {
		t.Fatal(err)
	}
	if cells[unknown].ID != regions.UnknownCell || cells[unknown].Known {
		t.Fatalf("the first cell is %+v, want the unknown one", cells[unknown])
	}
	for _, c := range []struct {
		id       regions.CellID
		lat, lon int32 // whole degrees, give or take two
	}{
		{"US", 37, -93}, {"CA", 47, -88}, {"RU", 56, 53}, {"JP", 36, 137}, {"AU", -33, 146},
		{"NZ", -39, 175}, {"BR", -18, -45}, {"FR", 47, 3}, {"FJ", -18, 178},
	} {
		i := slices.IndexFunc(cells, func(have regions.Cell) bool { return have.ID == c.id })
		if i < 0 {
			t.Errorf("%s has no centroid", c.id)
			continue
		}
		l := cells[i].Location
		if dLat, dLon := l.Lat-c.lat*1e6, l.Lon-c.lon*1e6; max(dLat, -dLat) > 2e6 || max(dLon, -dLon) > 2e6 {
			t.Errorf("%s is at %s, want about %d, %d", c.id, degrees(l), c.lat, c.lon)
		}
	}
}

func TestCentroidsThatAreRefused(t *testing.T) {
	const head = "code,lat_microdeg,lon_microdeg,population\n"
	for name, rows := range map[string]string{
		"nothing":          "",
		"a field short":    head + "DE,51000000,10000000\n",
		"not a number":     head + "DE,51.0,10000000,1\n",
		"not a code":       head + "DEU,51000000,10000000,1\n",
		"off the globe":    head + "DE,91000000,10000000,1\n",
		"nobody and fewer": head + "DE,51000000,10000000,-1\n",
	} {
		if _, err := parseCentroids([]byte(rows)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
