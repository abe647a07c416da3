// Package proxy sends clients' requests to Triton pods over HTTP/1.1 or as gRPC, and to
// the gateways of other regions over HTTP/2, and streams the answers back, event by
// event.
//
// It is the standard library's reverse proxy around a round trip of our own:
// that one claims a pod, sends, replays on another pod what was lost before the
// first byte of an answer where that is sound, goes one hop to another region
// where this one has no pod, and reports each claim's outcome exactly once. The
// library keeps what is easy to get wrong (hop-by-hop fields, trailers, interim
// answers, flushing of streams, aborting a broken one).
//
// What a client does wrong never counts against a pod: its malformed body, its
// departure and its slowness end as [regions.EndClientGone].
package proxy

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admit"
	"github.com/rhumb-lb/rhumb/regions/proxy/client"
	"github.com/rhumb-lb/rhumb/regions/proxy/link"
)

// The fields that Rhumb adds. RegionHeader names the region whose pod answered;
// PodHeader that pod, where Options.ExposePod; SpillHeader marks a request
// that another region's gateway sent on, by that region's word: it is never sent on
// again. ReasonHeader says
// in a word why the gateway itself answered, NotStartedHeader that nothing of the
// request was begun, and the trailer ResumedHeader how often a stream went on at
// another pod.
const (
	RegionHeader     = "Rhumb-Region"
	PodHeader        = "Rhumb-Pod"
	SpillHeader      = "Rhumb-Spill"
	ReasonHeader     = "Rhumb-Reason"
	NotStartedHeader = "Rhumb-Not-Started"
	ResumedHeader    = "Rhumb-Resumed"
	// loadFormatHeader asks Triton for its load, which loadHeader brings.
	loadFormatHeader = "Endpoint-Load-Metrics-Format"
	loadHeader       = "Endpoint-Load-Metrics"
)

// Proxy forwards requests to the pods of one region. It is safe for concurrent
// use.
type Proxy struct {
	opts      Options
	limits    atomic.Pointer[Limits]
	links     *link.Links
	admission *admit.Admission
	retries   retries
	flights   flights
	guests    guests // requests spilled in that hold a pod
	resting   resting
	buffers   bufferPool
	log       *slog.Logger
	metrics   *metrics
}

// New makes a proxy. It starts nothing; [Proxy.CloseIdle] is all the tidying
// that it needs.
func New(o Options) *Proxy {
	o = o.withDefaults()
	p := &Proxy{
		opts:      o,
		links:     link.New(link.Options{Dial: o.Dial, Timeout: o.Limits.Dial, TLS: o.SpillTLS, Now: o.Now}),
		admission: admit.New(o.Admit),
		log:       o.Logger.With("component", "proxy"),
		metrics:   newMetrics(o.Registry),
	}
	p.SetLimits(o.Limits)
	return p
}

// Free says that a pod for a model may have become free: somebody may wait for it.
func (p *Proxy) Free(m regions.ModelName) { p.admission.Free(m) }

// Refused is how many requests of each model were lately refused without a wait.
func (p *Proxy) Refused() map[regions.ModelName]int { return p.admission.Refused() }

// Waiting is how many requests of each model wait for a place.
func (p *Proxy) Waiting() map[regions.ModelName]int { return p.admission.Waiting() }

// SetLimits changes over to other limits for the requests from now on; connections
// that are kept are kept. Dial alone stays as it was.
func (p *Proxy) SetLimits(l Limits) { p.limits.Store(&l) }

// Dismiss ends the streams of calls that wait for their client, and from now on those that
// come to it, each with UNAVAILABLE. Call it before waiting for all requests to end.
func (p *Proxy) Dismiss() { p.resting.dismiss() }

// CloseIdle closes the connections to pods that no request uses. A pod that
// shuts down waits for its idle connections, so call it when one drains, and at
// the end.
func (p *Proxy) CloseIdle() { p.links.CloseIdle() }

// Forward sends the request to a pod that serves req.Model and streams the
// answer to w; the request's path, query and method go out as they are in r,
// so mapping and vetting them is the caller's business, as is removing
// X-Forwarded-Proto and X-Forwarded-Host of a sender that is not trusted.
// req.Client becomes X-Forwarded-For.
//
// A failure before the first byte of the answer is answered as Triton would,
// {"error": "..."} with a status. After it, Forward panics with
// [http.ErrAbortHandler], so that the client sees a cut connection and never a
// clean end; handlers around it may look at the panic, but must let it pass.
func (p *Proxy) Forward(w http.ResponseWriter, r *http.Request, req regions.Request) {
	limits := *p.limits.Load()
	cw := client.NewWriter(w, limits.ClientStall)
	// The caller's deadlines are for short answers of its own.
	cw.Lift()
	_ = cw.Control().SetReadDeadline(time.Time{})
	x := &exchange{proxy: p, limits: limits, in: r, w: cw, req: req, route: p.opts.Routes[req.Model], begun: p.opts.Now()}
	defer x.finish()
	if err := checkFields(r.Header); err != nil {
		x.fail(cw, r, err)
		return
	}
	ctx, cancel := x.bounded(r.Context())
	defer cancel()
	r = r.WithContext(ctx)
	x.in = r
	var err error
	if x.body, err = x.readBody(); err != nil {
		x.fail(cw, r, err)
		return
	}
	x.begun = p.opts.Now()
	if !req.Aside && p.opts.Pool.Arrive(req.Model) {
		x.know() // though it may wait for long before it is tried
	}
	out := r.WithContext(r.Context())
	out.Body, out.ContentLength = x.body.Peek(), x.body.Length()
	if _, ok := r.Header["Upgrade"]; ok {
		// No upgrade is passed on: Triton knows none, and h2c would open a tunnel
		// around everything that is checked here. It goes before the library
		// sees it, which would fail on an odd one.
		out.Header = r.Header.Clone()
		out.Header.Del("Upgrade")
	}
	rp := httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		Transport:      x,
		ModifyResponse: x.answer,
		ErrorHandler:   x.fail,
		ErrorLog:       silent,
		BufferPool:     &p.buffers,
		// FlushInterval stays 0: event streams and answers of unknown length
		// are flushed at each read all the same, and -1 would cut the last
		// frame off from trailers over HTTP/2.
	}
	rp.ServeHTTP(cw, out)
}

// PodOut says whether a pod is out for a model: it does not answer any more. Requests
// on it that can go on elsewhere do so once it has been silent for a while; those that
// still move stay.
func (p *Proxy) PodOut(pod regions.PodID, model regions.ModelName, out bool) {
	f, s := &p.flights, seat{pod, model}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == nil {
		f.at, f.out = map[seat]map[*attempt]struct{}{}, map[seat]bool{}
	}
	if f.out[s] == out {
		return
	}
	if out {
		f.out[s] = true
	} else {
		delete(f.out, s)
	}
	for a := range f.at[s] {
		a.vigil.Abandon(out)
	}
}

// Keep forgets pods that are out and not among those that there are.
func (p *Proxy) Keep(pods []regions.Pod) {
	there := map[regions.PodID]bool{}
	for _, pod := range pods {
		there[pod.ID] = true
	}
	p.flights.mu.Lock()
	defer p.flights.mu.Unlock()
	maps.DeleteFunc(p.flights.out, func(s seat, _ bool) bool { return !there[s.pod] })
}

// bounded is a context that ends when the request has taken too long, for us or for its
// client.
func (x *exchange) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	cancel := func() {}
	if !x.req.Until.IsZero() {
		ctx, cancel = context.WithTimeoutCause(ctx, x.req.Until.Sub(x.begun), errDeadline)
	}
	if x.limits.Total == 0 {
		return ctx, cancel
	}
	ctx, last := context.WithTimeoutCause(ctx, x.limits.Total, errTotal)
	return ctx, func() { last(); cancel() }
}

// readBody reads the client's body, or of one half of a conversation nothing yet.
func (x *exchange) readBody() (*client.Body, error) {
	if x.req.Streams && x.req.Frontend == regions.GRPC {
		return client.Stream(x.in, x.w.Control()), nil
	}
	l := x.limits
	body, err := client.Read(x.in, x.w.Control(), client.Limits{Size: l.Body, Buffer: l.Buffer, Stall: l.BodyStall})
	if err != nil || !body.Whole() {
		return body, err
	}
	x.prompt = len(body.Bytes())
	if x.generates() && !json.Valid(body.Bytes()) {
		// Triton answers with 500, like to what is wrong with itself.
		return body, errNotJSON
	}
	return body, nil
}

// silent takes what the library would log: the exchange reports the same, with
// the pod's name.
var silent = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)

// bufferSize is the unit of copying. A token's event is some 100 bytes; 32 KiB
// is what io.Copy uses for the rare large tensor.
const bufferSize = 32 << 10

// bufferPool lends copy buffers: a stream of minutes holds one, and a thousand
// short requests a second should not make garbage of 32 KiB each.
type bufferPool struct{ pool sync.Pool }

// Get lends a buffer.
func (b *bufferPool) Get() []byte {
	if buf, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buf[:]
	}
	return new([bufferSize]byte)[:]
}

// Put takes a buffer back.
func (b *bufferPool) Put(buf []byte) { b.pool.Put((*[bufferSize]byte)(buf)) }

// resting are the streams of calls that wait for their client.
type resting struct {
	mu   sync.Mutex
	over bool
	ends map[*stream]context.CancelCauseFunc
}

// begin takes in one, which end ends; done takes it out.
func (r *resting) begin(s *stream, end context.CancelCauseFunc) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		end(errDismissed)
	}
	if r.ends == nil {
		r.ends = map[*stream]context.CancelCauseFunc{}
	}
	r.ends[s] = end
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.ends, s)
	}
}

func (r *resting) dismiss() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	for _, end := range r.ends {
		end(errDismissed)
	}
}

// flights are the attempts under way at each pod.
type flights struct {
	mu  sync.Mutex
	at  map[seat]map[*attempt]struct{}
	out map[seat]bool // pods that are out
}

// seat is a pod and a model.
type seat struct {
	pod   regions.PodID
	model regions.ModelName
}

func (f *flights) begin(a *attempt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := a.seat()
	if f.at == nil {
		f.at, f.out = map[seat]map[*attempt]struct{}{}, map[seat]bool{}
	}
	if f.at[s] == nil {
		f.at[s] = map[*attempt]struct{}{}
	}
	f.at[s][a] = struct{}{}
	if f.out[s] {
		a.vigil.Abandon(true)
	}
}

func (f *flights) end(a *attempt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := a.seat()
	delete(f.at[s], a)
	if len(f.at[s]) == 0 {
		delete(f.at, s)
	}
}
