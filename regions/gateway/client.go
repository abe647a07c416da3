package gateway

import (
	"net/http"
	"net/netip"
	"strings"
)

// trust decides whose word on a client's address counts.
type trust []netip.Prefix

// newTrust takes IPv4 networks in IPv6 form for what they are.
func newTrust(networks []netip.Prefix) trust {
	var t trust
	for _, p := range networks {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		t = append(t, p.Masked())
	}
	return t
}

func (t trust) has(a netip.Addr) bool {
	for _, p := range t {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// client finds the client's own address: the connection's peer or, where that is
// a trusted proxy, the right-most address of X-Forwarded-For that is not one.
// Addresses further left are anybody's claim. From a peer that is not trusted,
// the other forwarding fields are removed. The address is invalid if the peer
// has none.
func (t trust) client(r *http.Request) netip.Addr {
	peer, _ := parseHop(r.RemoteAddr)
	if !t.has(peer) {
		r.Header.Del("X-Forwarded-Proto")
		r.Header.Del("X-Forwarded-Host")
		return peer
	}
	if p := r.Header.Values("X-Forwarded-Proto"); len(p) != 1 || p[0] != "http" && p[0] != "https" {
		r.Header.Del("X-Forwarded-Proto")
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, ok := parseHop(strings.TrimSpace(hops[i]))
		if !ok {
			break // what stands left of it can't be relied on
		}
		peer = hop
		if !t.has(hop) {
			break
		}
	}
	return peer
}

// parseHop reads an address with or without a port.
func parseHop(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		a = ap.Addr()
	}
	return a.Unmap().WithZone(""), true
}
