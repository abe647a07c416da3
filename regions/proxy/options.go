package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admit"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/proxy/link"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
)

// Options say what a proxy works with. Region and Pool are required.
type Options struct {
	// Region is this region; it is told to clients and to regions that are
	// spilled to.
	Region regions.ID
	// Pool gives out pods. Whoever makes it tells [Proxy.Free] when a pod may have
	// become free.
	Pool *pool.Pool
	// Spill gives out other regions when Pool refuses. Nil: never.
	Spill Spiller
	// Vouch makes the word by which another region lets a request in that this one sends
	// on. Nil: this region's name, which convinces nobody.
	Vouch func(to regions.ID, req regions.Request) string
	// Admit lets requests wait for a place.
	Admit admit.Options
	// Observe is told what requests see of pods in passing. It is called on the
	// path of requests, so it must not block. Nil: nobody.
	Observe func(regions.Observation)
	// Load is told what pods say of their load in their answers (the value of Triton's
	// endpoint-load-metrics), which they are asked for unless it is nil. Like Observe
	// it must not block.
	Load func(pod regions.PodID, model regions.ModelName, report string)
	// Now is the clock by which pods are claimed and requests are timed; the
	// system's if nil. Deadlines of sockets always follow the system's.
	Now func() time.Time
	// Dial opens connections to pods and regions; [link.Dialer]'s if nil.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// SpillTLS is used towards https endpoints of other regions. Nil: the
	// system's roots, no client certificate.
	SpillTLS *tls.Config
	// Routes are how requests of each model are treated.
	Routes map[regions.ModelName]Route
	// Limits bound a request. The zero value stands for DefaultLimits.
	Limits Limits
	// ExposePod adds the pod's ID to answers.
	ExposePod bool
	// Logger and Registry may be nil.
	Logger   *slog.Logger
	Registry *prometheus.Registry
}

// Route is how one model's requests are treated when a pod is lost. The zero value
// does what it can for a model of which nothing is known.
type Route struct {
	// Profile tells how its pods talk, without which no stream is resumed.
	Profile resume.Profile
	// NoReplay keeps generation that was lost before its first event from being sent
	// again, and NoResume cut streams from going on elsewhere.
	NoReplay, NoResume bool
}

// Limits bound what one request may take. Only Total bounds the whole of a request: a
// generation may run for hours as long as it moves.
type Limits struct {
	// FirstByte is the longest wait for the first byte of a pod's answer, once the
	// request has its pod.
	FirstByte time.Duration
	// Token is the longest wait between two reads from a pod after that.
	Token time.Duration
	// Idle is how long a stream of calls may wait for its client between two requests.
	Idle time.Duration
	// Total is the longest that a request may take in all; 0 is no limit.
	Total time.Duration
	// ClientStall is how long writes to the client may block for a KiB of an answer,
	// or for one of them where it is larger: 32 KiB at most.
	ClientStall time.Duration
	// BodyStall is how long a client may take for the next KiB of its body.
	BodyStall time.Duration
	// Dial bounds connecting to a pod or a region, and once more the TLS
	// handshake where there is one.
	Dial time.Duration
	// Body is the largest request body in bytes; beyond it the answer is 413.
	Body int64
	// Buffer is the largest body in bytes that is kept for a replay. A larger
	// one streams through.
	Buffer int64
	// Replays is how many times a request is sent again that a place was lost with.
	Replays int
	// Misses is how many more places are tried for those that it could not even be
	// sent to.
	Misses int
}

// DefaultLimits are argued one by one:
//
//   - 600 s for the first byte and between two reads from a pod, the usual proxy
//     setting for language models: a long prompt behind a full queue is slow, not
//     lost. A pod that is dead is found out by its probes.
//   - 30 s for a KiB of a body or of an answer, so that a sender or reader of single
//     bytes can't hold a connection for long, while a phone on a bad line can pause.
//     An answer waits for its client only when the buffers of the kernels on the way
//     are full, of 10,000 tokens and more; by then a pod's slot waits, too.
//   - 10 min for the next request of a stream: it holds no pod meanwhile, and 60 KiB of
//     memory. Other proxies allow five; who asks less often can open a stream for it.
//   - 2 s to connect: one lost SYN is sent again after 1 s.
//   - 100 MiB of body: images and audio as base64.
//   - 1 MiB kept for a replay: a prompt of 250,000 tokens; 1,000 requests at
//     once hold 1 GiB at the worst.
//   - 1 replay: what was lost twice may well be what kills pods.
//   - 8 misses: nobody did any work for them, and refusals come back in
//     microseconds, so that a region whose pods all crash at once still spills;
//     with Dial that is 16 s at worst.
func DefaultLimits() Limits {
	return Limits{
		FirstByte:   600 * time.Second,
		Token:       600 * time.Second,
		Idle:        10 * time.Minute,
		ClientStall: 30 * time.Second,
		BodyStall:   30 * time.Second,
		Dial:        2 * time.Second,
		Body:        100 << 20,
		Buffer:      1 << 20,
		Replays:     1,
		Misses:      8,
	}
}

// DefaultOptions are the options of a region's proxy before the operator's.
func DefaultOptions(region regions.ID, pods *pool.Pool) Options {
	return Options{Region: region, Pool: pods, Limits: DefaultLimits(), Admit: admit.DefaultOptions()}
}

func (o Options) withDefaults() Options {
	if o.Limits == (Limits{}) {
		o.Limits = DefaultLimits()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Admit.MaxWait == 0 {
		o.Admit = admit.DefaultOptions()
	}
	o.Admit.Now, o.Admit.Registry = o.Now, o.Registry
	if o.Observe == nil {
		o.Observe = func(regions.Observation) {}
	}
	if o.Vouch == nil {
		o.Vouch = func(regions.ID, regions.Request) string { return string(o.Region) }
	}
	if o.Dial == nil {
		o.Dial = link.Dialer().DialContext
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
