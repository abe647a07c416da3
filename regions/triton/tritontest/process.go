package tritontest

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/openai"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/rpc"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/socket"
)

// process is one life of a pod, from listening to the last closed socket.
type process struct {
	log  *slog.Logger
	core *core.Server
	rpc  *rpc.Server

	wg     sync.WaitGroup     // servers
	cancel context.CancelFunc // ends the life of start
	gone   chan struct{}      // closed when the process is killed

	listeners // nil where it has none
	servers   []*http.Server
	chat      *http.Server // the OpenAI frontend's
}

// listeners are those of a process by what they serve.
type listeners struct{ api, grpc, openai, metrics *socket.Listener }

// all lists those that are open, the API's first.
func (l listeners) all() []*socket.Listener {
	var out []*socket.Listener
	for _, ln := range []*socket.Listener{l.api, l.grpc, l.openai, l.metrics} {
		if ln != nil {
			out = append(out, ln)
		}
	}
	return out
}

// newProcess takes over the listeners. Nothing runs before start.
func newProcess(pod *Pod, ls listeners) *process {
	p := &process{log: pod.log, gone: make(chan struct{}), listeners: ls}
	p.core = core.New(core.Options{
		Models: pod.opts.Models, Explicit: pod.opts.Explicit, MetricsInterval: pod.opts.MetricsInterval,
		Faults: pod.Faults, Ledger: pod.ledger, Logger: pod.log,
	})
	return p
}

// lifeKey is the context that lasts as long as the process, in the contexts of
// its requests: what a request begins may outlive its client.
type lifeKey struct{}

func lifeOf(ctx context.Context) context.Context {
	life, _ := ctx.Value(lifeKey{}).(context.Context)
	return life
}

// server serves HTTP/1.1, which is all that libevhtp and uvicorn speak.
func (p *process) server(life context.Context, h http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	srv := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.gated(h, w, r) }),
		Protocols: protocols,
		ErrorLog:  slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(life, lifeKey{}, life)
		},
	}
	socket.Serve(srv)
	return srv
}

// start serves and loads the models.
func (p *process) start() {
	life, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.serve(p.server(life, http.HandlerFunc(p.serveAPI)), p.api)
	if p.metrics != nil {
		p.serve(p.server(life, http.HandlerFunc(p.serveMetrics)), p.metrics)
	}
	if p.openai != nil {
		p.chat = p.server(life, openai.New(life, p.core, p.metricsText))
		p.chat.IdleTimeout = openai.KeepAlive
		p.serve(p.chat, p.openai)
	}
	if p.grpc != nil {
		p.rpc = rpc.New(life, p.core)
		p.wg.Go(func() { p.ended(p.grpc, p.rpc.Serve(p.grpc)) })
	}
	p.core.Start(life)
}

func (p *process) serve(srv *http.Server, ln *socket.Listener) {
	p.servers = append(p.servers, srv)
	p.wg.Go(func() { p.ended(ln, srv.Serve(ln)) })
}

// ended tells of a server that has ended before its time.
func (p *process) ended(ln *socket.Listener, err error) {
	select {
	case <-p.gone:
	default:
		p.log.Info("listener ended; the pod accepts no more", "addr", ln.Addr().String(), "error", err)
	}
}

// gated holds every request while the pod hangs, then serves it with the
// headers that libevhtp sends: no Date.
func (p *process) gated(h http.Handler, w http.ResponseWriter, r *http.Request) {
	if !p.core.Pass(r.Context()) {
		panic(http.ErrAbortHandler)
	}
	w.Header()["Date"] = nil
	h.ServeHTTP(w, r)
}

// drain ends the frontends one after the other, for at most timeout together;
// then the core is exiting. It returns how many connections are left.
func (p *process) drain(ctx context.Context, timeout time.Duration) int {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var chat sync.WaitGroup
	if p.chat != nil {
		chat.Go(func() { _ = p.chat.Shutdown(ctx) }) // what it leaves is counted below
	}
	select {
	case <-p.api.Refuse():
	case <-ctx.Done():
	case <-p.gone:
		cancel() // crashed meanwhile
	}
	chat.Wait()
	left := len(p.api.Conns())
	for _, c := range p.api.Conns() {
		c.Cut(false)
	}
	if p.rpc != nil {
		p.rpc.Drain(ctx)
		left += p.rpc.Streams()
	}
	if p.openai != nil {
		left += len(p.openai.Conns())
	}
	p.core.Exit()
	select {
	case <-p.gone:
		return 0
	default:
		return left
	}
}

// kill closes every socket, the API's first, and waits for all goroutines.
func (p *process) kill(reset bool) {
	close(p.gone)
	for _, ln := range p.all() {
		ln.Silence(reset) // all at once: no slot that comes free here lets another speak
	}
	for _, ln := range p.all() {
		ln.Kill(reset)
	}
	p.cancel()
	if p.rpc != nil {
		p.rpc.Stop()
	}
	for _, ln := range p.all() {
		ln.Wait()
	}
	p.core.Wait()
	p.wg.Wait()
	for _, srv := range p.servers {
		_ = srv.Close() // nothing is open: this only frees the server
	}
}
