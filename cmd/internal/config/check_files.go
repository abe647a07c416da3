package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/keysfile"
	"github.com/rhumb-lb/rhumb/director/geo"
	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// contents checks what is in the files, as the daemon will read them. Files that
// are not there have been reported.
func (c *checker) contents() {
	c.identity()
	c.secret("gossip.key_file", c.cfg.Gossip.KeyFile, gossip.KeySize, "rhumb keygen gossip")
	if path := "admin.token_file"; c.readable(path, c.cfg.Admin.TokenFile) {
		if _, err := readLine(c.cfg.Admin.TokenFile); err != nil {
			c.fail(path, err.Error(), "write the token as the file's only line")
		}
	}
	c.pair("admin.tls", c.cfg.Admin.TLS)
	if d := c.cfg.Director; d != nil {
		c.pair("director.redirect.tls", d.Redirect.TLS)
		if path := "director.geo.file"; c.readable(path, d.Geo.File) {
			if _, err := geo.Load(d.Geo.File); err != nil {
				c.fail(path, err.Error(), "name a City or Country database in MaxMind's format, or remove the line to use the built-in one")
			}
		}
	}
	if a := c.cfg.Agent; a != nil {
		c.pair("agent.tls", a.TLS)
		c.keys(a.Auth)
		c.podFiles(a)
	}
}

// readable reports whether a setting names a file that can be read.
func (c *checker) readable(path, file string) bool { return file != "" && !c.unreadable[path] }

// secret checks a file of random bytes in base64; maker is the command for a new
// one.
func (c *checker) secret(path, file string, size int, maker string) []byte {
	if !c.readable(path, file) {
		return nil
	}
	key, err := readKey(file, size)
	if err != nil {
		c.fail(path, err.Error(), "copy the right file here, or make a new one with "+maker)
	}
	return key
}

// identity checks who this daemon is.
func (c *checker) identity() {
	f := c.cfg.Fleet
	roots := c.roots(f.CAFile)
	remake := "make a new one with the fleet's key: " + c.keygen()
	text, x := c.certificate("fleet.cert_file", f.CertFile)
	if roots == nil || x == nil || !c.valid("fleet.cert_file", f.CertFile, x, remake, c.fail) {
		return
	}
	cert, err := roots.Verify(x.Raw, c.now)
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		c.fail("fleet.cert_file", fmt.Sprintf("the certificate in %s is of another fleet than %s", f.CertFile, f.CAFile), "name one that this fleet's key signed, or "+remake)
		return
	case err != nil:
		c.fail("fleet.cert_file", fmt.Sprintf("%s can't be used: %s", f.CertFile, reason(err)), remake)
		return
	}
	if !c.isFor(cert) {
		whose := "a director"
		if c.cfg.Agent != nil {
			whose = fmt.Sprintf("the agent of region %q", c.cfg.Agent.Region)
		}
		c.fail("fleet.cert_file", fmt.Sprintf("%s is the certificate of the %s %q, but this file is for %s", f.CertFile, cert.Role, cert.Name, whose), "name the right certificate, or "+remake)
		return
	}
	if c.readable("fleet.key_file", f.KeyFile) {
		key, err := os.ReadFile(f.KeyFile)
		if err == nil {
			_, err = fleet.ParseIdentity(text, key, roots, c.now)
		}
		if err != nil {
			c.fail("fleet.key_file", fmt.Sprintf("%s is not the private key of the certificate in %s", f.KeyFile, f.CertFile), "name the two files that rhumb keygen made together")
		}
	}
	if c.cfg.Agent != nil && cert.Role == fleet.RoleRegion {
		c.granted(&cert.Grant)
	}
}

// keygen is the command that makes the certificate which the daemon needs.
func (c *checker) keygen() string {
	if c.cfg.Agent == nil {
		return "rhumb keygen director NAME"
	}
	command := "rhumb keygen region " + c.cfg.Agent.Region
	for _, e := range c.cfg.Agent.Endpoints {
		addrs := make([]string, len(e.Addresses))
		for i, a := range e.Addresses {
			addrs[i] = a.String()
		}
		command += " --endpoint " + e.URL
		if len(addrs) > 0 {
			command += "=" + strings.Join(addrs, ",")
		}
	}
	return command
}

// isFor reports whether a certificate is of whom the file configures: the region,
// or a director. A file for both daemons may name that of either.
func (c *checker) isFor(cert *fleet.Cert) bool {
	if cert.Role == fleet.RoleDirector {
		return c.cfg.Director != nil
	}
	if cert.Role != fleet.RoleRegion || c.cfg.Agent == nil {
		return false
	}
	region := c.cfg.Agent.Region
	return cert.Name == region || regions.ID(region).Validate() != nil // reported
}

// roots reads the fleet's certificates, of which one must be valid: there are two
// while the fleet's key is being replaced.
func (c *checker) roots(file string) *fleet.Roots {
	const path = "fleet.ca_file"
	text, first := c.certificate(path, file)
	if first == nil {
		return nil
	}
	roots, err := fleet.ParseRoots(text)
	if err != nil {
		c.fail(path, fmt.Sprintf("%s is not the certificate of a fleet: %s", file, reason(err)), "copy fleet.pem, which rhumb keygen fleet made")
		return nil
	}
	last := first
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if x, err := x509.ParseCertificate(block.Bytes); err == nil && x.NotAfter.After(last.NotAfter) {
			last = x
		}
	}
	if !c.valid(path, file, last, "make a new fleet with rhumb keygen fleet, and certificates of it for all members", c.fail) {
		return nil
	}
	return roots
}

// granted checks that the region's certificate allows what the agent will say.
func (c *checker) granted(grant *fleet.Grant) {
	a := c.cfg.Agent
	for i, e := range a.Endpoints {
		at := index("agent.endpoints", i)
		parsed, err := regions.ParseEndpoint(e.URL, e.Addresses...)
		if err != nil || len(parsed.Addrs) == 0 {
			continue // reported
		}
		if err := grant.AllowsEndpoint(parsed); err != nil {
			c.fail(at+".url", fmt.Sprintf("the certificate in %s %s", c.cfg.Fleet.CertFile, strings.TrimPrefix(reason(err), "the certificate ")), "make one that does: "+c.keygen())
		}
	}
}

// pair checks a server's certificate and key. That one has expired does not keep
// a daemon from running: a region that is away is worse than one that some clients
// refuse.
func (c *checker) pair(path string, t TLS) {
	certPath, keyPath := path+".cert_file", path+".key_file"
	text, x := c.certificate(certPath, t.CertFile)
	if x == nil {
		return
	}
	tell := c.fail
	if c.serving {
		tell = c.warn
	}
	c.valid(certPath, t.CertFile, x, "put a new certificate and its key in place of the two files", tell)
	if !c.readable(keyPath, t.KeyFile) {
		return
	}
	key, err := os.ReadFile(t.KeyFile)
	if err == nil {
		_, err = tls.X509KeyPair(text, key)
	}
	if err != nil {
		c.fail(keyPath, fmt.Sprintf("%s is not the private key of the certificate in %s", t.KeyFile, t.CertFile), "name the key that belongs to the certificate, as PEM")
	}
}

// certificate reads a file's first certificate, nil if there is none: reported
// here, unless it was before.
func (c *checker) certificate(path, file string) (text []byte, x *x509.Certificate) {
	if !c.readable(path, file) {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err == nil {
		block, rest := pem.Decode(text)
		for block != nil && block.Type != "CERTIFICATE" { // some keep the key in the same file
			block, rest = pem.Decode(rest)
		}
		if block == nil {
			err = errors.New("no PEM block of type CERTIFICATE")
		} else if x, err = x509.ParseCertificate(block.Bytes); err == nil {
			return text, x
		}
	}
	c.fail(path, fmt.Sprintf("%s holds no certificate: %s", file, reason(err)), "name a file that begins with -----BEGIN CERTIFICATE-----")
	return nil, nil
}

// soon is how long before its end a certificate is worth a warning: two weeks hold
// a holiday and the way to who keeps the fleet's key.
const soon = 14 * 24 * time.Hour

// valid checks when a certificate may be used, and tells if that is not now.
func (c *checker) valid(path, file string, x *x509.Certificate, renew string, tell func(path, what, remedy string)) bool {
	const form = "2006-01-02 15:04 MST"
	from, until := x.NotBefore.UTC().Format(form), x.NotAfter.UTC().Format(form)
	switch {
	case c.now.After(x.NotAfter):
		tell(path, fmt.Sprintf("the certificate in %s expired on %s", file, until), renew)
		return false
	case c.now.Before(x.NotBefore):
		tell(path, fmt.Sprintf("the certificate in %s is not valid before %s", file, from), fmt.Sprintf("wait until then, or set this machine's clock, which says %s", c.now.UTC().Format(form)))
		return false
	case x.NotAfter.Sub(c.now) < soon:
		c.warn(path, fmt.Sprintf("the certificate in %s expires on %s", file, until), renew)
	}
	return true
}

// keys checks the files of API keys as the gateway will read them.
func (c *checker) keys(a Auth) {
	const path = "agent.auth.keys_file"
	if a.Mode != "keys" {
		return
	}
	pepper := c.secret("agent.auth.pepper_file", a.PepperFile, keyring.HashSize, "rhumb keygen pepper")
	if !c.readable(path, a.KeysFile) {
		return
	}
	keys, err := keysfile.Load(a.KeysFile)
	var problems Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			c.doc.Report(p)
		}
		return
	case err != nil:
		c.fail(path, err.Error(), "name the file that rhumb keygen key --keys extends")
		return
	case len(keys) == 0:
		c.warn(path, fmt.Sprintf("%s has no key, so that nobody can use the gateway", a.KeysFile), "add one with rhumb keygen key ID --keys "+a.KeysFile)
	}
	if pepper == nil {
		return
	}
	if _, err := keyring.New(pepper, keys); err != nil {
		c.fail(path, fmt.Sprintf("%s: %v", a.KeysFile, err), "remove what is too much")
	}
}

// reason is an error without what says only where it was found.
func reason(err error) string {
	text := err.Error()
	for _, prefix := range []string{"read fleet certificates: ", "read identity: ", fleet.ErrRefused.Error() + ": "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return text
}
