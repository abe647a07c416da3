package gateway

import (
	"net/http"
	"net/netip"

	"github.com/rhumb-lb/rhumb/regions"
)

// clientOf finds the client's own address. What else a proxy says of the request
// is removed unless the proxy is trusted and the word is a plausible one.
func clientOf(r *http.Request, trusted regions.TrustedProxies) netip.Addr {
	if !trusted.Has(regions.ParseHop(r.RemoteAddr)) {
		r.Header.Del("X-Forwarded-Proto")
		r.Header.Del("X-Forwarded-Host")
	} else if p := r.Header.Values("X-Forwarded-Proto"); len(p) != 1 || p[0] != "http" && p[0] != "https" {
		r.Header.Del("X-Forwarded-Proto")
	}
	return trusted.Client(r.RemoteAddr, r.Header.Values("X-Forwarded-For"))
}
