package agent

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admin"
	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
	"github.com/rhumb-lb/rhumb/regions/livetls"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/probe"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/scale"
	"github.com/rhumb-lb/rhumb/regions/signals"
	"github.com/rhumb-lb/rhumb/regions/voucher"
)

// Agent is a region's daemon. Make it with [New], then [Agent.Run] it once.
type Agent struct {
	opts    Options
	log     *slog.Logger
	pool    *pool.Pool
	runner  *probe.Runner
	signals *signals.Signals
	gossip  *gossip.Node
	spill   *spiller
	proxy   *proxy.Proxy
	gateway *gateway.Gateway
	guard   *guard.Guard
	server  *http.Server
	tls     *livetls.Config
	admin   *admin.Mux

	listeners []net.Listener
	private   net.Listener // the admin API's, nil if there is none

	drain    atomic.Pointer[drain]
	farewell atomic.Pointer[farewell]
	stopped  atomic.Int64  // when the agent was told to end, Unix ns; 0 if not yet
	news     chan struct{} // holds one wake-up of the publisher
	killed   chan struct{}
	kill     sync.Once

	facts atomic.Pointer[scale.Facts] // what the demand is made from; nil before the first count

	podsMu sync.Mutex
	pods   [][]regions.Pod // by source, nil before its first set; guarded by podsMu
	peers  map[string]word // of the region's other agents, by name; guarded by podsMu
}

// New makes an agent and binds its addresses, so that they are known and an
// address that is taken is an error here. It starts nothing.
func New(o Options) (*Agent, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("agent of region %s: %w", o.Region, err)
	}
	a := &Agent{
		opts: o, log: o.Logger.With("component", "agent", "region", o.Region),
		news: make(chan struct{}, 1), killed: make(chan struct{}), pods: make([][]regions.Pod, len(o.Sources)), peers: map[string]word{},
	}
	a.drain.Store(&drain{})
	a.farewell.Store(&farewell{o.Linger, o.Grace})
	if err := a.assemble(); err != nil {
		return nil, fmt.Errorf("agent of region %s: %w", o.Region, err)
	}
	if err := a.bind(); err != nil {
		a.closeListeners()
		return nil, fmt.Errorf("agent of region %s: %w", o.Region, err)
	}
	return a, nil
}

// assemble makes the parts in the order of the data: pool and probes, status and
// gossip, and for requests proxy and gateway.
func (a *Agent) assemble() error {
	o := &a.opts
	parts := o.Logger.With("region", o.Region) // for those that say what component they are
	a.assemblePods(parts)
	g := o.Gossip
	g.OnRecord, g.Logger, g.Registry, g.Now = a.heard, o.Logger, o.Registry, o.Now
	node, err := gossip.New(g)
	if err != nil {
		return err
	}
	a.gossip = node
	a.assembleDoor(parts)
	o.Registry.MustRegister(&demand{facts: a.facts.Load, now: o.Now})
	a.admin = a.adminMux()
	a.admin.Set(o.Admin)
	return nil
}

// assemblePods makes what finds, probes and keeps the pods.
func (a *Agent) assemblePods(parts *slog.Logger) {
	o := &a.opts
	pools := pool.DefaultOptions()
	pools.Registry, pools.Seed = o.Registry, rand.Uint64()
	pools.OnFree, pools.OnDone = func(m regions.ModelName) { a.proxy.Free(m) }, a.ended
	pools.Selector = func(model regions.ModelName) balance.Selector {
		chosen, err := balance.ByName(o.balance(model), rand.New(rand.NewPCG(rand.Uint64(), 0)))
		if err != nil { // not after Options.complete
			return balance.LeastConnections{}
		}
		return chosen
	}
	for _, m := range o.Models {
		pools.Models = append(pools.Models, m.Name)
	}
	a.pool = pool.New(pools)
	found := discovery.NewMetrics(o.Registry)
	for _, s := range o.Sources {
		if r, ok := s.(reporter); ok {
			r.Report(parts, found)
		}
	}
	a.assembleAskers()
}

// assembleDoor makes what takes and forwards requests.
func (a *Agent) assembleDoor(parts *slog.Logger) {
	o := &a.opts
	a.spill = newSpiller(o.Region, regions.AgentID(o.Gossip.Name), a.gossip.Snapshot)
	to := proxy.DefaultOptions(o.Region, a.pool)
	to.Spill, to.Vouch, to.SpillTLS, to.Observe, to.Load = a.spill, a.vouch, a.spillTLS(), a.runner.Observe, a.loaded
	to.Dial, to.Limits, to.Admit, to.Now = o.Dial, o.Limits, o.Admit, o.Now
	to.Logger, to.Registry = parts, o.Registry
	to.Routes = map[regions.ModelName]proxy.Route{}
	for _, m := range o.Models {
		to.Routes[m.Name] = m.Route
	}
	a.proxy = proxy.New(to)
	door := gateway.DefaultOptions(a.proxy)
	door.Ready, door.Models, door.Affinity, door.Generates = a.ready, a.models, o.affinity, o.generates
	door.Policy, door.Version, door.Now = o.policy(), o.Version, o.Now
	door.Logger, door.Registry = parts, o.Registry
	door.Guest = a.guest(voucher.NewChecker(o.Region, o.Gossip.Roots))
	a.gateway = gateway.New(door)
	a.server = gateway.NewServer(a.gateway, o.Head, a.log)
	a.guard = guard.New(guard.Options{Limits: o.connections(), Now: o.Now, Logger: parts, Registry: o.Registry})
	a.guard.Attach(a.server)
	a.tls = livetls.New(o.serverTLS())
	a.server.TLSConfig = a.tls.Server("h2", "http/1.1")
}

func (a *Agent) bind() error {
	ctx := context.Background() // binding does not wait
	for _, address := range a.opts.Listen {
		l, err := a.opts.ListenStream(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		a.listeners = append(a.listeners, a.guard.Listen(l))
	}
	if a.opts.Admin.Listen == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", a.opts.Admin.Listen)
	if err != nil {
		return fmt.Errorf("admin API: %w", err)
	}
	a.private = l
	return nil
}

func (a *Agent) closeListeners() {
	for _, l := range a.listeners {
		_ = l.Close()
	}
	if a.private != nil {
		_ = a.private.Close()
	}
	a.gossip.Kill()
}

// Addrs are the gateway's addresses.
func (a *Agent) Addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, l := range a.listeners {
		if ap, err := netip.ParseAddrPort(l.Addr().String()); err == nil {
			out = append(out, ap)
		}
	}
	return out
}

// Kill ends the agent as a crash would: sockets are closed at once, nobody is
// told. [Agent.Run] then returns.
func (a *Agent) Kill() {
	a.kill.Do(func() {
		close(a.killed)
		a.gossip.Kill()
		_ = a.server.Close()
		a.closeListeners()
	})
}

// podChanged takes a probe's finding. A pod that shuts down waits for idle
// connections too, so those are closed.
func (a *Agent) podChanged(pod regions.PodID, model regions.ModelName, _, to regions.PodState, _ string) {
	a.pool.SetState(a.opts.Now(), pod, model, to)
	a.proxy.PodOut(pod, model, to == regions.PodGone)
	a.signals.Changed(pod, model, to)
	if to == regions.PodDraining {
		a.proxy.CloseIdle()
	}
}

// ready is the region's own answer to /v2/health/ready: some model has a pod
// that takes requests, and the region is not being drained.
func (a *Agent) ready() bool {
	if a.drains() {
		return false
	}
	for _, m := range a.pool.Models(a.opts.Now(), nil) {
		if m.Pods.Taking() > 0 {
			return true
		}
	}
	return false
}

func (a *Agent) models() []regions.ModelName {
	var out []regions.ModelName
	for _, m := range a.pool.Models(a.opts.Now(), nil) {
		out = append(out, m.Name)
	}
	return out
}

// heard takes what the fleet says besides statuses.
func (a *Agent) heard(r gossip.Received) {
	switch r.Body.Kind {
	case wire.Kind_SPILL:
		row, err := wire.DecodeSpillRow(r.Body.Payload)
		if err != nil {
			a.log.Warn("spill row not understood", "from", r.Body.Origin, "error", err)
			return
		}
		a.spill.heard(*row, r.Heard)
		if row.Source == a.opts.Region {
			a.guard.Leave(row.Model, row.Leave, leaveOver)
		}
	case wire.Kind_PODS:
		a.heardPeer(r)
	default:
	}
}

// leaveOver is the time in which the connections that a row asks to go do so, at a
// moment of its own each: as long as rows hold, and time for the share to fall again as
// the directors see the first of them gone. Their clients ask for the region's name
// again, and come in a stream rather than all at once.
const leaveOver = 30 * time.Second

// nudge wakes the publisher.
func (a *Agent) nudge() { wake(a.news) }

// wake leaves one wake-up, if none waits.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// reporter is a source of pods that has something to log and count. It is given
// where to before it runs.
type reporter interface {
	Report(log *slog.Logger, m *discovery.Metrics)
}
