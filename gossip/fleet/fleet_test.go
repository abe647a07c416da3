package fleet_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
)

var now = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

const year = 365 * 24 * time.Hour

func authority(t *testing.T) *fleet.Authority {
	t.Helper()
	a, err := fleet.NewAuthority("test fleet", now, 10*year)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func endpoint(raw string, addrs ...string) regions.Endpoint {
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	e, err := regions.ParseEndpoint(raw, list...)
	if err != nil {
		panic(err)
	}
	return e
}

func request() fleet.Request {
	return fleet.Request{
		Role: fleet.RoleRegion, Name: "eu-west", Lifetime: year,
		Grant: fleet.Grant{
			Endpoints: []regions.Endpoint{
				endpoint("https://eu-west.example.com", "192.0.2.10", "2001:db8::10"),
				endpoint("http://198.51.100.7:8080"),
			},
			Prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
			MaxSlots: 100,
		},
	}
}

func issue(t *testing.T, a *fleet.Authority, r fleet.Request) *fleet.Identity {
	t.Helper()
	id, err := a.Issue(r, now)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIssueAndVerify(t *testing.T) {
	a := authority(t)
	id := issue(t, a, request())
	c, err := fleet.NewRoots(a).Verify(id.Cert.DER, now)
	if err != nil {
		t.Fatal(err)
	}
	if c.Role != fleet.RoleRegion || c.Name != "eu-west" || c.KeyID != id.Cert.KeyID || !c.NotAfter.Equal(now.Add(year)) {
		t.Errorf("certificate %+v", c)
	}
	if len(c.Grant.Endpoints) != 2 || c.Grant.MaxSlots != 100 || len(c.Grant.Prefixes) != 1 || len(c.Grant.Endpoints[0].Addrs) != 2 {
		t.Errorf("grant %+v", c.Grant)
	}
	if len(c.DER) > 700 {
		t.Errorf("the certificate has %d bytes; it travels in every push/pull", len(c.DER))
	}
	message := []byte("hello")
	sig := id.Sign(fleet.EnvelopeDomain, message)
	if err := c.Verify(fleet.EnvelopeDomain, message, sig, now); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another message":  c.Verify(fleet.EnvelopeDomain, []byte("hellO"), sig, now),
		"another domain":   c.Verify("rhumb probe v1", message, sig, now),
		"moved boundary":   c.Verify("rhumb envelope v", append([]byte("1\x00"), message...), sig, now),
		"tampered":         c.Verify(fleet.EnvelopeDomain, message, append([]byte{sig[0] ^ 1}, sig[1:]...), now),
		"short":            c.Verify(fleet.EnvelopeDomain, message, sig[:63], now),
		"expired since":    c.Verify(fleet.EnvelopeDomain, message, sig, now.Add(year+time.Second)),
		"by somebody else": issue(t, a, request()).Cert.Verify(fleet.EnvelopeDomain, message, sig, now),
	} {
		if !errors.Is(err, fleet.ErrRefused) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	a := authority(t)
	id := issue(t, a, request())
	other := issue(t, authority(t), request())
	tampered := bytes.Replace(id.Cert.DER, []byte("rhumb://region/eu-west"), []byte("rhumb://region/us-west"), 1)
	authorityPEM, _, err := a.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		der  []byte
		at   time.Time
		want string
	}{
		"other fleet":   {other.Cert.DER, now, "not of this fleet"},
		"tampered":      {tampered, now, "not of this fleet"},
		"expired":       {id.Cert.DER, now.Add(year + time.Minute), "expired"},
		"not yet":       {id.Cert.DER, now.Add(-2 * time.Hour), "clock"},
		"garbage":       {[]byte("x"), now, "not a certificate"},
		"the fleet's":   {pemBytes(t, authorityPEM), now, "certificate of a fleet"},
		"self-signed":   {selfSigned(t, "rhumb://region/eu-west", true), now, "no extension"},
		"wrong role":    {selfSigned(t, "rhumb://admin/eu-west", true), now, "role"},
		"wrong scheme":  {selfSigned(t, "https://region/eu-west", true), now, "want one like"},
		"odd name":      {selfSigned(t, "rhumb://region/EU", true), now, "DNS label"},
		"RSA":           {selfSigned(t, "rhumb://region/eu-west", false), now, "ed25519"},
		"no name at al": {selfSigned(t, "", true), now, "0 URI names"},
	} {
		_, err := fleet.NewRoots(a).Verify(c.der, c.at)
		if !errors.Is(err, fleet.ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

// selfSigned is what a stranger can make.
func selfSigned(t *testing.T, name string, ed bool) []byte {
	t.Helper()
	x := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	if name != "" {
		u, err := url.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		x.URIs = []*url.URL{u}
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, x, x, pub, priv)
	if !ed {
		key, keyErr := rsa.GenerateKey(rand.Reader, 2048)
		if keyErr != nil {
			t.Fatal(keyErr)
		}
		der, err = x509.CreateCertificate(rand.Reader, x, x, &key.PublicKey, key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestGrant(t *testing.T) {
	grant := issue(t, authority(t), request()).Cert.Grant
	for _, c := range []struct {
		e    regions.Endpoint
		want bool
	}{
		{endpoint("https://eu-west.example.com", "192.0.2.10"), true},
		{endpoint("https://eu-west.example.com", "2001:db8::10", "203.0.113.77"), true},
		{endpoint("https://eu-west.example.com"), true},
		{endpoint("http://198.51.100.7:8080"), true},
		{endpoint("https://eu-west.example.com", "192.0.2.11"), false},
		{endpoint("https://eu-west.example.com", "198.51.100.7"), false}, // another endpoint's
		{endpoint("http://eu-west.example.com", "192.0.2.10"), false},
		{endpoint("https://eu-west.example.com:8443", "192.0.2.10"), false},
		{endpoint("https://us-east.example.com", "192.0.2.10"), false},
		{endpoint("http://198.51.100.7:8080", "192.0.2.1"), false},
	} {
		if err := grant.AllowsEndpoint(c.e); (err == nil) != c.want {
			t.Errorf("%s %v: %v", c.e.URL(), c.e.Addrs, err)
		}
	}
	s := &regions.Status{Models: []regions.ModelStatus{{Name: "llama", Slots: regions.Slots(100)}}}
	if err := grant.AllowsStatus(s); err != nil {
		t.Error(err)
	}
	s.Models[0].Slots++
	if err := grant.AllowsStatus(s); !errors.Is(err, fleet.ErrRefused) {
		t.Errorf("more slots than allowed: %v", err)
	}
}

func TestIssueRefuses(t *testing.T) {
	a := authority(t)
	for name, c := range map[string]struct {
		change func(*fleet.Request)
		want   string
	}{
		"role":            {func(r *fleet.Request) { r.Role = "root" }, "want region, director or operator"},
		"name":            {func(r *fleet.Request) { r.Name = "EU" }, "DNS label"},
		"no endpoint":     {func(r *fleet.Request) { r.Grant.Endpoints = nil }, "at least one endpoint"},
		"too long":        {func(r *fleet.Request) { r.Lifetime = 11 * year }, "expires at"},
		"negative":        {func(r *fleet.Request) { r.Lifetime = -1 }, "below zero"},
		"director":        {func(r *fleet.Request) { r.Role = fleet.RoleDirector }, "are for regions"},
		"no address":      {func(r *fleet.Request) { r.Grant.Endpoints[0].Addrs, r.Grant.Prefixes = nil, nil }, "needs addresses"},
		"dirty prefix":    {func(r *fleet.Request) { r.Grant.Prefixes[0] = netip.MustParsePrefix("203.0.113.1/24") }, "bits beyond"},
		"negative slots":  {func(r *fleet.Request) { r.Grant.MaxSlots = -1 }, "slots"},
		"broken endpoint": {func(r *fleet.Request) { r.Grant.Endpoints[1].Scheme = "ftp" }, "http or https"},
		"invalid address": {func(r *fleet.Request) { r.Grant.Endpoints[0].Addrs[0] = netip.Addr{} }, "invalid"},
	} {
		r := request()
		c.change(&r)
		if _, err := a.Issue(r, now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
	if _, err := fleet.NewAuthority("", now, year); err == nil {
		t.Error("a fleet without a name")
	}
	if _, err := fleet.NewAuthority("x", now, 0); err == nil {
		t.Error("a fleet without a lifetime")
	}
}

func TestOwns(t *testing.T) {
	c := issue(t, authority(t), request()).Cert
	for name, want := range map[string]bool{
		"eu-west": true, "eu-west/agent-1": true, "eu-west/": true,
		"eu-west-2": false, "eu-west-2/agent": false, "eu": false, "": false, "us-east/eu-west": false,
	} {
		if c.Owns(name) != want {
			t.Errorf("eu-west owns %q: %v", name, !want)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	a := authority(t)
	if err := fleet.Save(a, path("fleet.crt"), path("fleet.key")); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Save(issue(t, a, request()), path("eu.crt"), path("eu.key")); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"fleet.crt", "fleet.key", "eu.crt", "eu.key"} {
		if st, err := os.Stat(path(f)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, error %v", f, st.Mode(), err)
		}
	}
	if err := fleet.Save(a, path("fleet.crt"), path("new.key")); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("overwriting: %v", err)
	}
	if _, err := os.Stat(path("new.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a pair was left behind: %v", err)
	}

	again, err := fleet.LoadAuthority(path("fleet.crt"), path("fleet.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := fleet.LoadRoots(path("fleet.crt"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := fleet.LoadIdentity(path("eu.crt"), path("eu.key"), roots, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Cert.Verify(fleet.EnvelopeDomain, []byte("x"), id.Sign(fleet.EnvelopeDomain, []byte("x")), now); err != nil {
		t.Error(err)
	}
	if _, err := roots.Verify(issue(t, again, request()).Cert.DER, now); err != nil {
		t.Errorf("issued after a reload: %v", err)
	}

	for name, err := range map[string]error{
		"key of another":      second(fleet.LoadIdentity(path("eu.crt"), path("fleet.key"), roots, now)),
		"expired":             second(fleet.LoadIdentity(path("eu.crt"), path("eu.key"), roots, now.Add(2*year))),
		"other fleet":         second(fleet.LoadIdentity(path("eu.crt"), path("eu.key"), fleet.NewRoots(authority(t)), now)),
		"missing":             second(fleet.LoadIdentity(path("no.crt"), path("eu.key"), roots, now)),
		"a key as roots":      second(fleet.LoadRoots(path("fleet.key"))),
		"a region as roots":   second(fleet.LoadRoots(path("eu.crt"))),
		"a region as a fleet": second(fleet.LoadAuthority(path("eu.crt"), path("eu.key"))),
		"nothing as roots":    second(fleet.ParseRoots(nil)),
		"swapped":             second(fleet.LoadAuthority(path("fleet.key"), path("fleet.crt"))),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestTwoRoots is the replacement of a fleet key: members trust both for a while.
func TestTwoRoots(t *testing.T) {
	before, after := authority(t), authority(t)
	a, _, err := before.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := after.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	roots, err := fleet.ParseRoots(append(a, b...))
	if err != nil {
		t.Fatal(err)
	}
	for _, fleetAuthority := range []*fleet.Authority{before, after} {
		if _, err := roots.Verify(issue(t, fleetAuthority, request()).Cert.DER, now); err != nil {
			t.Error(err)
		}
	}
}
