// Package redirect sends HTTP requests on to the region that should serve them:
// it answers with 307 and the region's address, so that the client repeats the
// same request, method and body, there. It neither sees nor keeps credentials
// and, unless only the body names the model, it answers before the body is read.
// Programs that choose for themselves ask /v1/route for all regions in order.
//
// 307 and no other: 301 and 302 turn a POST into a GET in many clients, and 301
// and 308 may be kept for ever, while the answer is true for seconds.
package redirect

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

// Decider says which region a request goes to. It is asked by many goroutines
// at once.
type Decider interface {
	// Decide ranks the regions for a client, whose address is invalid if it is not
	// known. Where hasModel is false the request named none, model is
	// [regions.Apex], and any region that is fit for the zone's mix will do.
	// A decision has at least one candidate. The error is, or wraps, one of
	// [ErrUnknownModel], [ErrBarred] and [ErrNotReady].
	Decide(model regions.ModelName, hasModel bool, client netip.Addr) (director.Decision, error)
}

// The reasons for not choosing a region.
var (
	// ErrUnknownModel says that no region has ever had the model.
	ErrUnknownModel = errors.New("no region has the model")
	// ErrBarred says that operators drain or policy bars every region that could
	// serve.
	ErrBarred = errors.New("every region is drained or barred")
	// ErrNotReady says that nothing is known of the regions yet.
	ErrNotReady = errors.New("nothing is known of the regions yet")
)

// Location is the form of the address that a client is sent to.
type Location string

const (
	// ByName is "<region>.route.<zone>". Go's HTTP client keeps Authorization on
	// the way from a name to one below it; curl, httpx and requests drop it.
	ByName Location = "name"
	// ByEndpoint is the region's endpoint as its agent publishes it. Every
	// client drops credentials on the way, unless it is the same host.
	ByEndpoint Location = "endpoint"
)

// Options of a [Handler]. Start from [DefaultOptions].
type Options struct {
	Zone     string // without a dot at its end
	Location Location
	// Scheme and Port are where gateways listen, for [ByName]. Port 0 is the
	// scheme's own.
	Scheme string
	Port   uint16
	// TrustedProxies are the peers whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// Token lets those who send it as "Authorization: Bearer TOKEN" ask /v1/route
	// for other clients than themselves; empty lets nobody.
	Token   string
	Decider Decider
	// Labels finds the model that is served under a label of the zone. Without
	// it the host names no model.
	Labels   func(label string) (regions.ModelName, bool)
	Logger   *slog.Logger
	Registry *prometheus.Registry // nil counts nothing that can be read
}

// DefaultOptions are regions by name, over HTTPS. Zone and Decider are yet to be
// set.
func DefaultOptions() Options {
	return Options{Location: ByName, Scheme: "https", Logger: slog.New(slog.DiscardHandler)}
}

// Handler redirects. It is safe for concurrent use and keeps nothing between
// requests.
type Handler struct {
	opts    Options
	zone    string // lower case
	trust   regions.TrustedProxies
	token   *regions.Token // nil if there is none
	metrics *metrics
}

// New makes a handler. It fails if an option is missing or wrong, or if the
// registry refuses the metrics. Handlers that share a registry share its
// counters, so that a new one can replace another.
func New(opts Options) (*Handler, error) {
	zone, err := checkOptions(opts)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(opts.Registry)
	if err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	opts.Logger = opts.Logger.With("component", "redirect")
	return &Handler{
		opts: opts, zone: zone, trust: regions.NewTrustedProxies(opts.TrustedProxies),
		token: regions.NewToken(opts.Token), metrics: m,
	}, nil
}

// ServeHTTP answers with 307, at /v1/route with the regions in order, or with an
// error in Triton's form: {"error":"..."}.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	h.write(w, r, h.answer(w, r), start)
}

// answer is what a client gets.
type answer struct {
	status       int
	result       string // for metrics
	namedBy      string // for metrics
	content      any    // becomes JSON
	location     string
	decision     string
	degraded     bool
	allow        string // methods
	authenticate string // scheme
	retryAfter   int    // seconds
}

// failed is an answer with an error's text, before any model is looked for.
func failed(status int, result, text string) answer {
	return answer{status: status, result: result, namedBy: byNothing, content: problem{text}}
}

// problem is an error in Triton's form.
type problem struct {
	Error string `json:"error"`
}

// Why a client should come back later, and when, in seconds. Each client draws
// from the lowest to three times that, so that they do not come back at once.
const (
	// A director hears of the regions within seconds of its start.
	retryNotReady = 1
	// An operator drains for minutes; asking sooner than this changes nothing.
	retryBarred = 10
)

func (h *Handler) answer(w http.ResponseWriter, r *http.Request) answer {
	t, ok := parseTarget(r)
	switch {
	case ok && t.path == routePath:
		return h.route(r)
	case !ok || !t.served():
		return failed(http.StatusNotFound, resultNotFound, "Not Found")
	}
	model, namedBy, err := h.model(w, r, t)
	if err != nil {
		return failed(http.StatusRequestTimeout, resultNoBody,
			"the body, which is to name the model, did not arrive; name it in the path or in the header "+modelHeader)
	}
	d, err := h.opts.Decider.Decide(model, namedBy != byNothing, h.trust.Client(r.RemoteAddr, r.Header.Values("X-Forwarded-For")))
	if err != nil {
		return h.refusal(err, model, namedBy)
	}
	first := &d.Candidates[0]
	base, err := h.base(first)
	if err != nil {
		return h.refusal(err, model, namedBy)
	}
	a := answer{
		status: http.StatusTemporaryRedirect, result: resultRedirected, namedBy: namedBy, location: base + t.carry(), decision: d.ID,
		content: struct {
			Region regions.ID `json:"region"`
		}{first.Region},
	}
	if d.AllLost {
		a.result, a.degraded = resultDegraded, true
	}
	return a
}

// refusal is the answer where no region was chosen.
func (h *Handler) refusal(err error, model regions.ModelName, namedBy string) answer {
	a := answer{status: http.StatusServiceUnavailable, namedBy: namedBy}
	var text string
	switch {
	case errors.Is(err, ErrUnknownModel):
		a.status, a.result = http.StatusNotFound, resultUnknownModel
		text = "Request for unknown model: '" + string(model) + "' is not found"
	case errors.Is(err, ErrBarred):
		a.result, a.retryAfter = resultBarred, jitter(retryBarred)
		text = "every region is drained; retry later"
	default:
		if !errors.Is(err, ErrNotReady) {
			h.opts.Logger.Error("no region to send a client to", "model", model, "error", err)
		}
		a.result, a.retryAfter = resultNotReady, jitter(retryNotReady)
		text = "nothing is known of the regions yet; retry later"
	}
	a.content = problem{text}
	return a
}

func jitter(lowest int) int { return lowest + rand.IntN(2*lowest+1) }

// write counts the answer and sends it. What follows the sending is no longer
// the client's wait.
func (h *Handler) write(w http.ResponseWriter, r *http.Request, a answer, start time.Time) {
	head := w.Header()
	head.Set("Cache-Control", "no-store")
	head.Set("Content-Type", "application/json")
	head.Set("X-Content-Type-Options", "nosniff")
	for name, value := range map[string]string{
		"Location": a.location, "Rhumb-Decision": a.decision, "Allow": a.allow, "WWW-Authenticate": a.authenticate,
	} {
		if value != "" {
			head.Set(name, value)
		}
	}
	if a.degraded {
		head.Set("Rhumb-Degraded", allLost)
	}
	if a.retryAfter > 0 {
		head.Set("Retry-After", strconv.Itoa(a.retryAfter))
	}
	body, err := json.Marshal(a.content)
	if err != nil { // all contents are strings, numbers and addresses
		h.opts.Logger.Error("encode an answer", "error", err)
	}
	h.metrics.count(a, time.Since(start))
	send(w, r, a.status, append(body, '\n'))
}
