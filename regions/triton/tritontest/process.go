package tritontest

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// process is one life of a pod, from listening to the last closed socket.
type process struct {
	pod     *Pod
	log     *slog.Logger
	repo    *repository
	gpu     gpuGauge
	exiting atomic.Bool // the core is EXITING

	wg     sync.WaitGroup     // servers, connections and loading models
	cancel context.CancelFunc // ends the life of start
	gone   chan struct{}      // closed when the process is killed

	servers   []*http.Server // of the listeners, in their order
	listeners []*listener    // the API's first

	mu      sync.Mutex // guards the fields below and the listeners' connections
	dead    bool
	refuses bool          // new connections of the API are closed unread
	idle    chan struct{} // closed when refusing and no API connection is left
}

// newProcess takes over the listeners. Nothing runs before start.
func newProcess(pod *Pod, api, metrics net.Listener) *process {
	p := &process{pod: pod, log: pod.log, gone: make(chan struct{}), idle: make(chan struct{})}
	p.repo = newRepository(p, pod.opts)
	p.listeners = append(p.listeners, &listener{Listener: api, proc: p, api: true, conns: make(map[*conn]struct{})})
	if metrics != nil {
		p.listeners = append(p.listeners, &listener{Listener: metrics, proc: p, conns: make(map[*conn]struct{})})
	}
	return p
}

// lifeKey is the context that lasts as long as the process, in the contexts of
// its requests: what a request begins may outlive its client.
type lifeKey struct{}

func lifeOf(ctx context.Context) context.Context {
	life, _ := ctx.Value(lifeKey{}).(context.Context)
	return life
}

func (p *process) server(life context.Context, h http.HandlerFunc) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // libevhtp speaks nothing else
	return &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.gated(h, w, r) }),
		Protocols: protocols,
		ErrorLog:  slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(life, lifeKey{}, life)
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			switch tracked := c.(*conn); state {
			case http.StateIdle:
				tracked.settle()
			case http.StateClosed:
				tracked.settle()
				tracked.forget()
			}
		},
	}
}

// start serves and loads the models.
func (p *process) start() {
	life, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	for _, ln := range p.listeners {
		handler := p.serveMetrics
		if ln.api {
			handler = p.serveAPI
		}
		srv := p.server(life, handler)
		p.servers = append(p.servers, srv)
		p.wg.Go(func() {
			err := srv.Serve(ln)
			select {
			case <-p.gone:
			default:
				p.log.Warn("listener ended; the pod accepts no more", "addr", ln.Addr().String(), "error", err)
			}
		})
	}
	p.repo.loadAll(life)
}

// gated holds every request while the pod hangs, then serves it with the
// headers that libevhtp sends: no Date.
func (p *process) gated(h http.HandlerFunc, w http.ResponseWriter, r *http.Request) {
	if !p.pod.faults.passable(r.Context()) {
		panic(http.ErrAbortHandler)
	}
	w.Header()["Date"] = nil
	h(w, r)
}

// drain refuses new API connections and waits until none is left, for at most
// timeout; then the core is exiting. It returns how many are left.
func (p *process) drain(ctx context.Context, timeout time.Duration) int {
	p.mu.Lock()
	p.refuses = true
	p.checkIdleLocked()
	p.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.idle:
	case <-timer.C:
	case <-ctx.Done():
	case <-p.gone:
		return 0 // crashed meanwhile
	}
	p.exiting.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.listeners[0].conns)
}

func (p *process) checkIdleLocked() {
	if !p.refuses || len(p.listeners[0].conns) > 0 {
		return
	}
	select {
	case <-p.idle:
	default:
		close(p.idle)
	}
}

// kill closes every socket, the API's first, and waits for all goroutines.
func (p *process) kill(reset bool) {
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
	close(p.gone)
	for _, ln := range p.listeners {
		for _, c := range ln.open() {
			c.silence() // all at once: no slot that comes free here lets another speak
		}
	}
	for _, ln := range p.listeners {
		_ = ln.Close() // a listener that is closed twice is still closed
		for _, c := range ln.open() {
			c.cut(reset)
		}
	}
	p.cancel()
	p.wg.Wait()
	for _, srv := range p.servers {
		_ = srv.Close() // nothing is open: this only frees the server
	}
}

// pause sleeps for d times the slowness of the pod, then as long as it hangs.
func (p *process) pause(ctx context.Context, d time.Duration) error {
	if err := p.sleepUntil(ctx, time.Now().Add(d*time.Duration(p.pod.faults.slowness()))); err != nil {
		return err
	}
	if !p.pod.faults.passable(ctx) {
		return ctx.Err()
	}
	return nil
}

func (p *process) sleepUntil(ctx context.Context, t time.Time) error {
	d := time.Until(t)
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

type connKey struct{}

// connOf is the connection that a request came on.
func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// listener tracks the connections that it accepted.
type listener struct {
	net.Listener
	proc  *process
	api   bool
	conns map[*conn]struct{} // guarded by proc.mu
}

// Accept returns the next connection that is to be served. While the API
// refuses, a new one is closed without a byte (Triton's pre-accept hook), which
// its client sees as an end of file, or as a reset if it has written already.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: raw, ln: l}
		l.proc.mu.Lock()
		refused := l.proc.dead || l.api && l.proc.refuses
		if !refused {
			l.conns[c] = struct{}{}
			l.proc.wg.Add(1)
		}
		l.proc.mu.Unlock()
		if !refused {
			return c, nil
		}
		_ = raw.Close() // nothing was promised on it
	}
}

func (l *listener) open() []*conn {
	l.proc.mu.Lock()
	defer l.proc.mu.Unlock()
	all := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		all = append(all, c)
	}
	return all
}

// conn knows how much of which request's answer the kernel took, so that the
// ledger can tell exactly which answers a client may have seen a byte of.
type conn struct {
	net.Conn
	ln *listener

	mu     sync.Mutex
	job    *job // under way or not yet settled; nil between requests
	broken bool // a write failed: the answer under way is not whole
	dead   bool // cut by the pod itself
	gone   bool // forgotten by the listener
}

// Write hands the bytes to the kernel and notes them.
func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.dead {
		c.broken = true
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	c.mu.Unlock()
	n, err := c.Conn.Write(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.broken = true
	}
	if n > 0 && c.job != nil {
		if c.job.sent == 0 {
			c.job.firstByte = time.Now()
		}
		c.job.sent += int64(n)
	}
	return n, err
}

// CloseWrite lets net/http end an answer before it closes a connection whose
// request it has not read to the end.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// silence lets no further write begin.
func (c *conn) silence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
}

// cut closes the connection from the pod's side, with a reset if asked for.
func (c *conn) cut(reset bool) {
	c.silence()
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok && reset {
		_ = l.SetLinger(0) // fails only on a closed socket
	}
	_ = c.Close() // it is cut either way
}

// streams tells whether the connection is in the middle of an event stream that
// has begun.
func (c *conn) streams() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.job != nil && c.job.stream && c.job.sent > 0 && c.job.end == running
}

// settle hands the job that has just ended to the ledger.
func (c *conn) settle() {
	c.mu.Lock()
	j := c.job
	c.job = nil
	if j == nil {
		c.mu.Unlock()
		return
	}
	end := j.end
	switch {
	case end != running && !c.broken:
	case c.dead:
		end = Cut
	case j.stream || end == Canceled:
		end = Canceled
	default:
		end = Undelivered
	}
	c.mu.Unlock()
	c.ln.proc.pod.ledger.settle(j, end)
}

// forget takes a closed connection off the list.
func (c *conn) forget() {
	p := c.ln.proc
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.gone {
		return
	}
	c.gone = true
	delete(c.ln.conns, c)
	p.checkIdleLocked()
	p.wg.Done()
}
