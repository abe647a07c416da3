package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/director/latency"
	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/dnsserver"
	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/regions"
)

// Node is a director's daemon. Make it with [New], then [Node.Run] it once.
type Node struct {
	opts     Options
	log      *slog.Logger
	gossip   *gossip.Node
	mind     *mind
	prober   *prober
	prior    latency.Prior
	answerer *answerer
	dns      *dnsserver.Server
	http     *http.Server // the redirector

	listeners []net.Listener
	admin     net.Listener
	wake      chan struct{} // holds one wake-up of the mind
	planned   chan struct{} // holds one wake-up of the spiller
	killed    chan struct{}
	kill      sync.Once
}

// New makes a director and binds its addresses, so that they are known and an
// address that is taken is an error here. It starts nothing.
func New(o Options) (*Node, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("director: %w", err)
	}
	n := &Node{
		opts: o, log: o.Logger.With("component", "director", "director", o.Gossip.Name),
		wake: make(chan struct{}, 1), planned: make(chan struct{}, 1), killed: make(chan struct{}),
	}
	err := n.assemble()
	if err == nil {
		err = n.bind()
	}
	if err != nil {
		n.closeAll()
		return nil, fmt.Errorf("director: %w", err)
	}
	return n, nil
}

// assemble makes the parts in the order of the data: gossip and probes, mind,
// answers, servers.
func (n *Node) assemble() error {
	o := &n.opts
	g := o.Gossip
	g.Logger, g.Registry, g.Now = o.Logger, o.Registry, o.Now
	node, err := gossip.New(g)
	if err != nil {
		return err
	}
	n.gossip = node
	n.prober = newProber(o.Dial, o.ProbeTLS, n.log, n.nudge)
	counts := newDemand()
	n.mind = &mind{
		snapshot: node.Snapshot, heard: node.Synced, probes: n.prober.all, demand: counts, geo: o.Geo, ttl: o.TTL,
		route: o.RouteAddrs, why: o.Why, log: n.log, metrics: newMetrics(o.Registry),
		cells: o.Geo.Cells(), labels: newLabels(o.Hosts), onPlan: n.onPlan,
	}
	n.answerer = &answerer{
		zone: canonical(o.Zone.Name), now: o.Now, world: &n.mind.world, decided: counts.decided, name: o.Gossip.Name,
	}
	n.mind.step(o.Now()) // there is always a world, if an empty one

	names := dnsserver.DefaultOptions()
	names.Zone, names.Listen, names.Answerer = o.Zone, o.DNS, n.answerer
	names.Zone.Reserved = []string{regionLabel, routeLabel, whyLabel}
	names.NSID, names.Logger, names.Registry = o.Gossip.Name, n.log, o.Registry
	if n.dns, err = dnsserver.New(names); err != nil {
		return err
	}
	to := redirect.DefaultOptions()
	to.Zone, to.Location, to.Scheme, to.Port = o.Zone.Name, o.Location, o.Scheme, o.Port
	to.TrustedProxies, to.Decider, to.Labels = o.TrustedProxies, n.answerer, n.answerer.label
	to.Logger, to.Registry = n.log, o.Registry
	handler, err := redirect.New(to)
	if err != nil {
		return err
	}
	n.http = redirectServer(handler, n.log)
	return nil
}

// redirectServer serves redirects: heads of up to 32 KiB within 5 s, and of
// bodies only what names the model. A client that sends more is not waited for.
func redirectServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: 60 * time.Second, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func (n *Node) bind() error {
	ctx := context.Background() // binding does not wait
	if err := n.dns.Bind(ctx); err != nil {
		return err
	}
	var lc net.ListenConfig
	for _, address := range n.opts.Redirect {
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("redirect: %w", err)
		}
		n.listeners = append(n.listeners, l)
	}
	if n.opts.Admin.Listen != "" {
		l, err := lc.Listen(ctx, "tcp", n.opts.Admin.Listen)
		if err != nil {
			return fmt.Errorf("admin API: %w", err)
		}
		n.admin = l
	}
	return nil
}

// Run runs the director until ctx is done or a part fails. It leaves gossip with
// a goodbye; answers end at once, since other name servers take over.
func (n *Node) Run(ctx context.Context) error {
	defer n.closeAll()
	n.answerer.started = n.opts.Now()
	g, parts := errgroup.WithContext(ctx)
	g.Go(func() error { return n.gossip.Run(parts) })
	g.Go(func() error {
		return n.prober.run(parts, n.Regions)
	})
	g.Go(func() error { return n.mind.run(parts, n.wake, n.gossip.Changes(), n.opts.Now) })
	g.Go(func() error { return n.spill(parts, n.planned) })
	g.Go(func() error { return n.dns.Run(parts) })
	for _, l := range n.listeners {
		g.Go(func() error {
			if err := n.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("redirect on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	if n.admin != nil {
		g.Go(func() error { return n.adminMux().Serve(parts, n.admin) })
	}
	g.Go(func() error {
		select {
		case <-parts.Done():
			return n.http.Close()
		case <-n.killed:
			return errKilled
		}
	})
	n.log.Info("director runs", "zone", n.opts.Zone.Name, "dns", n.dns.Addrs())
	err := g.Wait()
	if n.isKilled() {
		return nil
	}
	return err
}

// errKilled ends all parts of a killed director.
var errKilled = errors.New("killed")

func (n *Node) isKilled() bool {
	select {
	case <-n.killed:
		return true
	default:
		return false
	}
}

// Addrs are the name server's addresses.
func (n *Node) Addrs() []netip.AddrPort { return n.dns.Addrs() }

// Table is the current routing table.
func (n *Node) Table() *director.Table { return n.mind.world.Load().table }

// Regions are the regions as their newest statuses add up.
func (n *Node) Regions() []regions.Region { return n.gossip.Snapshot().Regions() }

// OldestStatus is the region with the stalest status and its age, 0 if there is
// none.
func (n *Node) OldestStatus() (id regions.ID, age time.Duration) {
	now := n.opts.Now()
	for _, r := range n.Regions() {
		if a := now.Sub(r.Heard); a > age {
			id, age = r.ID, a
		}
	}
	return id, age
}

// Kill ends the director as a crash would: sockets are closed at once, nobody is
// told. [Node.Run] then returns.
func (n *Node) Kill() {
	n.kill.Do(func() {
		close(n.killed)
		n.gossip.Kill()
		n.closeAll()
	})
}

// closeAll closes every socket that is open, also those of a node that could not
// be made.
func (n *Node) closeAll() {
	if n.dns != nil {
		n.dns.Kill()
	}
	if n.http != nil {
		_ = n.http.Close()
	}
	for _, l := range n.listeners {
		_ = l.Close()
	}
	if n.admin != nil {
		_ = n.admin.Close()
	}
	if n.gossip != nil {
		n.gossip.Kill()
	}
}

// nudge wakes the mind.
func (n *Node) nudge() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *Node) onPlan(c Change) {
	if c.Urgent {
		select {
		case n.planned <- struct{}{}:
		default:
		}
	}
	if n.opts.OnPlan != nil {
		n.opts.OnPlan(c)
	}
}
