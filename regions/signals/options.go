package signals

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/triton"
)

// Asker asks pods, as [triton.Client] does.
type Asker interface {
	// Metrics reads the page of the metrics server at an address.
	Metrics(ctx context.Context, at netip.AddrPort) (triton.Metrics, error)
	// Fingerprint tells which load of a model the server at an address has.
	Fingerprint(ctx context.Context, at netip.AddrPort, model regions.ModelName) (regions.Fingerprint, error)
}

// Options configure [Signals]. Start from [DefaultOptions].
type Options struct {
	// Busy is how often the metrics of a pod with requests are read, and Idle those
	// of the others.
	Busy, Idle time.Duration
	// Timeout bounds one reading.
	Timeout time.Duration
	// Concurrency is how many readings are made at a time.
	Concurrency int
	// Renew is how often it is asked anew which load of a model a pod has.
	Renew time.Duration
	// Slots is how many sequences a pod is taken to run at a time where nobody says,
	// and Learn has better numbers learnt from then on.
	Slots int
	Learn bool
	// InFlight is how many requests each pod has; nil takes every pod for busy.
	InFlight func() map[regions.PodID]int
	// OnFacts is told what is known of a pod and model whenever that has changed
	// or was said anew. Calls for one pod are in order and never overlap; after the
	// SetPods that removes it there are none. It must be quick and must not call the
	// Signals.
	OnFacts func(pod regions.PodID, model regions.ModelName, facts regions.Facts)
	// Now is the clock; nil uses the system's.
	Now func() time.Time
	// Logger gets a line when a pod can't be read, and when it can again. Nil
	// discards it.
	Logger *slog.Logger
	// Registry gets the metrics. Nil keeps them to the Signals.
	Registry *prometheus.Registry
}

// DefaultOptions reads a pod with requests each second, and an idle one each 5 s.
//
// What is read is a hint. What this agent has on a pod it counts itself, to the
// request; a page adds what others have there and how full the KV cache is, which
// moves by tokens, a percent or so in a second. Routers that know of pods only by
// their metrics read them each 50 ms, and herd between readings all the same. A
// page takes a Triton under a millisecond and 2 KB per model, on a connection of
// its own, so that a second is a thousandth of one core also with several agents.
// Triton renews its GPU gauges every 2 s.
//
// A page is there within milliseconds, also on a GPU that is full: 2 s are a pod
// that hangs. 32 at a time read 10,000 pods a second if each takes 3 ms. A model
// that comes back is asked for its fingerprint at once; the 30 s are for one that
// was loaded anew without ever being away. Eight sequences are what an inference
// server batches with its defaults on one GPU.
func DefaultOptions() Options {
	return Options{
		Busy: time.Second, Idle: 5 * time.Second, Timeout: 2 * time.Second, Concurrency: 32, Renew: 30 * time.Second,
		Slots: 8, Learn: true,
	}
}

func (o *Options) complete() {
	d := DefaultOptions()
	for _, x := range []struct{ given, fallback *time.Duration }{
		{&o.Busy, &d.Busy}, {&o.Idle, &d.Idle}, {&o.Timeout, &d.Timeout}, {&o.Renew, &d.Renew},
	} {
		if *x.given <= 0 {
			*x.given = *x.fallback
		}
	}
	if o.Concurrency <= 0 {
		o.Concurrency = d.Concurrency
	}
	if o.Slots <= 0 {
		o.Slots = d.Slots
	}
	if o.OnFacts == nil {
		o.OnFacts = func(regions.PodID, regions.ModelName, regions.Facts) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}
