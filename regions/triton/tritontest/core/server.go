// Package core is what the frontends of a simulated Triton server share: the
// repository of models, a scheduler with slots and a queue, a backend that takes
// a model's time and says what a pure function says, the switches that break it,
// and the ledger of all requests.
package core

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// What a Triton says of itself.
const (
	ServerName    = "triton"
	ServerVersion = "2.73.0"
)

// Extensions are those of the protocol that a Triton has.
var Extensions = []string{
	"classification", "sequence", "model_repository", "model_repository(unload_dependents)", "schedule_policy", "model_configuration",
	"system_shared_memory", "cuda_shared_memory", "binary_tensor_data", "parameters", "statistics", "trace", "logging",
}

// Options configures a Server. Faults and Ledger outlive it.
type Options struct {
	Models          []Model
	Explicit        bool          // load and unload work
	MetricsInterval time.Duration // GPU gauges are taken at most so often
	Faults          *Faults
	Ledger          *Ledger
	Logger          *slog.Logger
}

// Server is one life of Triton's core. All methods may be called from any
// goroutine.
type Server struct {
	faults   *Faults
	ledger   *Ledger
	log      *slog.Logger
	repo     *repository
	gpu      gpuGauge
	interval time.Duration
	exiting  atomic.Bool
	wg       sync.WaitGroup // models that load
}

// New returns a server whose models are not loaded yet.
func New(opts Options) *Server {
	s := &Server{faults: opts.Faults, ledger: opts.Ledger, log: opts.Logger, interval: opts.MetricsInterval}
	s.repo = newRepository(s, opts)
	return s
}

// Start begins to load the models that are loaded at start. They stop loading at
// the end of life.
func (s *Server) Start(life context.Context) { s.repo.loadAll(life) }

// Wait returns when no model is loading any more.
func (s *Server) Wait() { s.wg.Wait() }

// Exit makes the core say that it is exiting.
func (s *Server) Exit() { s.exiting.Store(true) }

// Exiting tells whether the core is exiting.
func (s *Server) Exiting() bool { return s.exiting.Load() || s.faults.isExiting() }

// Serving is the core's own check before most calls.
func (s *Server) Serving() *Error {
	if s.Exiting() {
		return Unavailable("Server not ready")
	}
	return nil
}

// Ready is the server's readiness under --strict-readiness: every model that was
// ever loaded is READY and well, or was unloaded.
func (s *Server) Ready() bool { return !s.Exiting() && s.repo.ready() }

// Lookup finds a model version that can serve; an empty version is any.
func (s *Server) Lookup(name, version string) (*Engine, *Error) { return s.repo.lookup(name, version) }

// ModelReady is nil for a model version that is loaded and whose backend says
// that it is well.
func (s *Server) ModelReady(name, version string) *Error {
	e, err := s.repo.lookup(name, version)
	if err != nil {
		return err
	}
	if err := s.Serving(); err != nil {
		return err
	}
	if s.faults.isNotReady(e.model.Name) {
		return Invalid("Model version not ready")
	}
	return nil
}

// Loaded lists the models that are ready, by name.
func (s *Server) Loaded() []Loaded { return s.repo.loaded() }

// Index lists the models of the repository, by name.
func (s *Server) Index(readyOnly bool) []IndexRow { return s.repo.index(readyOnly) }

// Load loads a model and returns when it is READY, or at the end of life.
func (s *Server) Load(life context.Context, model string) *Error {
	if err := s.repo.controllable(); err != nil {
		return err
	}
	done := s.repo.load(life, model)
	if done == nil {
		return Internal("failed to load '%s', failed to poll from model repository", model)
	}
	select {
	case <-done:
	case <-life.Done():
	}
	return nil
}

// Unload stops a model for new requests; those under way finish.
func (s *Server) Unload(model string) *Error {
	if err := s.repo.controllable(); err != nil {
		return err
	}
	s.repo.unload(model)
	return nil
}

// Begin enters a request for the model in the ledger.
func (s *Server) Begin(frontend string, m Model, q Request, stream bool) *Job {
	return s.ledger.Begin(frontend, m, q, stream)
}

// Pause sleeps for d times the slowness of the pod, then as long as it hangs.
func (s *Server) Pause(ctx context.Context, d time.Duration) error {
	if err := sleep(ctx, d*time.Duration(s.faults.slowness())); err != nil {
		return err
	}
	if !s.faults.passable(ctx) {
		return ctx.Err()
	}
	return nil
}

// Pass waits while the pod hangs; false means that ctx ended first.
func (s *Server) Pass(ctx context.Context) bool { return s.faults.passable(ctx) }

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// GPU is the share of the last whole interval in which anything ran.
func (s *Server) GPU() float64 { return s.gpu.read(time.Now(), s.interval) }

// errInBand ends a stream with an error event, by the FailInBand switch.
var errInBand = errors.New("in-band failure")

// What the simulated failures say, in the backend's form.
const simulatedFailure = "Error generating stream: simulated failure"

// Answer is how the responses of a request reach its client.
type Answer interface {
	// Send sends one response.
	Send(m Model, q Request, s Step) error
	// Finish ends the answer: with the error if it is not nil.
	Finish(err *Error) End
	// Events tells whether the answer is a stream.
	Events() bool
}

// Generate answers one request. It returns Running for an answer that was not
// ended because its client has left or the pod is gone.
func (s *Server) Generate(ctx context.Context, eng *Engine, j *Job, q Request, out Answer) End {
	refused := refuse(eng.model, q)
	if refused == nil && s.faults.fails() {
		refused = Internal(simulatedFailure)
	}
	if refused != nil {
		now := time.Now()
		eng.count(timing{arrived: now, begun: now}, nil)
		return out.Finish(eng.model.broken(refused))
	}
	n := 0
	err := eng.generate(ctx, j, q, func(one Step) error {
		n++
		if err := out.Send(eng.model, q, one); err != nil {
			return err
		}
		if out.Events() && s.faults.failsInBand(n) {
			return errInBand
		}
		return nil
	})
	switch {
	case err == nil:
		return out.Finish(nil)
	case errors.Is(err, errInBand):
		return out.Finish(eng.model.broken(Internal(simulatedFailure)))
	case errors.Is(err, errDead):
		return out.Finish(eng.model.broken(Internal(deadText)))
	case errors.Is(err, errQueueFull):
		full := Unavailable("%sExceeds maximum queue size", q.LogID())
		full.Early = true
		out.Finish(full)
		return Rejected
	case errors.Is(err, errQueueTimeout):
		out.Finish(Unavailable("Request timeout expired"))
		return Rejected
	}
	return Running
}

// broken is how an error of the model's backend is told: an ensemble names itself.
func (m Model) broken(err *Error) *Error {
	err.Late = true
	if m.Flavour == TRTLLM {
		err.Text = "in ensemble '" + m.Name + "', " + err.Text
	}
	return err
}

// refuse is what the backend finds wrong with a request before it queues it.
func refuse(m Model, q Request) *Error {
	switch {
	case q.unprompted:
		return Internal("Error generating stream: 'NoneType' object has no attribute 'as_numpy'")
	case q.garbled != "":
		return Internal("%s", q.garbled)
	case m.Flavour == VLLM && q.Stream && q.Prepend:
		return Internal("Error generating stream: When streaming, `exclude_input_in_output` = False is not allowed.")
	case q.MaxTokens < 1:
		return Internal("Error generating stream: max_tokens must be at least 1, got %d.", q.MaxTokens)
	case q.PromptTokens >= m.MaxTokens:
		return Internal("Error generating stream: The decoder prompt (length %d) is longer than the maximum model length of %d. "+
			"Make sure that `max_model_len` is no smaller than the number of text tokens.", q.PromptTokens, m.MaxTokens)
	}
	return nil
}
