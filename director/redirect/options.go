package redirect

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
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

// base is the URL of a chosen region, without a slash at its end.
func (h *Handler) base(c Choice) (string, error) {
	if h.opts.Location == ByEndpoint {
		if c.Endpoint.Host == "" {
			return "", fmt.Errorf("region %s has no endpoint", c.Region)
		}
		return c.Endpoint.URL(), nil
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
