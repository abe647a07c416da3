// Package regions is Rhumb's vocabulary: the plain types in which agents,
// gossip, directors, the name server and the simulator speak of regions, pods,
// load and clients. It is a leaf: it imports the standard library only, does no
// I/O and reads no clock.
//
// Quantities that enter a decision are integers with the unit in their type
// ([Micros], [MilliSlots], [Permille]), so that every machine decides alike to
// the byte.
package regions

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// ID names a region: a place with pods and an endpoint. It is also a DNS label
// ("eu-west.region.<zone>"), hence lower case; see [ID.Validate].
type ID string

// AgentID names one agent process of a region, unique in the fleet. By
// convention "<region>/<agent>".
type AgentID string

// maxLabel is the longest DNS label, RFC 1035 section 2.3.4.
const maxLabel = 63

// Validate reports why the ID cannot name a region: it must be a lower-case
// DNS label of letters, digits and inner hyphens, at most 63 bytes.
func (id ID) Validate() error {
	if label := toLabel(string(id)); label != string(id) || id == "" {
		return fmt.Errorf("region name %q is not a lower-case DNS label (a-z, 0-9, inner hyphens, at most %d bytes)", string(id), maxLabel)
	}
	return nil
}

// toLabel maps a name to a DNS label: lower case, everything outside of
// [a-z0-9-] becomes a hyphen, outer hyphens go, and it is cut at 63 bytes.
func toLabel(name string) string {
	label := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '-'
		}
	}, name)
	if len(label) > maxLabel {
		label = label[:maxLabel]
	}
	return strings.Trim(label, "-")
}

// Location is a point on the globe in millionths of a degree (about 11 cm),
// latitude in [-90e6, 90e6], longitude in [-180e6, 180e6].
type Location struct {
	Lat, Lon int32
}

// Endpoint is a region's public address. Addrs are the addresses that DNS
// answers carry; where Host is an IP address they are that one.
type Endpoint struct {
	Scheme string // "http" or "https"
	Host   string // name or address, without brackets
	Port   uint16
	Addrs  []netip.Addr
}

// ParseEndpoint reads an endpoint from a URL such as "https://eu.example.com"
// or "http://192.0.2.1:8080". The addresses of a host that is a name are given
// beside it.
func ParseEndpoint(raw string, addrs ...netip.Addr) (Endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return Endpoint{}, fmt.Errorf("endpoint %q: %w", raw, err)
	}
	e := Endpoint{Scheme: u.Scheme, Host: u.Hostname(), Addrs: addrs}
	switch {
	case u.Scheme == "http":
		e.Port = 80
	case u.Scheme == "https":
		e.Port = 443
	default:
		return Endpoint{}, fmt.Errorf("endpoint %q: the scheme must be http or https", raw)
	}
	if e.Host == "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" {
		return Endpoint{}, fmt.Errorf("endpoint %q: want scheme, host and port only, like https://eu.example.com:8443", raw)
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return Endpoint{}, fmt.Errorf("endpoint %q: the port must be 1 to 65535", raw)
		}
		e.Port = uint16(n)
	}
	if ip, err := netip.ParseAddr(e.Host); err == nil && len(addrs) == 0 {
		e.Addrs = []netip.Addr{ip.Unmap()}
	}
	return e, nil
}

// HostPort is the endpoint's "host:port", with brackets around an IPv6 address.
func (e Endpoint) HostPort() string {
	if strings.Contains(e.Host, ":") {
		return "[" + e.Host + "]:" + strconv.Itoa(int(e.Port))
	}
	return e.Host + ":" + strconv.Itoa(int(e.Port))
}

// URL is the endpoint as a base URL without a trailing slash.
func (e Endpoint) URL() string { return e.Scheme + "://" + e.HostPort() }
