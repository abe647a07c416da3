// Package node is the director's daemon: it hears the regions' statuses, probes
// their endpoints, plans, and answers clients by DNS and by redirect from one
// table. All that decides is in package director; here is the I/O around it.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/director/geo"
	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/dnsserver"
	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/regions/admin"
)

// Options are what a director is made from. Start with [DefaultOptions].
type Options struct {
	// Zone is what it is authoritative for, and Hosts the zone's configured names
	// of services. Models get names of their own.
	Zone  dnsserver.Zone
	Hosts []Host
	// TTL is how long answers may be kept.
	TTL time.Duration
	// DNS are the name server's addresses, each for UDP and TCP.
	DNS []string
	// Redirect are the redirector's addresses; none means no redirector.
	Redirect []string
	// RouteAddrs are the addresses of all directors' redirectors, for the name
	// route.<zone>.
	RouteAddrs []netip.Addr
	// Location, Scheme and Port say how the redirector names a region.
	Location redirect.Location
	Scheme   string
	Port     uint16
	// RedirectTLS serves the redirector over TLS; nil is plain HTTP.
	RedirectTLS *tls.Config
	// StateFile keeps the last good state over a restart; empty keeps none.
	StateFile string
	// Admin is the admin API.
	Admin admin.Options
	// TrustedProxies may say in X-Forwarded-For who the client is.
	TrustedProxies []netip.Prefix
	// Why serves _why.<zone>, which tells askers what was decided for them.
	Why bool
	// Geo finds a client's cell; nil is the embedded database.
	Geo *geo.Map
	// Gossip connects the director to the fleet. Its Name is the director's.
	Gossip gossip.Options
	// ProbeTLS is used to probe https endpoints; nil trusts the system's roots.
	ProbeTLS *tls.Config
	// Dial opens connections to regions' endpoints; nil uses the system's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock; nil uses the system's.
	Now      func() time.Time
	Logger   *slog.Logger
	Registry *prometheus.Registry
	// OnPlan is called with each new plan's differences, if set: for those who
	// watch a demo or a drill. It must be quick.
	OnPlan func(Change)
}

// DefaultOptions are the defaults of all that has one. A TTL of 20 s is a
// failover of at most that plus 3 s for a client that keeps its answer, at a
// load of 3 queries a minute and resolver.
func DefaultOptions() Options {
	return Options{
		Zone: dnsserver.DefaultOptions().Zone, TTL: 20 * time.Second,
		Location: redirect.ByName, Scheme: "https", Gossip: gossip.DefaultOptions(),
	}
}

// The bounds of a TTL: below 5 s resolvers ignore it, above a minute failover is
// no longer what is promised.
const (
	minTTL = 5 * time.Second
	maxTTL = time.Minute
)

func (o *Options) complete() error {
	var errs []error
	if o.TTL < minTTL || o.TTL > maxTTL {
		errs = append(errs, errors.New("the TTL must be between 5s and 60s"))
	}
	if len(o.DNS) == 0 {
		errs = append(errs, errors.New("no address for DNS"))
	}
	errs = append(errs, o.Admin.Check())
	if o.Geo == nil {
		var err error
		o.Geo, err = geo.Default()
		errs = append(errs, err)
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	return errors.Join(errs...)
}
