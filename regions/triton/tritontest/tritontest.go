// Package tritontest simulates one NVIDIA Triton inference server, faithfully
// enough on the wire that a client can't tell by its HTTP answers: routes,
// status codes, bodies, event-stream framing, metrics text and the phases of a
// shutdown are those of Triton 2.73 with the vLLM or the TensorRT-LLM backend.
// What a GPU would do is replaced by a model of time (slots, queue, prefill,
// inter-token time) and by a pure function for the tokens, so that two pods
// continue a text in the same way.
//
// It is linked into programs as well as tests, so it uses the standard library
// only and never the testing package. Ways in which it knowingly differs:
// header fields are in alphabetical order, the offsets in the texts of JSON
// syntax errors are those of Go's parser, shared memory can't be registered,
// and malformed HTTP is answered by net/http.
package tritontest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
)

// ErrRunning is returned by Start for a pod that already listens.
var ErrRunning = errors.New("pod is running")

// ErrExitTimeout is returned by Shutdown when connections were still open at
// the end of the exit timeout (or of its context) and had to be cut.
var ErrExitTimeout = errors.New("exit timeout expired")

// Pod is one simulated Triton server. It may live several times: Start after
// Crash, Close or Shutdown begins a new process on the same addresses, with its
// models loaded anew and its Triton metrics at zero. The fault switches, Stats
// and Requests belong to the Pod and survive. All methods may be called from
// any goroutine.
type Pod struct {
	opts   Options
	log    *slog.Logger
	faults faults
	ledger *ledger

	life sync.Mutex // held for a transition: start or end of a process
	mu   sync.Mutex // guards the fields below
	proc *process
	addr string // as asked for, then as first bound
	meta string // the same for the metrics port
}

// New returns a pod that does not listen yet. Mistakes in opts are reported by
// Start.
func New(opts Options) *Pod {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if opts.Listen == nil {
		opts.Listen = new(net.ListenConfig).Listen
	}
	p := &Pod{
		opts: opts,
		log:  log.With("component", "tritontest", "pod", opts.Name),
		addr: opts.Addr,
		meta: opts.MetricsAddr,
	}
	p.faults.open = closedChan()
	names := make([]string, 0, len(opts.Models))
	for _, m := range opts.Models {
		names = append(names, m.Name)
	}
	p.ledger = newLedger(names, opts.LogSize)
	return p
}

// Run starts the pod and serves until ctx ends, then shuts it down as Triton
// does on SIGTERM (see Shutdown) and returns when all of its goroutines have.
func (p *Pod) Run(ctx context.Context) error {
	if err := p.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return p.Shutdown(context.WithoutCancel(ctx))
}

// Start listens and serves in the background; ctx bounds only the listening.
// After a first Start the pod keeps its addresses, so that a restarted pod is
// found where the crashed one was.
func (p *Pod) Start(ctx context.Context) error {
	p.life.Lock()
	defer p.life.Unlock()
	if p.current() != nil {
		return fmt.Errorf("start pod %s: %w: crash, close or shut it down first", p.opts.Name, ErrRunning)
	}
	if err := p.opts.validate(); err != nil {
		return fmt.Errorf("start pod %s: %w", p.opts.Name, err)
	}
	api, err := p.opts.Listen(ctx, "tcp", p.Addr())
	if err != nil {
		return fmt.Errorf("start pod %s: listen for HTTP: %w", p.opts.Name, err)
	}
	var metrics net.Listener
	if p.MetricsAddr() != "" {
		metrics, err = p.opts.Listen(ctx, "tcp", p.MetricsAddr())
		if err != nil {
			return errors.Join(fmt.Errorf("start pod %s: listen for metrics: %w", p.opts.Name, err), api.Close())
		}
	}
	proc := newProcess(p, api, metrics)
	p.mu.Lock()
	p.proc = proc
	p.addr = api.Addr().String()
	if metrics != nil {
		p.meta = metrics.Addr().String()
	}
	p.mu.Unlock()
	proc.start()
	p.log.Info("pod started", "addr", p.Addr(), "metrics", p.MetricsAddr())
	return nil
}

// Addr is the host:port of the inference API: as configured before the first
// Start, as bound after it.
func (p *Pod) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// MetricsAddr is the host:port of the metrics server, empty if there is none.
func (p *Pod) MetricsAddr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.meta
}

// Running tells whether the pod listens.
func (p *Pod) Running() bool { return p.current() != nil }

func (p *Pod) current() *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proc
}

// end takes the process out of the pod and ends it, if it is still the pod's.
// It returns when every goroutine of the process has ended, so Stats are final
// afterwards.
func (p *Pod) end(proc *process, reset bool, why string) {
	p.life.Lock()
	defer p.life.Unlock()
	if proc == nil || p.current() != proc {
		return
	}
	p.mu.Lock()
	p.proc = nil
	p.mu.Unlock()
	proc.kill(reset)
	p.log.Info("pod ended", "why", why, "addr", p.Addr())
}

// Crash ends the process as kill -9 or a lost node does: listeners and all
// connections are closed at once, those with a reset where the connection
// offers SetLinger, no answer is finished and no chunked body terminated. When
// it returns, Stats and Requests are final for everything that was running.
func (p *Pod) Crash() { p.end(p.current(), true, "crash") }

// Close ends the process at once like Crash, but without resets. It is for the
// end of a test or a program, and may be called on a pod that does not run.
func (p *Pod) Close() { p.end(p.current(), false, "close") }

// Shutdown ends the process in the phases of Triton's SIGTERM. First, new TCP
// connections are accepted and closed without a byte, while existing ones are
// fully served, new requests and readiness included. When none is left (idle ones
// count), or after Options.ExitTimeout or the end of ctx, the HTTP endpoint goes
// and what was open is cut (ErrExitTimeout); the metrics port closes last.
func (p *Pod) Shutdown(ctx context.Context) error {
	proc := p.current()
	if proc == nil {
		return nil
	}
	p.log.Info("pod draining", "exit_timeout", p.opts.ExitTimeout)
	left := proc.drain(ctx, p.opts.ExitTimeout)
	p.end(proc, false, "shutdown")
	if left > 0 {
		return fmt.Errorf("shut down pod %s: %w: %d connections cut", p.opts.Name, ErrExitTimeout, left)
	}
	return nil
}

func closedChan() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
