package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/rhumb-lb/rhumb/director"
)

// checkOptions reports the first thing that is wrong, and the zone in its
// simplest form.
func checkOptions(o Options) (zone string, err error) {
	zone = strings.ToLower(strings.TrimSuffix(o.Zone, "."))
	switch {
	case o.Decider == nil:
		return "", errors.New("redirect: there is no decider")
	case zone == "" || strings.ContainsFunc(zone, notInName):
		return "", fmt.Errorf("redirect: the zone %q is not a domain name", o.Zone)
	case o.Location != ByName && o.Location != ByEndpoint:
		return "", fmt.Errorf("redirect: the location is %q, want %q or %q", o.Location, ByName, ByEndpoint)
	case o.Scheme != "http" && o.Scheme != "https":
		return "", fmt.Errorf("redirect: the scheme is %q, want http or https", o.Scheme)
	}
	return zone, nil
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
}

// base is the URL of a candidate, without a slash at its end.
func (h *Handler) base(c *director.Candidate) (string, error) {
	if h.opts.Location == ByEndpoint {
		if len(c.Endpoints) == 0 || c.Endpoints[0].Host == "" {
			return "", fmt.Errorf("region %s has no endpoint", c.Region)
		}
		return c.Endpoints[0].URL(), nil
	}
	if err := c.Region.Validate(); err != nil {
		return "", err
	}
	host := string(c.Region) + ".route." + h.zone
	if p := h.opts.Port; p != 0 && (p != 80 || h.opts.Scheme != "http") && (p != 443 || h.opts.Scheme != "https") {
		host = net.JoinHostPort(host, strconv.Itoa(int(p)))
	}
	return h.opts.Scheme + "://" + host, nil
}

// addresses are where the host of a candidate's base is: what DNS says of the
// region's name, or of its endpoint.
func (h *Handler) addresses(c *director.Candidate) []netip.Addr {
	out := []netip.Addr{}
	for i, e := range c.Endpoints {
		if i == 0 || h.opts.Location == ByName {
			out = append(out, e.Addrs...)
		}
	}
	return out
}
