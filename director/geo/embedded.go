package geo

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the country by address
	"fmt"
	"io"
	"sync"
)

//go:generate go run ./internal/gen

//go:embed data/country.mmdb.gz
var countryDB []byte

var readDefault = sync.OnceValues(func() (*Map, error) {
	data, err := inflate(countryDB)
	if err != nil {
		return nil, fmt.Errorf("unpack the embedded GeoIP database: %w", err)
	}
	m, err := Open(data)
	if err != nil {
		return nil, fmt.Errorf("read the embedded GeoIP database: %w", err)
	}
	return m, nil
})

// Default is the map that the binary carries. It is unpacked at the first call,
// which takes some tenths of a second, and shared from then on.
func Default() (*Map, error) { return readDefault() }

func inflate(packed []byte) ([]byte, error) {
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(zr)
}
