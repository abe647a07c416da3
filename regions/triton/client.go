// Package triton asks a Triton server for its state over the KServe v2 HTTP
// protocol: whether a model is ready, whether the server is, what its repository
// holds, which load of a model it has, whether it generates at all, and what its
// metrics say of queues, caches and GPUs. It speaks to one server at a time and
// keeps nothing between calls; who asks when, and what follows, is the caller's.
//
// Every call uses a fresh connection. A Triton that drains goes on serving the
// connections it has, answering that it is ready, while it accepts new ones
// only to close them without a byte: an answer on a kept connection says
// nothing about what the next client will meet.
package triton

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Options configure a [Client].
type Options struct {
	// Dial opens a connection to a pod; nil dials TCP. It must return when ctx
	// is done.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Timeout bounds each call beside the caller's context, so that no call
	// hangs for ever. Zero means no bound of its own.
	Timeout time.Duration
	// Header is sent with every request, such as the key of a Triton that runs
	// with --http-restricted-api.
	Header http.Header
	// MaxBody is the largest answer that is read, in bytes.
	MaxBody int64
}

// DefaultOptions gives 5 s per call, far above what a health answer takes and
// short enough for a person who waits for an index; and 4 MiB per answer, an
// index of some 40,000 model versions.
func DefaultOptions() Options {
	return Options{Timeout: 5 * time.Second, MaxBody: 4 << 20}
}

// Client asks Triton servers over HTTP/1.1. It is safe for concurrent use.
type Client struct {
	options Options
}

// New makes a client. A field of o that must not be zero takes its default.
func New(o Options) *Client {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.MaxBody <= 0 {
		o.MaxBody = DefaultOptions().MaxBody
	}
	o.Header = o.Header.Clone()
	return &Client{options: o}
}

// ModelReady asks the server at an address whether it serves a model, any
// version of it, and says what was seen and how long that took. The error
// explains every sight but [regions.SawReady]:
//
//   - [regions.SawNotReady]: an answer other than 200, whatever it was. Triton
//     says 400 for a version that is not ready, 404 for a model that is unknown,
//     unloaded or still loading, 503 while it starts or exits.
//   - [regions.SawRefused]: no connection could be had.
//   - [regions.SawClosed]: the connection was had, and closed or reset before
//     the first byte of an answer.
//   - [regions.SawTimeout]: no answer before the context's deadline or
//     [Options.Timeout].
//   - zero: nothing was learnt of the pod, because ctx was cancelled or this
//     machine lacks file descriptors, ports or memory for a connection.
func (c *Client) ModelReady(ctx context.Context, at netip.AddrPort, model regions.ModelName) (regions.Sight, time.Duration, error) {
	sight, took, err := c.ready(ctx, at, "/v2/models/"+url.PathEscape(string(model))+"/ready")
	if err != nil {
		return sight, took, fmt.Errorf("ask pod %s whether model %q is ready: %w", at, string(model), err)
	}
	return sight, took, nil
}

// ServerReady asks whether the server as a whole is ready, with the sights of
// [Client.ModelReady]. It is a poor measure of whether a model is served: it
// fails while any model loads, and holds with every model unloaded.
func (c *Client) ServerReady(ctx context.Context, at netip.AddrPort) (regions.Sight, time.Duration, error) {
	sight, took, err := c.ready(ctx, at, "/v2/health/ready")
	if err != nil {
		return sight, took, fmt.Errorf("ask pod %s whether it is ready: %w", at, err)
	}
	return sight, took, nil
}

// ready makes one GET and reads its answer as a sight.
func (c *Client) ready(ctx context.Context, at netip.AddrPort, path string) (regions.Sight, time.Duration, error) {
	began := time.Now()
	got, err := c.exchange(ctx, at, call{method: http.MethodGet, path: path, bare: true})
	took := time.Since(began)
	switch {
	case err != nil:
		return sightOf(err), took, err
	case got.status == http.StatusOK:
		return regions.SawReady, took, nil
	default:
		return regions.SawNotReady, took, got.refusal()
	}
}
