package geo

import (
	"bytes"
	_ "embed" // the centroids
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/rhumb-lb/rhumb/regions"
)

//go:embed data/centroids.csv
var centroidRows []byte

// unknown is the number of the unknown cell in every map.
const unknown = 0

// unknownPerMille is the unknown cell's weight as a share of all countries'
// people: the embedded database covers 99 % of IPv4's unicast space, so a
// hundredth of the clients may be in none.
const unknownPerMille = 10

var readCentroids = sync.OnceValues(func() ([]regions.Cell, error) { return parseCentroids(centroidRows) })

// centroids are the cells that every map has, the unknown one first. The slice
// is the caller's.
func centroids() ([]regions.Cell, error) {
	cells, err := readCentroids()
	return slices.Clone(cells), err
}

// parseCentroids reads rows of code, latitude and longitude in microdegrees, and
// population, under one line of headings.
func parseCentroids(rows []byte) ([]regions.Cell, error) {
	r := csv.NewReader(bytes.NewReader(rows))
	r.Comment, r.FieldsPerRecord = '#', 4
	records, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read the centroids: %w", err)
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("read the centroids: there are none")
	}
	cells := []regions.Cell{{ID: regions.UnknownCell}}
	for _, rec := range records[1:] {
		var lat, lon, people int64
		for i, into := range []*int64{&lat, &lon, &people} {
			if *into, err = strconv.ParseInt(rec[i+1], 10, 64); err != nil {
				return nil, fmt.Errorf("read the centroid of %q: %w", rec[0], err)
			}
		}
		if !isCountry(rec[0]) || max(lat, -lat) > 90_000_000 || max(lon, -lon) > 180_000_000 || people < 0 {
			return nil, fmt.Errorf("read the centroid of %q: %v is not a country on the globe", rec[0], rec)
		}
		cells = append(cells, regions.Cell{
			ID: regions.CellID(rec[0]), Known: true, Weight: people,
			Location: regions.Location{Lat: int32(lat), Lon: int32(lon)},
		})
		cells[unknown].Weight += people
	}
	cells[unknown].Weight = cells[unknown].Weight * unknownPerMille / 1000
	return cells, nil
}
