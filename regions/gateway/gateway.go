// Package gateway is a region's door for clients: it vets a request, finds out
// who sent it and which model it is for, and hands it to the proxy.
//
// A request passes through, in this order: vetting of its form (refused with
// 400, 431), who sent it, the route (404, 405), and the proxy. What refuses by
// sender, first keys and then limits, has its place in [Gateway.handle] between
// form and route, so that nothing is told of routes and models to who has no
// key.
package gateway

import (
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rhumb-lb/rhumb/regions"
)

// Forwarder sends a request to a pod of req.Model and answers with what comes
// back. It panics with [http.ErrAbortHandler] to cut an answer short. The
// request's path is Triton's by then, and X-Forwarded-Proto and
// X-Forwarded-Host are there only if a trusted proxy set them.
type Forwarder interface {
	Forward(w http.ResponseWriter, r *http.Request, req regions.Request)
}

// Options say what a gateway works with. Forward is required.
type Options struct {
	Forward Forwarder
	// Ready tells whether this region takes requests, for /v2/health/ready.
	// Nil: always.
	Ready func() bool
	// Models are the models that this region knows, in the order in which they
	// are listed. Only these become labels of metrics. It must be cheap. Nil:
	// none.
	Models func() []regions.ModelName
	// TrustedProxies are the networks whose X-Forwarded-* fields are believed.
	// Empty: nobody's.
	TrustedProxies []netip.Prefix
	// Version is told by the server's metadata.
	Version string
	// Now is the clock of logs and metrics; the system's if nil.
	Now func() time.Time
	// Logger and Registry may be nil.
	Logger   *slog.Logger
	Registry *prometheus.Registry
}

// DefaultOptions are the options of a gateway before the operator's: it is
// always ready, trusts no proxy and lists no models.
func DefaultOptions(to Forwarder) Options { return Options{Forward: to} }

func (o Options) withDefaults() Options {
	if o.Ready == nil {
		o.Ready = func() bool { return true }
	}
	if o.Models == nil {
		o.Models = func() []regions.ModelName { return nil }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Gateway is the handler of a region's client port. It is safe for concurrent
// use.
type Gateway struct {
	opts    Options
	trusted regions.TrustedProxies
	born    time.Time
	log     *slog.Logger
	metrics *metrics
}

// New makes a gateway. It starts nothing.
func New(o Options) *Gateway {
	o = o.withDefaults()
	return &Gateway{
		opts:    o,
		trusted: regions.NewTrustedProxies(o.TrustedProxies),
		born:    o.Now(),
		log:     o.Logger.With("component", "gateway"),
		metrics: newMetrics(o.Registry),
	}
}

// ServeHTTP handles one request, logs and counts it. A panic by which the
// answer is cut passes through.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := &visit{recorder: recorder{ResponseWriter: w}, begun: g.opts.Now()}
	defer g.record(v, r)
	bound(v, r)
	g.handle(v, r)
	v.done = true
}

// handle is the chain of what a request passes through.
func (g *Gateway) handle(v *visit, r *http.Request) {
	path, err := vet(r)
	if err != nil {
		reply(v, err)
		return
	}
	v.client = clientOf(r, g.trusted)
	// Here: keys, then limits.
	v.route, err = parse(r.Method, path)
	if err != nil {
		reply(v, err)
		return
	}
	if v.route.answer != nil {
		v.route.answer(g, v)
		return
	}
	r = r.WithContext(r.Context())
	u := *r.URL
	u.Path, u.RawPath = v.route.path(), ""
	r.URL = &u
	g.opts.Forward.Forward(v, r, regions.Request{
		Model:      v.route.model,
		Client:     v.client,
		URI:        r.RequestURI,
		Replayable: v.route.generates(),
		Streams:    v.route.name == routeGenerateStream,
	})
}

// knows reports that a model may be a label.
func (g *Gateway) knows(m regions.ModelName) bool { return slices.Contains(g.opts.Models(), m) }
