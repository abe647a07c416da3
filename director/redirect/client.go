package redirect

import (
	"net/http"
	"net/netip"
	"strings"
)

// trust are the proxies whose word on a client's address counts.
type trust []netip.Prefix

// newTrust takes IPv4 networks in IPv6 form for what they are.
func newTrust(proxies []netip.Prefix) trust {
	t := make(trust, 0, len(proxies))
	for _, p := range proxies {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		t = append(t, p.Masked())
	}
	return t
}

func (t trust) has(addr netip.Addr) bool {
	for _, p := range t {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// client is the address of who asks: the connection's peer or, behind trusted
// proxies, the right-most address of X-Forwarded-For that is not one of them.
// What stands further left is anybody's claim. A word that is no address ends
// the search: the client is then whom the last proxy to be believed named.
func (t trust) client(r *http.Request) netip.Addr {
	addr := parseAddr(r.RemoteAddr)
	if !t.has(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && t.has(addr); i-- {
		hop := parseAddr(strings.TrimSpace(hops[i]))
		if !hop.IsValid() {
			break
		}
		addr = hop
	}
	return addr
}

// parseAddr reads an address with or without port and brackets; it is invalid if
// there is none.
func parseAddr(s string) netip.Addr {
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}
		}
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone("")
}
