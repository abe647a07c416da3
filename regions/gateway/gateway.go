// Package gateway is a region's door for clients: it vets a request, finds out
// who sent it and which model it is for, and hands it to the proxy.
//
// A request passes through, in this order: vetting of its form (refused with
// 400, 431), who sent it, the API key (401) and its rate (429), the route (404,
// 405), the beginning of its body where that names the model (400, 408), the key's
// models (403), and the proxy. Keys come before routes, so that nothing is told of
// routes and models to who has no key.
//
// Clients speak Triton's HTTP (/v2), OpenAI's (/v1) or Triton's gRPC, and are told
// errors in the form of what they speak.
package gateway

import (
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/affinity"
	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// Forwarder sends a request to a pod of req.Model and answers with what comes
// back. It panics with [http.ErrAbortHandler] to cut an answer short. The
// request's path is the pod's by then, and X-Forwarded-Proto and
// X-Forwarded-Host are there only if a trusted proxy set them.
type Forwarder interface {
	Forward(w http.ResponseWriter, r *http.Request, req regions.Request)
}

// spillHeader has the word of the region whose gateway sent a request on.
const spillHeader = "Rhumb-Spill"

// notStartedHeader tells that gateway that nothing of the request was begun.
const notStartedHeader = "Rhumb-Not-Started"

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
	// Generates tells whether a model generates text, statelessly, so that a stream of
	// calls that was lost before its first answer may begin again. Nil: none does.
	Generates func(regions.ModelName) bool
	// Affinity is by what the requests for a model should meet. Nil: nothing.
	Affinity func(regions.ModelName) regions.Affinity
	// Guest checks the word of the region whose gateway has sent a request on, in
	// Rhumb-Spill. Nil: no such request is let in.
	Guest func(r *http.Request, now time.Time) (regions.Guest, error)
	// Policy says who is let in, until [Gateway.SetPolicy] changes it.
	Policy Policy
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
	if o.Generates == nil {
		o.Generates = func(regions.ModelName) bool { return false }
	}
	if o.Affinity == nil {
		o.Affinity = func(regions.ModelName) regions.Affinity { return regions.Affinity{} }
	}
	if o.Guest == nil {
		o.Guest = func(*http.Request, time.Time) (regions.Guest, error) { return regions.Guest{}, errNoGuests }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Policy says who is let in as whom. It can change while requests go on.
type Policy struct {
	// TrustedProxies are the networks whose X-Forwarded-* fields are believed.
	// Empty: nobody's.
	TrustedProxies []netip.Prefix
	// Keys are the API keys. Nil lets everybody in.
	Keys *keyring.Ring
}

// door is a policy made ready, immutable but for the limiter's counts.
type door struct {
	trusted regions.TrustedProxies
	keys    *keyring.Ring
	limiter *keyring.Limiter // nil without keys
}

// Gateway is the handler of a region's client port. It is safe for concurrent
// use.
type Gateway struct {
	opts    Options
	door    atomic.Pointer[door]
	born    time.Time
	strange sync.Once // a guest was refused
	log     *slog.Logger
	metrics *metrics
}

// New makes a gateway. It starts nothing.
func New(o Options) *Gateway {
	o = o.withDefaults()
	g := &Gateway{
		opts:    o,
		born:    o.Now(),
		log:     o.Logger.With("component", "gateway"),
		metrics: newMetrics(o.Registry),
	}
	g.SetPolicy(o.Policy)
	return g
}

// SetPolicy changes over to a policy for the requests from now on. Keys that stay
// go on with what they have used of their rates.
func (g *Gateway) SetPolicy(p Policy) {
	d := &door{trusted: regions.NewTrustedProxies(p.TrustedProxies), keys: p.Keys}
	if p.Keys != nil {
		var before *keyring.Limiter
		if old := g.door.Load(); old != nil {
			before = old.limiter
		}
		d.limiter = keyring.NewLimiter(p.Keys, before)
	}
	g.door.Store(d)
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
		reply(v, r, err)
		return
	}
	d := g.door.Load()
	v.client = clientOf(r, d.trusted)
	// Logs and metrics say what was asked for; who has no key is told nothing of it.
	v.route, err = routeOf(r, path)
	if err := g.enter(d, v, r, path); err != nil {
		reply(v, r, err)
		return
	}
	r = r.WithContext(r.Context())
	if err == nil {
		err = g.admit(v, r)
	}
	if err != nil {
		reply(v, r, err)
		return
	}
	if v.route.answer != nil {
		v.route.answer(g, v)
		return
	}
	u := *r.URL
	u.Path, u.RawPath = v.route.path(), ""
	r.URL = &u
	g.opts.Forward.Forward(v, r, g.request(v, r))
}

// admit finds out what a request is for and what it asks for, as far as it has a
// route. It is the request's copy whose body it reads.
func (g *Gateway) admit(v *visit, r *http.Request) error {
	if v.route.answer == nil {
		if err := v.ask(r.Header); err != nil {
			return err
		}
		if err := g.read(v, r); err != nil {
			return err
		}
	}
	if v.route.model == "" {
		return nil
	}
	if !v.key.Allows(v.route.model) {
		return forbidden()
	}
	if v.guest.From != "" && v.guest.Model != v.route.model {
		return notStarted("the voucher is for another model")
	}
	if v.guest.From == "" {
		guard.ForModel(r.Context(), v.route.model)
	}
	if v.route.name == routeList && !g.knows(v.route.model) {
		return noModel(v.route.model)
	}
	return nil
}

// request is what choosing a pod needs to know.
func (g *Gateway) request(v *visit, r *http.Request) regions.Request {
	return regions.Request{
		Model:      v.route.model,
		Client:     v.client,
		URI:        r.RequestURI,
		Affinity:   affinity.Of(v.meet, r, v.client, keyLabel(v.key), v.prompt),
		Frontend:   v.route.frontend,
		Aside:      v.route.aside(),
		Class:      v.class,
		MaxWait:    v.maxWait,
		Until:      v.until(),
		Replayable: v.route.replayable(g.opts.Generates),
		Streams:    v.streams || v.route.name == routeGenerateStream || v.route.name == callStreamInfer,
		From:       v.guest.From,
		Key:        keyLabel(v.key),
	}
}

// knows reports that a model may be a label.
func (g *Gateway) knows(m regions.ModelName) bool { return slices.Contains(g.opts.Models(), m) }
