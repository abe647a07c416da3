package regions

import (
	"net/netip"
	"strings"
)

// TrustedProxies are the networks whose word on a client's address is believed.
// None is the safe default: whoever may name a client's address may choose its
// place.
type TrustedProxies []netip.Prefix

// NewTrustedProxies takes IPv4 networks in IPv6 form for what they are.
func NewTrustedProxies(networks []netip.Prefix) TrustedProxies {
	t := make(TrustedProxies, 0, len(networks))
	for _, p := range networks {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		t = append(t, p.Masked())
	}
	return t
}

// Has reports whether an address is a trusted proxy's.
func (t TrustedProxies) Has(addr netip.Addr) bool {
	for _, p := range t {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// Client is the address of who asks: the connection's peer ("address:port") or,
// behind trusted proxies, the right-most address of the X-Forwarded-For fields
// that is not one of them. What stands further left is anybody's claim. A word
// that is no address ends the search: the client is then whom the last proxy to
// be believed named. The address is invalid if the peer has none.
func (t TrustedProxies) Client(peer string, forwardedFor []string) netip.Addr {
	addr := ParseHop(peer)
	if !t.Has(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(forwardedFor, ","), ",")
	for i := len(hops) - 1; i >= 0 && t.Has(addr); i-- {
		hop := ParseHop(strings.TrimSpace(hops[i]))
		if !hop.IsValid() {
			break
		}
		addr = hop
	}
	return addr
}

// ParseHop reads an address with or without port and brackets, as connections
// and forwarding fields give it, without zone; it is invalid if there is none.
func ParseHop(s string) netip.Addr {
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
