package agent

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/voucher"
)

// vouch is the region's word for a request that goes to another.
func (a *Agent) vouch(to regions.ID, req regions.Request) string {
	return voucher.Issue(a.opts.Gossip.Identity, to, req, a.opts.Now())
}

// spillTLS shows other regions' gateways the region's certificate, if they ask.
func (a *Agent) spillTLS() *tls.Config {
	c := a.opts.SpillTLS.Clone()
	if c == nil {
		c = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	own := a.opts.Gossip.Identity.TLS()
	// By this way it is shown whatever the peer says that it accepts.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	return c
}

// serverTLS asks clients for a certificate of the fleet. Those that have none are
// clients all the same; browsers don't ask their users if none of theirs would do.
func (o *Options) serverTLS() *tls.Config {
	c := o.TLS.Clone()
	if c != nil {
		c.ClientAuth, c.ClientCAs = tls.RequestClientCert, o.Gossip.Roots.ClientCAs()
	}
	return c
}

// guest checks the word of a region that has sent a request on. Where the region's
// gateway has come by TLS to this one, rather than to a load balancer before it, it
// has also shown its certificate, which must be that of who vouches.
func (a *Agent) guest(vouchers *voucher.Checker) func(*http.Request, time.Time) (regions.Guest, error) {
	roots := a.opts.Gossip.Roots
	return func(r *http.Request, now time.Time) (regions.Guest, error) {
		v, err := vouchers.Check(strings.Join(r.Header[proxy.SpillHeader], ","), now)
		if err != nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return v.Guest(), err
		}
		shown, err := roots.Verify(r.TLS.PeerCertificates[0].Raw, now)
		if err != nil {
			return regions.Guest{}, err
		}
		if shown.Role != fleet.RoleRegion || shown.Name != string(v.From) {
			return regions.Guest{}, fmt.Errorf("the connection is %s %q's, and the voucher region %q's", shown.Role, shown.Name, v.From)
		}
		return v.Guest(), nil
	}
}
