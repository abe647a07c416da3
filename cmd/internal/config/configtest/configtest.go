// Package configtest makes, in a folder of a test, the files that a configuration
// names: a fleet and its certificates, servers' certificates, keys.
package configtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
)

// Day is the unit in which certificates live.
const Day = 24 * time.Hour

// Files are those of one fleet, in one folder.
type Files struct {
	Dir string
	// Now is when certificates are made, unless it is said otherwise.
	Now time.Time

	tb    testing.TB
	fleet *fleet.Authority
}

// New makes a folder with fleet.pem, fleet.key, gossip.key and pepper.
func New(tb testing.TB, now time.Time) *Files {
	tb.Helper()
	a, err := fleet.NewAuthority("test", now.Add(-1000*Day), 3000*Day)
	if err != nil {
		tb.Fatal(err)
	}
	f := &Files{Dir: tb.TempDir(), Now: now, tb: tb, fleet: a}
	f.save(a, "fleet")
	for _, name := range []string{"gossip.key", "pepper"} {
		f.Write(name, Secret(name))
	}
	return f
}

// Secret is 32 bytes as a line of base64, always the same for a name.
func Secret(name string) string {
	key := make([]byte, 32)
	copy(key, name)
	return base64.StdEncoding.EncodeToString(key) + "\n"
}

// Path is where a file is.
func (f *Files) Path(name string) string { return filepath.Join(f.Dir, name) }

// Write writes a file, over what was there, and gives its path.
func (f *Files) Write(name, text string) string {
	f.tb.Helper()
	path := f.Path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.tb.Fatal(err)
	}
	return path
}

// Remove removes a file.
func (f *Files) Remove(name string) {
	f.tb.Helper()
	if err := os.Remove(f.Path(name)); err != nil {
		f.tb.Fatal(err)
	}
}

// Region makes FILE.pem and FILE.key for a region that may publish the endpoints,
// at their addresses. The certificate is made at a time and lives for so long.
func (f *Files) Region(file, name string, at time.Time, lifetime time.Duration, endpoints ...regions.Endpoint) {
	f.tb.Helper()
	f.member(file, fleet.Request{Role: fleet.RoleRegion, Name: name, Lifetime: lifetime, Grant: fleet.Grant{Endpoints: endpoints}}, at)
}

// Director makes FILE.pem and FILE.key for a director.
func (f *Files) Director(file, name string) {
	f.tb.Helper()
	f.member(file, fleet.Request{Role: fleet.RoleDirector, Name: name, Lifetime: 365 * Day}, f.Now)
}

func (f *Files) member(file string, r fleet.Request, at time.Time) {
	f.tb.Helper()
	id, err := f.fleet.Issue(r, at)
	if err != nil {
		f.tb.Fatal(err)
	}
	f.save(id, file)
}

func (f *Files) save(p fleet.PEMs, name string) {
	f.tb.Helper()
	cert, key, err := p.MarshalPEM()
	if err != nil {
		f.tb.Fatal(err)
	}
	f.Write(name+".pem", string(cert))
	f.Write(name+".key", string(key))
}

// Server makes FILE.pem and FILE.key: a server's self-signed certificate for
// 127.0.0.1 and a name, with a serial number by which a test knows it.
func (f *Files) Server(file string, serial int64, from, until time.Time) {
	f.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.tb.Fatal(err)
	}
	x := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: from, NotAfter: until,
		DNSNames: []string{"gateway.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &key.PublicKey, key)
	if err != nil {
		f.tb.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.tb.Fatal(err)
	}
	f.Write(file+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	f.Write(file+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

// Endpoint is an endpoint at addresses.
func Endpoint(tb testing.TB, url string, addrs ...string) regions.Endpoint {
	tb.Helper()
	var parsed []netip.Addr
	for _, a := range addrs {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	e, err := regions.ParseEndpoint(url, parsed...)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}
