package tritontest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
)

// Flavour is the backend that a model runs on; it decides the model's inputs,
// its outputs and its metrics.
type Flavour int

const (
	// VLLM is Triton's vLLM backend: decoupled, waits inside the engine (the
	// pending gauge stays 0), no gauges of its own.
	VLLM Flavour = iota
	// TRTLLM is a TensorRT-LLM ensemble: max_tokens is a required input, and
	// nv_trt_llm_* gauges tell waiting and active requests and KV cache blocks.
	TRTLLM
)

// Model describes one model of a pod and how fast it is.
type Model struct {
	// Name as in the URL: no slash.
	Name string
	// Version is the only version of the model, at least 1.
	Version int
	// Flavour is the backend.
	Flavour Flavour
	// Coupled models answer each request once and serve infer; the others are
	// decoupled, as vLLM always is.
	Coupled bool
	// Slots is how many sequences run at once (the largest batch).
	Slots int
	// PrefillPerToken is the time to read one token of the prompt. A token is
	// a word between white space, and each further 8 bytes of a longer one.
	PrefillPerToken time.Duration
	// InterToken is the time between two tokens of a sequence that runs alone.
	InterToken time.Duration
	// BatchPenalty is by how much (permille) a token takes longer when all
	// slots are busy than alone; it grows linearly with the batch.
	BatchPenalty int
	// QueueLimit is max_queue_size of Triton's own scheduler: more waiting
	// requests are refused. 0 is no limit. With a limit or a timeout (or
	// Coupled) requests wait in that queue and count as pending; else they
	// wait inside of the backend, where Triton's metrics don't see them.
	QueueLimit int
	// QueueTimeout is default_timeout_microseconds of that queue. 0 is none.
	QueueTimeout time.Duration
	// LoadDelay passes before the model is READY, after Start and after a load.
	LoadDelay time.Duration
	// Unloaded keeps the model in the repository, not loaded at Start.
	Unloaded bool
	// MaxTokens is the context length: prompt and output together.
	MaxTokens int
	// StopEvery ends a text by itself (finish reason "stop") at one in so many
	// tokens on average; 0 is never. Like the tokens, it depends on the text only.
	StopEvery int
	// KVBlocks is the size of the KV cache in blocks of 64 tokens (TRTLLM).
	KVBlocks int
}

// DefaultModel returns a small vLLM model: 8 slots, 0.2 ms of prefill and 20 ms
// of decoding per token, twice that in a full batch (decoding is bound by
// memory, so a batch costs far less than its size).
func DefaultModel(name string) Model {
	return Model{
		Name:            name,
		Version:         1,
		Slots:           8,
		PrefillPerToken: 200 * time.Microsecond,
		InterToken:      20 * time.Millisecond,
		BatchPenalty:    1000,
		MaxTokens:       32768, // the context of the models in common use
		KVBlocks:        4096,  // 8 slots × 32768 tokens / 64
	}
}

// Options configures a Pod. Start from DefaultOptions.
type Options struct {
	// Name is for logs only.
	Name string
	// Addr and MetricsAddr are host:port to listen on; port 0 takes a free one.
	// An empty MetricsAddr means no metrics server.
	Addr, MetricsAddr string
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
		if err := m.validate(); err != nil {
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

func (m Model) validate() error {
	switch {
	case m.Name == "" || strings.Contains(m.Name, "/"):
		return errors.New("name must not be empty or contain a slash")
	case m.Version < 1:
		return errors.New("version must be at least 1; start from DefaultModel")
	case m.Slots < 1:
		return errors.New("slots must be at least 1; start from DefaultModel")
	case m.MaxTokens < 1:
		return errors.New("max tokens must be at least 1; start from DefaultModel")
	case m.Flavour == VLLM && m.Coupled:
		return errors.New("the vLLM backend is always decoupled; use TRTLLM for a coupled model")
	case m.Flavour == TRTLLM && m.KVBlocks < 1:
		return errors.New("KV blocks must be at least 1; start from DefaultModel")
	case min(m.PrefillPerToken, m.InterToken, m.QueueTimeout, m.LoadDelay) < 0,
		min(m.BatchPenalty, m.QueueLimit, m.StopEvery) < 0:
		return errors.New("times, penalty, queue limit and stop must not be negative")
	}
	return nil
}
