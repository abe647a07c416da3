// Package tritontest simulates one NVIDIA Triton inference server, faithfully
// enough on the wire that a client can't tell by its answers: routes,
// status codes, bodies, event-stream framing, gRPC messages, metrics text and the
// phases of a shutdown are those of Triton 2.73 with the vLLM or the TensorRT-LLM
// backend. This package is its life, the HTTP frontend and the metrics; package
// core is what happens behind, package rpc the gRPC and openai the third frontend.
// What a GPU would do is replaced by a model of time (slots, queue, prefill,
// inter-token time) and by a pure function for the tokens, so that two pods
// continue a text in the same way.
//
// It is linked into programs as well as tests, so it never uses the testing
// package. Ways in which it knowingly differs:
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

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/socket"
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
	*core.Faults // the switches: Hang, Slow, NotReady, Zombie, ErrorRate, FailInBand, Exiting, Heal

	opts   Options
	log    *slog.Logger
	ledger *core.Ledger

	life  sync.Mutex // held for a transition: start or end of a process
	mu    sync.Mutex // guards the fields below
	proc  *process
	addrs map[port]string // as asked for, then as first bound
}

// port is one of a pod's listeners.
type port int

const (
	apiPort port = iota
	grpcPort
	openaiPort
	metricsPort
)

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
	log = log.With("component", "tritontest", "pod", opts.Name)
	p := &Pod{
		Faults: core.NewFaults(log),
		opts:   opts,
		log:    log,
		addrs: map[port]string{
			apiPort: opts.Addr, grpcPort: opts.GRPCAddr, openaiPort: opts.OpenAIAddr, metricsPort: opts.MetricsAddr,
		},
	}
	names := make([]string, 0, len(opts.Models))
	for _, m := range opts.Models {
		names = append(names, m.Name)
	}
	p.ledger = core.NewLedger(names, opts.LogSize)
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
	ls, err := p.listen(ctx)
	if err != nil {
		return fmt.Errorf("start pod %s: %w", p.opts.Name, err)
	}
	proc := newProcess(p, ls)
	p.mu.Lock()
	p.proc = proc
	p.mu.Unlock()
	proc.start()
	p.log.Info("pod started", "addr", p.Addr(), "grpc", p.GRPCAddr(), "openai", p.OpenAIAddr(), "metrics", p.MetricsAddr())
	return nil
}

// listen opens all listeners or none.
func (p *Pod) listen(ctx context.Context) (listeners, error) {
	var ls listeners
	for _, want := range []struct {
		port port
		what string
		ln   **socket.Listener
	}{
		{apiPort, "HTTP", &ls.api}, {grpcPort, "gRPC", &ls.grpc}, {openaiPort, "OpenAI", &ls.openai}, {metricsPort, "metrics", &ls.metrics},
	} {
		addr := p.at(want.port)
		if addr == "" && want.port != apiPort {
			continue
		}
		ln, err := p.opts.Listen(ctx, "tcp", addr)
		if err != nil {
			err = fmt.Errorf("listen for %s: %w", want.what, err)
			for _, open := range ls.all() {
				err = errors.Join(err, open.Close())
			}
			return listeners{}, err
		}
		*want.ln = socket.New(ln)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for which, ln := range map[port]*socket.Listener{apiPort: ls.api, grpcPort: ls.grpc, openaiPort: ls.openai, metricsPort: ls.metrics} {
		if ln != nil {
			p.addrs[which] = ln.Addr().String()
		}
	}
	return ls, nil
}

func (p *Pod) at(which port) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addrs[which]
}

// Addr is the host:port of the HTTP frontend: as configured before the first
// Start, as bound after it.
func (p *Pod) Addr() string { return p.at(apiPort) }

// GRPCAddr is the host:port of the gRPC frontend, empty if there is none.
func (p *Pod) GRPCAddr() string { return p.at(grpcPort) }

// OpenAIAddr is the host:port of the OpenAI frontend, empty if there is none.
func (p *Pod) OpenAIAddr() string { return p.at(openaiPort) }

// MetricsAddr is the host:port of the metrics server, empty if there is none.
func (p *Pod) MetricsAddr() string { return p.at(metricsPort) }

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
// connections to the HTTP frontend are accepted and closed without a byte, while
// existing ones are fully served, new requests and readiness included; the OpenAI
// frontend closes its port and ends what it has. When no HTTP connection is left
// (idle ones count) the gRPC frontend goes: its connections are told to go away,
// and what its streams still ask for is refused. After Options.ExitTimeout or the
// end of ctx, what was open is cut (ErrExitTimeout); the metrics port closes last.
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

// CutStreams closes every connection on which a stream has sent at least one
// byte and is not at its end, without terminating the body; on gRPC whatever else
// is on that connection goes too. The pod goes on. It returns how many connections
// it cut; a stream whose last byte was under way may have been whole all the same,
// which Stats tells exactly.
func (p *Pod) CutStreams() int {
	proc := p.current()
	if proc == nil {
		return 0
	}
	var begun []*socket.Conn // before any is cut: that frees slots for other streams
	for _, ln := range proc.all() {
		for _, c := range ln.Conns() {
			if c.Streams() {
				begun = append(begun, c)
			}
		}
	}
	for _, c := range begun {
		c.Cut(false)
	}
	p.log.Info("fault", "cut_streams", len(begun))
	return len(begun)
}

// Stats returns the counters of a model; zero for one that the pod has not.
// Tokens of requests under way are not in it. A request is settled after the
// last write of its answer, so a client may hold a whole answer for a moment
// before Completed counts it. Over gRPC a byte counts as sent when it is handed
// to the HTTP/2 transport, a moment before the kernel has it.
func (p *Pod) Stats(model string) Stats { return p.ledger.Stats(model) }

// Requests returns the last Options.LogSize requests that ended, in the order
// in which they ended.
func (p *Pod) Requests() []Request { return p.ledger.Records() }
