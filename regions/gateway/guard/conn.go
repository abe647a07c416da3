package guard

import (
	"container/list"
	"context"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// conn is a connection as the listener gives it.
type conn struct {
	net.Conn
	guard  *Guard
	client netip.Addr // zero: exempt, or unknown
	draw   regions.Permille
	old    int64               // when it is for its age, Unix ns
	leave  atomic.Int64        // when it is asked to go, Unix ns
	use    atomic.Pointer[use] // nil before its first request; written under the guard's mu

	gone   bool              // not counted any more; guarded by the guard's mu, as are the following
	asked  regions.ModelName // for whose plan it is asked to go, if for one's
	places [2]place          // in the lists of all and of the client
	debt   float64           // requests given up and not forgotten
	since  time.Time         // when debt was reckoned
}

// Close closes the connection, which counts no more.
func (c *conn) Close() error {
	c.guard.mu.Lock()
	c.guard.forgetLocked(c)
	c.guard.mu.Unlock()
	return c.Conn.Close()
}

// NetConn is the connection below.
func (c *conn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends what is sent, as a server does that hangs up on a client which
// still sends: closing at once would reset the connection under the answer.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// SetLinger sets what closing does with what was not sent, for who resets a
// connection.
func (c *conn) SetLinger(seconds int) error {
	if tcp, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return tcp.SetLinger(seconds)
	}
	return nil
}

// place is where a connection stands in a list, if in any.
type place struct {
	in *list.List
	at *list.Element
}

// jitter is how far ages differ: connections that were opened together, after an
// outage say, should not all be opened anew together.
const jitter = 0.2

// clientOf is who a connection counts for.
func (r *rules) clientOf(remote net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(remote.String())
	if err != nil || r.exempt.Has(ap.Addr()) {
		return netip.Addr{}
	}
	addr := ap.Addr().Unmap().WithZone("")
	if addr.Is6() {
		addr = netip.PrefixFrom(addr, subscriber).Masked().Addr()
	}
	return addr
}

// subscriber is how many bits of an IPv6 address are one subscriber's network
// (RFC 6177 section 2: a /64 at least).
const subscriber = 64

// enter takes in a connection that was just accepted; it is nil if there is no
// room. Room is made where it costs least: by closing the connection from which
// nothing was heard for longest, or else the one that is idle for longest. A client
// that is at its own limit makes room among its own.
func (g *Guard) enter(raw net.Conn) *conn {
	rules, now := g.rules.Load(), g.now()
	if stage(g.stage.Load()) == full {
		g.metrics.refused.WithLabelValues("memory").Inc()
		return nil
	}
	client := rules.clientOf(raw.RemoteAddr())
	g.mu.Lock()
	defer g.mu.Unlock()
	if own := g.clients[client]; own != nil && rules.PerClient > 0 && own.count >= rules.PerClient && !g.makeRoomLocked(own, "client") {
		g.metrics.refused.WithLabelValues("client").Inc()
		return nil
	}
	if rules.Connections > 0 && g.all.count >= rules.Connections && !g.makeRoomLocked(&g.all, "connections") {
		g.metrics.refused.WithLabelValues("connections").Inc()
		return nil
	}
	c := &conn{Conn: raw, guard: g, client: client, draw: rand.N(regions.Whole), old: math.MaxInt64}
	if rules.Age > 0 {
		c.old = now.Add(time.Duration(float64(rules.Age) * (1 - jitter + 2*jitter*rand.Float64()))).UnixNano()
	}
	c.leave.Store(c.old)
	g.conns[c] = struct{}{}
	g.all.count++
	if client.IsValid() {
		if g.clients[client] == nil {
			g.clients[client] = &population{}
		}
		g.clients[client].count++
	}
	g.placeLocked(c, func(p *population) *list.List { return &p.silent })
	return c
}

// makeRoomLocked closes a connection that nobody will miss, if there is one.
func (g *Guard) makeRoomLocked(p *population, reason string) bool {
	oldest := p.silent.Front()
	if oldest == nil {
		oldest = p.idle.Front()
	}
	if oldest == nil {
		return false
	}
	g.closeLocked(oldest.Value.(*conn), reason)
	return true
}

// closeLocked closes a connection without waiting for its server to notice.
func (g *Guard) closeLocked(c *conn, reason string) {
	g.metrics.closed.WithLabelValues(reason).Inc()
	g.forgetLocked(c)
	_ = c.Conn.Close() // it is lost either way
}

// placeLocked moves a connection to the end of a list, or out of all if there is
// none for it.
func (g *Guard) placeLocked(c *conn, of func(*population) *list.List) {
	for i, p := range [...]*population{&g.all, g.clients[c.client]} {
		if was := &c.places[i]; was.in != nil {
			was.in.Remove(was.at)
			*was = place{}
		}
		if p != nil && of != nil {
			in := of(p)
			c.places[i] = place{in, in.PushBack(c)}
		}
	}
}

// forgetLocked counts a connection no more.
func (g *Guard) forgetLocked(c *conn) {
	if c.gone {
		return
	}
	c.gone = true
	g.placeLocked(c, nil)
	g.unuseLocked(c)
	delete(g.conns, c)
	g.all.count--
	if own := g.clients[c.client]; own != nil {
		if own.count--; own.count == 0 {
			delete(g.clients, c.client)
		}
	}
}

// changed follows the server's word on a connection.
func (g *Guard) changed(nc net.Conn, to http.ConnState) {
	c := below(nc)
	if c == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.gone {
		return
	}
	switch to {
	case http.StateActive:
		g.placeLocked(c, nil)
	case http.StateIdle:
		g.placeLocked(c, func(p *population) *list.List { return &p.idle })
	case http.StateNew, http.StateHijacked, http.StateClosed: // its Close tells
	}
}

// below finds a connection in what the server has of it, in which the listener's
// may be wrapped.
func below(nc net.Conn) *conn {
	for {
		if c, ok := nc.(*conn); ok {
			return c
		}
		wrapped, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		nc = wrapped.NetConn()
	}
}

type connKey struct{}

// introduce lets requests know their connection.
func introduce(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, below(nc))
}

// of is a request's connection, nil if none was introduced.
func of(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// use is what a connection was last used for, immutable.
type use struct {
	model regions.ModelName
	peer  bool // by another region's gateway
}

// maxModel is the longest name of a model in bytes, a file's. What is longer has no
// row, and is not kept: a client could have each connection hold 32 KiB, its head.
const maxModel = 255

// ForModel notes that a client's request is for a model: by the latest one a
// connection belongs to the clients whom [Guard.Leave] asks. The request has come on a
// connection that a guard introduced, or nothing is noted.
func ForModel(ctx context.Context, m regions.ModelName) {
	if c := of(ctx); c != nil && len(m) <= maxModel && !c.isFor(m) {
		c.guard.used(c, &use{model: regions.ModelName(strings.Clone(string(m)))}) // m is a part of a head
	}
}

// ForPeer notes that a request is another region's gateway's, which has been proved.
func ForPeer(ctx context.Context) {
	if c := of(ctx); c != nil && !c.isPeers() {
		c.guard.used(c, &use{peer: true})
	}
}

// used moves a connection to those of another model, or of none.
func (g *Guard) used(c *conn, to *use) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.gone {
		return
	}
	g.unuseLocked(c)
	c.use.Store(to)
	if to.peer {
		return
	}
	if g.uses[to.model] == nil {
		g.uses[to.model] = map[*conn]struct{}{}
	}
	g.uses[to.model][c] = struct{}{}
}

// unuseLocked takes a connection from those of its model.
func (g *Guard) unuseLocked(c *conn) {
	was := c.use.Load()
	if was == nil || was.peer {
		return
	}
	delete(g.uses[was.model], c)
	if len(g.uses[was.model]) == 0 {
		delete(g.uses, was.model)
	}
}

// isFor reports whether the connection's latest request was a client's for a model.
func (c *conn) isFor(m regions.ModelName) bool {
	u := c.use.Load()
	return u != nil && !u.peer && u.model == m
}

// isPeers reports whether the connection's latest request was another region's.
func (c *conn) isPeers() bool {
	u := c.use.Load()
	return u != nil && u.peer
}

// isDue reports whether the connection is to be ended with the next answer. Other
// regions' gateways know of themselves whether to come; a GOAWAY would meet requests of
// theirs on the way that must not be sent twice.
func (c *conn) isDue() bool { return c.guard.now().UnixNano() >= c.leave.Load() && !c.isPeers() }

// What a client may give up on one connection of HTTP/2. A request that is reset
// as soon as it is sent costs its sender two frames, and a pod the work of
// dropping it (CVE-2023-44487, and CVE-2025-8671 by resets of the server's own).
// The library bounds how many such requests run at once, not how many follow each
// other. Hedging clients and the stop buttons of a hundred streams stay below:
const (
	maxGivenUp     = 200.0 // at once: twice all streams of a connection
	givenUpForgets = 20.0  // a second in the long run: a full connection whose requests time out after 5 s
)

// gaveUp counts a request that ended before its answer did, and cuts a connection
// that has too many of them.
func (g *Guard) gaveUp(c *conn) {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.gone || !c.client.IsValid() {
		return
	}
	c.debt = owed(c.debt, now.Sub(c.since))
	c.since = now
	if c.debt > maxGivenUp {
		g.log.Debug("connection cut", "client", c.client, "reason", "too many requests were given up")
		g.closeLocked(c, "resets")
	}
}

// owed is the debt after one more request, some time after it was debt.
func owed(debt float64, after time.Duration) float64 {
	return max(0, debt-givenUpForgets*after.Seconds()) + 1
}
