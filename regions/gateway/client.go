package gateway

import (
	"errors"
	"net/http"
	"net/netip"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
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

var errNoGuests = errors.New("this region takes no requests from others")

// notStarted refuses a request of another region, which can ask elsewhere.
func notStarted(text string) error {
	return &refusal{status: http.StatusServiceUnavailable, text: text, fresh: true}
}

// enter lets a request in by its key, or by the word of the region that sent it on. That
// region has checked and charged the key; it must be one that is known here too, if
// there are keys, and what it says of the client is believed.
func (g *Gateway) enter(d *door, v *visit, r *http.Request, path string) error {
	if _, ok := r.Header[spillHeader]; !ok {
		return d.enter(v, r, path)
	}
	guest, err := g.opts.Guest(r, v.begun)
	if err != nil {
		g.metrics.strangers.Inc()
		g.strange.Do(func() {
			g.log.Warn("a request of another region was refused; the next ones are only counted", "error", err)
		})
		return notStarted("the request does not come from a region of this fleet")
	}
	guard.ForPeer(r.Context())
	if d.keys != nil {
		if v.key = d.keys.Named(guest.Key); v.key == nil {
			return notStarted("the request's API key is not known here")
		}
	}
	v.guest = guest
	if said := r.Header.Get("X-Forwarded-For"); regions.ParseHop(said).IsValid() {
		v.client = regions.ParseHop(said)
	}
	return nil
}
