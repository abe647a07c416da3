package config

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions/admin"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// maxSecret bounds the small files: keys and tokens are one line.
const maxSecret = 4 << 10

// identity reads who this daemon is.
func (c *Config) identity(now time.Time) (*fleet.Identity, *fleet.Roots, error) {
	roots, err := fleet.LoadRoots(c.Fleet.CAFile)
	if err != nil {
		return nil, nil, fmt.Errorf("fleet.ca_file: %w", err)
	}
	id, err := fleet.LoadIdentity(c.Fleet.CertFile, c.Fleet.KeyFile, roots, now)
	if err != nil {
		return nil, nil, fmt.Errorf("fleet.cert_file: %w", err)
	}
	return id, roots, nil
}

// gossipOptions are the daemon's place in the fleet, but for its name.
func (c *Config) gossipOptions(id *fleet.Identity, roots *fleet.Roots) (gossip.Options, error) {
	o := gossip.DefaultOptions()
	o.Identity, o.Roots, o.Label = id, roots, c.Gossip.Label
	key, err := readKey(c.Gossip.KeyFile, gossip.KeySize)
	if err != nil {
		return o, fmt.Errorf("gossip.key_file: %w", err)
	}
	o.Keys = [][]byte{key}
	o.Seeds = gossip.StaticSeeds(c.Gossip.Seeds...)
	if o.Bind, err = bindAddress(c.Gossip.Bind); err != nil {
		return o, fmt.Errorf("gossip.bind: %w", err)
	}
	if c.Gossip.Advertise != "" {
		if o.Advertise, err = netip.ParseAddrPort(c.Gossip.Advertise); err != nil {
			return o, fmt.Errorf("gossip.advertise: %w", err)
		}
	}
	return o, nil
}

// bindAddress reads an address to listen on; one without a host is all.
func bindAddress(s string) (netip.AddrPort, error) {
	if strings.HasPrefix(s, ":") {
		s = "[::]" + s
	}
	return netip.ParseAddrPort(s)
}

// adminOptions are the admin API's.
func (c *Config) adminOptions() (admin.Options, error) {
	o := admin.Options{Listen: c.Admin.Listen}
	var err error
	if c.Admin.TokenFile != "" {
		if o.Token, err = readLine(c.Admin.TokenFile); err != nil {
			return o, fmt.Errorf("admin.token_file: %w", err)
		}
	}
	o.TLS, err = serverTLS("admin.tls", c.Admin.TLS)
	return o, err
}

// serverTLS reads a server's certificate, nil if there is none. TLS 1.2 is the
// least that any client of today needs (RFC 8996 retired what was before).
func serverTLS(path string, t TLS) (*tls.Config, error) {
	if t.CertFile == "" {
		return nil, nil //nolint:nilnil // no TLS is a choice
	}
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("%s.cert_file: %w", path, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// readLine reads a file of one line.
func readLine(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	line := strings.TrimSpace(string(b))
	if line == "" || len(b) > maxSecret || strings.ContainsAny(line, "\r\n") {
		return "", fmt.Errorf("%s does not hold exactly one line", file)
	}
	return line, nil
}

// ReadPepper reads the file that agent.auth.pepper_file names.
func ReadPepper(file string) ([]byte, error) { return readKey(file, keyring.HashSize) }

// readKey reads random bytes that stand in a file as one line of base64.
func readKey(file string, size int) ([]byte, error) {
	line, err := readLine(file)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(line)
	if err != nil || len(key) != size {
		return nil, fmt.Errorf("%s does not hold %d bytes as one line of base64", file, size)
	}
	return key, nil
}
