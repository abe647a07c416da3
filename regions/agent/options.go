// Package agent is the daemon of a region: it finds and probes the pods, takes
// the clients' requests, sends each to the pod that is freest or, when no pod
// here can take it, one hop on to another region, and tells the directors twice
// a second how the region does.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admin"
	"github.com/rhumb-lb/rhumb/regions/admit"
	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// Options are what an agent is made from. Start with [DefaultOptions].
type Options struct {
	// Region is the region's name, and Location where it is.
	Region   regions.ID
	Location regions.Location
	// Endpoints are where clients reach the region, the best first.
	Endpoints []regions.Endpoint
	// Models are those that the region is meant to serve. Pods may serve others
	// too.
	Models []Model
	// Sources find the pods. Two sources must not find the same pod.
	Sources []discovery.Source
	// Listen are the gateway's addresses, IP:port.
	Listen []string
	// Admin is the admin API.
	Admin admin.Options
	// TrustedProxies may say in X-Forwarded-For who the client is.
	TrustedProxies []netip.Prefix
	Limits         proxy.Limits
	// Admit bounds the lines in which requests wait for a free slot.
	Admit admit.Options
	// Head bounds requests' heads and idle connections.
	Head gateway.HeadLimits
	// Connections bound the gateway's connections; the trusted proxies are exempt
	// beside those that are listed.
	Connections guard.Limits
	// TLS serves the gateway over TLS, with HTTP/2 by ALPN; nil serves plain HTTP,
	// HTTP/1.1 and h2c.
	TLS *tls.Config
	// Keys are who may use the gateway; nil lets everybody in.
	Keys *keyring.Ring
	// Balance is how a pod is chosen among those of a model, one of [balance.Names],
	// unless the model has its own.
	Balance string
	// Canary finds pods that say they are ready and do not generate.
	Canary Canary
	// FixedSlots learns no slots: a pod that reports none, and for which none are
	// configured, keeps what it is taken to have.
	FixedSlots bool
	// Gossip connects the agent to the fleet. Its Name is the agent's.
	Gossip gossip.Options
	// Linger is how long a stopping agent goes on taking new requests after it
	// has said that it drains: until clients have heard that they go elsewhere.
	Linger time.Duration
	// Grace is how long it then waits for the streams that it has.
	Grace time.Duration
	// SpillTLS is used towards https endpoints of other regions; nil trusts the
	// system's roots.
	SpillTLS *tls.Config
	// ListenStream opens the gateway's listeners, and Dial connections to pods
	// and other regions; nil uses the system's. A simulated network can stand
	// between.
	ListenStream func(ctx context.Context, network, address string) (net.Listener, error)
	Dial         func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock; nil uses the system's.
	Now      func() time.Time
	Logger   *slog.Logger
	Registry *prometheus.Registry
	// Version is the program's, for Triton's server metadata.
	Version string
}

// Model is a model as the operator configures it.
type Model struct {
	Name regions.ModelName
	Host string // its DNS label; empty to make it from the name
	// Balance is how a pod is chosen for it; empty as for all models.
	Balance string
	// Affinity is what requests have in common that meet on one pod, if Balance is
	// hash.
	Affinity regions.Affinity
	// Route is what is done when a pod is lost.
	Route proxy.Route
}

// DefaultOptions are the defaults of all that has one. Linger is the default TTL
// of DNS answers and a quarter, so that a cached answer has run out when the
// region stops taking requests. Grace lets streams of ten minutes end.
func DefaultOptions() Options {
	return Options{
		Limits:      proxy.DefaultLimits(),
		Admit:       admit.DefaultOptions(),
		Connections: guard.DefaultLimits(),
		Head:        gateway.DefaultHeadLimits(),
		Gossip:      gossip.DefaultOptions(),
		Balance:     "least-connections",
		Linger:      25 * time.Second,
		Grace:       10 * time.Minute,
	}
}

// affinity is what the requests for a model have in common that meet on one pod.
func (o *Options) affinity(name regions.ModelName) regions.Affinity {
	for _, m := range o.Models {
		if m.Name == name {
			return m.Affinity
		}
	}
	return regions.Affinity{}
}

// generates reports that a model writes text, which is what its profile is of.
func (o *Options) generates(name regions.ModelName) bool {
	return slices.ContainsFunc(o.Models, func(m Model) bool { return m.Name == name && m.Route.Profile.Name != "" })
}

// balance is how a pod is chosen for a model.
func (o *Options) balance(name regions.ModelName) string {
	for _, m := range o.Models {
		if m.Name == name && m.Balance != "" {
			return m.Balance
		}
	}
	return o.Balance
}

// balances are all that are configured.
func (o *Options) balances() []string {
	out := []string{o.Balance}
	for _, m := range o.Models {
		out = append(out, o.balance(m.Name))
	}
	return out
}

func (o *Options) complete() error {
	if err := o.Region.Validate(); err != nil {
		return err
	}
	var errs []error
	if len(o.Listen) == 0 {
		errs = append(errs, errors.New("no address to listen on"))
	}
	if len(o.Endpoints) == 0 {
		errs = append(errs, errors.New("no endpoint: clients would not know where the region is"))
	}
	for _, e := range o.Endpoints {
		if len(e.Addrs) == 0 {
			errs = append(errs, fmt.Errorf("endpoint %s: no address for DNS answers", e.URL()))
		}
	}
	if len(o.Sources) == 0 {
		errs = append(errs, errors.New("no source of pods"))
	}
	errs = append(errs, o.Admin.Check())
	for _, name := range o.balances() {
		if _, err := balance.ByName(name, nil); err != nil {
			errs = append(errs, err)
		}
	}
	if o.ListenStream == nil {
		o.ListenStream = new(net.ListenConfig).Listen
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
