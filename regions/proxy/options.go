package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// Options say what a proxy works with. Region and Pool are required.
type Options struct {
	// Region is this region; it is told to clients and to regions that are
	// spilled to.
	Region regions.ID
	// Pool gives out pods.
	Pool *pool.Pool
	// Spill gives out other regions when Pool refuses. Nil: never.
	Spill Spiller
	// Observe is told what requests see of pods in passing. It is called on the
	// path of requests, so it must not block. Nil: nobody.
	Observe func(regions.Observation)
	// Now is the clock by which pods are claimed and requests are timed; the
	// system's if nil. Deadlines of sockets always follow the system's.
	Now func() time.Time
	// Dial opens connections to pods and regions; a net.Dialer's if nil.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// SpillTLS is used towards https endpoints of other regions. Nil: the
	// system's roots, no client certificate.
	SpillTLS *tls.Config
	// Limits bound a request. The zero value stands for DefaultLimits.
	Limits Limits
	// ExposePod adds the pod's ID to answers.
	ExposePod bool
	// Logger and Registry may be nil.
	Logger   *slog.Logger
	Registry *prometheus.Registry
}

// Limits bound what one request may take. None bounds the whole of a request: a
// generation may run for hours as long as it moves.
type Limits struct {
	// PodStall is the longest wait for a pod between two reads, the first
	// answer's wait included. A prompt may queue for minutes behind others.
	PodStall time.Duration
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
//   - 600 s between two reads from a pod, the usual proxy setting for language
//     models: a long prompt behind a full queue is slow, not lost.
//   - 30 s for a KiB of a body or of an answer, so that a sender or reader of single
//     bytes can't hold a connection for long, while a phone on a bad line can pause.
//     An answer waits for its client only when the buffers of the kernels on the way
//     are full, of 10,000 tokens and more; by then a pod's slot waits, too.
//   - 2 s to connect: one lost SYN is sent again after 1 s.
//   - 100 MiB of body: images and audio as base64.
//   - 1 MiB kept for a replay: a prompt of 250,000 tokens; 1,000 requests at
//     once hold 1 GiB at the worst.
//   - 2 replays: with the first that is the three attempts beyond which a
//     request does more harm than good; a crash of one pod takes one, and the
//     crash of another meanwhile the second.
//   - 8 misses: nobody did any work for them, and refusals come back in
//     microseconds, so that a region whose pods all crash at once still spills;
//     with Dial that is 16 s at worst.
func DefaultLimits() Limits {
	return Limits{
		PodStall:    600 * time.Second,
		ClientStall: 30 * time.Second,
		BodyStall:   30 * time.Second,
		Dial:        2 * time.Second,
		Body:        100 << 20,
		Buffer:      1 << 20,
		Replays:     2,
		Misses:      8,
	}
}

// DefaultOptions are the options of a region's proxy before the operator's.
func DefaultOptions(region regions.ID, pods *pool.Pool) Options {
	return Options{Region: region, Pool: pods, Limits: DefaultLimits()}
}

func (o Options) withDefaults() Options {
	if o.Limits == (Limits{}) {
		o.Limits = DefaultLimits()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(regions.Observation) {}
	}
	if o.Dial == nil {
		// A host that vanishes under a silent stream is noticed within
		// 15 s + 3 x 5 s, not after PodStall.
		d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
		}}
		o.Dial = d.DialContext
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
