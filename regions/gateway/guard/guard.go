// Package guard bounds what the connections of a client port may take: how many
// there are, in all and from one client, how old they get, how often a client may
// give up requests on one, and how much memory all that goes on may have before
// no more is let in. It sees connections and requests, never what is in them.
//
// The limits of a connection's frames, heads and times are net/http's, set by the
// gateway; here is what that server leaves open.
package guard

import (
	"container/list"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
)

// Limits bound a port's connections. Zero is no limit, for each of them.
type Limits struct {
	// Connections is how many there are at once.
	Connections int
	// PerClient is how many of them one client may have: an IPv4 address, or the /64
	// of IPv6 that one subscriber is given. Not a /24 or /48: thousands of
	// subscribers share these, and one of them would shut the others out.
	PerClient int
	// Age is how old a connection gets before its client is asked to open another,
	// give or take a fifth, drawn for each. Answers that are under way are not cut.
	Age time.Duration
	// Memory is what may be alive in the process in bytes, without garbage.
	Memory int64
	// Exempt are networks of proxies and load balancers, behind which many clients
	// look like one: PerClient and the limit on requests that are given up are not
	// for them.
	Exempt []netip.Prefix
}

// DefaultLimits are argued one by one:
//
//   - 50,000 connections: an idle one holds some 20 KiB, so that is 1 GiB, and one
//     file descriptor, of which a container has a million.
//   - 2,000 per client: an office of a thousand people behind one address, with
//     two each. It takes 25 such addresses to fill the port.
//   - 5 minutes: long beside a handshake and a generation, and short beside the
//     hours for which a client would stay where DNS sent it once.
//   - Memory by [MemoryLimit].
func DefaultLimits() Limits {
	return Limits{Connections: 50_000, PerClient: 2_000, Age: 5 * time.Minute, Memory: MemoryLimit()}
}

// Options say what a guard works with; nil fields are well.
type Options struct {
	Limits Limits
	// Now is the clock; the system's if nil.
	Now      func() time.Time
	Logger   *slog.Logger
	Registry *prometheus.Registry

	alive func() int64 // bytes; what the runtime says if nil
}

// rules are limits made ready, immutable.
type rules struct {
	Limits
	exempt regions.TrustedProxies
}

// Guard watches over the connections of a server. [Guard.Attach] it to one, let
// that one serve listeners of [Guard.Listen], and [Guard.Run] it. It is safe for
// concurrent use.
type Guard struct {
	now     func() time.Time
	alive   func() int64
	log     *slog.Logger
	metrics *metrics
	rules   atomic.Pointer[rules]
	stage   atomic.Int32 // a stage

	mu      sync.Mutex
	conns   map[*conn]struct{}         // guarded by mu, as are the following
	clients map[netip.Addr]*population // those with a connection
	all     population
	shares  map[regions.ModelName]regions.Permille   // of Leave, but 0
	uses    map[regions.ModelName]map[*conn]struct{} // whose latest request was a client's for the model
	ending  bool                                     // LeaveAll was called
}

// population are connections, of one client or of all. Those that can be closed
// without loss are listed, the oldest in its state first.
type population struct {
	count  int
	silent list.List // of *conn: nothing was heard of them yet
	idle   list.List // of *conn: they wait for their next request
}

// New makes a guard. It starts nothing.
func New(o Options) *Guard {
	g := &Guard{
		now: o.Now, alive: o.alive, log: o.Logger,
		conns: map[*conn]struct{}{}, clients: map[netip.Addr]*population{},
		shares: map[regions.ModelName]regions.Permille{}, uses: map[regions.ModelName]map[*conn]struct{}{},
	}
	if g.now == nil {
		g.now = time.Now
	}
	if g.alive == nil {
		g.alive = alive
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.log = g.log.With("component", "guard")
	g.metrics = newMetrics(o.Registry, g.Connections)
	g.SetLimits(o.Limits)
	return g
}

// SetLimits changes over to other limits. Connections that are there stay, and
// keep their age.
func (g *Guard) SetLimits(l Limits) {
	g.rules.Store(&rules{l, regions.NewTrustedProxies(l.Exempt)})
}

// Connections is how many there are.
func (g *Guard) Connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all.count
}

// Leave asks a share of the connections that a model's clients have to go, each at a
// moment of its own within over: its next answer after that says so ("Connection:
// close" in HTTP/1.1, GOAWAY in HTTP/2), and what is under way ends in peace. The
// newest share counts: whose moment has not come when it falls is not asked any more.
//
// It is to be called with each row of the plan, though rows come each second. A
// connection has one draw for all its life, so that a share that stays is that of the
// connections which are there, and of those that come later, and not that share again
// each second: with 100 permille for half a minute nine of ten are never asked.
func (g *Guard) Leave(model regions.ModelName, share regions.Permille, over time.Duration) {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ending || share == 0 && g.shares[model] == 0 {
		return
	}
	if g.shares[model] = share; share == 0 {
		delete(g.shares, model)
	}
	// Not over all connections: in a region that is drained there is such a row for each
	// model, of each director, each second.
	for c := range g.uses[model] {
		switch goes := c.draw < share; {
		case goes && c.asked == "":
			c.asked = model
			g.askLocked(c, now, over)
		case !goes && c.asked == model && now.UnixNano() < c.leave.Load():
			c.asked = ""
			c.leave.Store(c.old)
		}
	}
}

// LeaveAll asks all connections to go, as [Guard.Leave] does some. It is for good.
func (g *Guard) LeaveAll(over time.Duration) {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ending = true
	for c := range g.conns {
		g.askLocked(c, now, over)
	}
}

// askLocked has a connection go within over, unless it does so anyway.
func (g *Guard) askLocked(c *conn, now time.Time, over time.Duration) {
	at := now
	if over > 0 {
		at = now.Add(rand.N(over))
	}
	if at := at.UnixNano(); at < c.leave.Load() {
		c.leave.Store(at)
	}
	g.metrics.asked.Inc()
}

// Attach puts the guard before a server's handler and beside its connections. Call
// it once, before the server serves.
func (g *Guard) Attach(s *http.Server) {
	s.ConnState = g.changed
	s.ConnContext = introduce
	s.Handler = g.handler(s.Handler)
}

// handler asks connections to leave whose time has come, and counts the requests
// that are given up.
func (g *Guard) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := of(r.Context())
		if c == nil {
			next.ServeHTTP(w, r)
			return
		}
		if r.ProtoMajor >= 2 {
			defer func() {
				if r.Context().Err() != nil {
					g.gaveUp(c)
				}
			}()
		}
		a := &answer{ResponseWriter: w, conn: c}
		next.ServeHTTP(a, r)
		a.begin()
	})
}

// answer is the writer of an answer, whose head may say that the connection ends
// with it. (net/http takes this field in an answer over HTTP/2 as the wish for a
// GOAWAY, after which running streams go on.)
type answer struct {
	http.ResponseWriter
	conn  *conn
	begun bool
}

// begin is called before the head is written, if it was not.
func (a *answer) begin() {
	if !a.begun && a.conn.isDue() {
		a.Header().Set("Connection", "close")
	}
	a.begun = true
}

// Unwrap lets http.ResponseController reach the server's writer.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader writes the head; interim ones are not the answer's.
func (a *answer) WriteHeader(status int) {
	if status >= http.StatusOK {
		a.begin()
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write writes a part of the body.
func (a *answer) Write(p []byte) (int, error) {
	a.begin()
	return a.ResponseWriter.Write(p)
}

// FlushError sends what is buffered, or the head.
func (a *answer) FlushError() error {
	a.begin()
	return http.NewResponseController(a.ResponseWriter).Flush()
}
