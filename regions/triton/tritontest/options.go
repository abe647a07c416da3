package tritontest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// What a pod serves is described in the words of package core.
type (
	// Model describes one model of a pod and how fast it is.
	Model = core.Model
	// Stats counts the requests of one model.
	Stats = core.Stats
	// Request is one ended request, as the pod remembers it.
	Request = core.Record
	// End is how a request ended.
	End = core.End
	// Zombie is how a model fails whose backend has died unnoticed.
	Zombie = core.Zombie
)

// The backends of models, and the states of one.
const (
	VLLM    = core.VLLM
	TRTLLM  = core.TRTLLM
	Alive   = core.Alive
	Hanging = core.Hanging
	Failing = core.Failing
)

// The ends of a request: see core.
const (
	Completed   = core.Completed
	Failed      = core.Failed
	Rejected    = core.Rejected
	Canceled    = core.Canceled
	Undelivered = core.Undelivered
	Cut         = core.Cut
)

// DefaultModel returns a small vLLM model.
func DefaultModel(name string) Model { return core.DefaultModel(name) }

// Tokens returns the first n tokens that any pod generates for the prompt with
// a model of this name, of the usual checkpoint and that never stops by itself;
// joined, they are the text.
func Tokens(model, prompt string, n int) []string { return core.Tokens(model, prompt, n) }

// Options configures a Pod. Start from DefaultOptions.
type Options struct {
	// Name is for logs only.
	Name string
	// Addr is the host:port of the HTTP frontend; port 0 takes a free one, here
	// and below.
	Addr string
	// GRPCAddr, OpenAIAddr and MetricsAddr are those of the gRPC frontend, the
	// OpenAI frontend and the metrics server. An empty one is not served.
	GRPCAddr, OpenAIAddr, MetricsAddr string
	// Models of the repository.
	Models []Model
	// Explicit is --model-control-mode=explicit: load and unload work.
	Explicit bool
	// ExitTimeout is --exit-timeout-secs: see Pod.Shutdown.
	ExitTimeout time.Duration
	// MetricsInterval is --metrics-interval-ms: GPU gauges are taken at most so
	// often.
	MetricsInterval time.Duration
	// LogSize is how many ended requests Pod.Requests remembers.
	LogSize int
	// Listen opens the listeners, at Start and at every later one; nil listens
	// by net. Connections with SetLinger are reset by Crash, others closed.
	// Closing a connection must end its blocked reads and writes.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// Logger receives state changes at Info; nil is silent.
	Logger *slog.Logger
}

// DefaultOptions returns Triton's defaults on free loopback ports, in explicit
// mode and without models.
func DefaultOptions() Options {
	return Options{
		Name:            "triton",
		Addr:            "127.0.0.1:0",
		GRPCAddr:        "127.0.0.1:0",
		OpenAIAddr:      "127.0.0.1:0",
		MetricsAddr:     "127.0.0.1:0",
		Explicit:        true,
		ExitTimeout:     30 * time.Second, // Triton's default
		MetricsInterval: 2 * time.Second,  // Triton's default
		LogSize:         1024,             // a drill's burst; about 200 KB
	}
}

// validate names the first thing that can't be simulated.
func (o Options) validate() error {
	seen := make(map[string]bool)
	for i, m := range o.Models {
		if err := m.Validate(); err != nil {
			return fmt.Errorf("models[%d] %q: %w", i, m.Name, err)
		}
		if seen[m.Name] {
			return fmt.Errorf("models[%d] %q: name is taken by an earlier model; give each its own", i, m.Name)
		}
		seen[m.Name] = true
	}
	if o.ExitTimeout < 0 || o.MetricsInterval < 0 || o.LogSize < 0 {
		return errors.New("exit timeout, metrics interval and log size must not be negative")
	}
	return nil
}
