package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/director/latency"
	"github.com/rhumb-lb/rhumb/director/node/statefile"
	"github.com/rhumb-lb/rhumb/dnsserver"
	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admin"
)

// Node is a director's daemon. Make it with [New], then [Node.Run] it once.
type Node struct {
	opts     Options
	log      *slog.Logger
	gossip   *gossip.Node
	keeper   *statefile.Keeper
	mind     *mind
	prober   *prober
	prior    latency.Prior
	answerer *answerer
	dns      *dnsserver.Server
	http     *front // the redirector
	admin    *admin.Mux

	listeners []net.Listener
	private   net.Listener  // the admin API's, nil if there is none
	wake      chan struct{} // holds one wake-up of the mind
	planned   chan struct{} // holds one wake-up of the spiller
	changed   chan struct{} // holds one wake-up of who saves the state
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
		wake: make(chan struct{}, 1), planned: make(chan struct{}, 1), changed: make(chan struct{}, 1), killed: make(chan struct{}),
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
	counters := newMetrics(o.Registry)
	n.keeper = statefile.NewKeeper(o.StateFile, statefile.Owner{
		Zone: canonical(o.Zone.Name), Member: o.Gossip.Name, Fleet: o.Gossip.Roots.IDs(),
	}, o.Now(), n.log, counters.unsaved.Inc)
	kept := n.keeper.State()
	g.Epochs, g.Memory = n.keeper, kept.Gossip
	node, err := gossip.New(g)
	if err != nil {
		return err
	}
	n.gossip = node
	n.prober = newProber(o.Dial, o.ProbeTLS, n.log, n.nudge)
	counts := newDemand()
	n.mind = &mind{
		snapshot: node.Snapshot, heard: node.Synced, probes: n.prober.all, demand: counts,
		log: n.log, metrics: counters, onPlan: n.onPlan, set: o.settings(), cells: o.Geo.Cells(),
		labels: newLabels(o.Hosts, kept.Names), control: kept.Control,
	}
	n.answerer = &answerer{
		zone: canonical(o.Zone.Name), now: o.Now, world: &n.mind.world, decided: counts.decided, name: o.Gossip.Name,
	}
	n.mind.step(o.Now()) // there is always a world, if an empty one

	names := dnsserver.DefaultOptions()
	names.Zone, names.Listen, names.Answerer = dnsZone(o), o.DNS, n.answerer
	names.NSID, names.Logger, names.Registry = o.Gossip.Name, o.Logger.With("director", o.Gossip.Name), o.Registry
	if n.dns, err = dnsserver.New(names); err != nil {
		return err
	}
	handler, err := n.redirector(o)
	if err != nil {
		return err
	}
	n.http = newFront(handler, o.RedirectTLS, n.log)
	n.admin = n.adminMux()
	n.admin.Set(o.Admin)
	return nil
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
		n.private = l
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
	g.Go(func() error { return n.save(parts) })
	for _, l := range n.listeners {
		g.Go(func() error {
			return n.http.serve(l)
		})
	}
	if n.private != nil {
		g.Go(func() error { return n.admin.Serve(parts, n.private) })
	}
	g.Go(func() error {
		select {
		case <-parts.Done():
			return n.http.server.Close()
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

// saveEvery is how often the state is written, changed or not: always the same
// work, 20 KB for three regions, and never more than five seconds of the regions'
// words are lost. What is learnt or judged anew is written at once, but for
// saveApart, so that a flapping region does not wear the disk out.
const (
	saveEvery = 5 * time.Second
	saveApart = 500 * time.Millisecond
)

// save keeps the state every saveEvery and soon after something decisive changed,
// and once more at the end, until ctx is done. Nothing is kept before enough of
// the fleet was heard of: what is on disk knows more.
func (n *Node) save(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	keep := func() {
		if w := n.mind.world.Load(); w.synced {
			n.keeper.Keep(statefile.State{Saved: n.opts.Now().Round(0), Gossip: n.gossip.Memory(), Names: w.learnt, Control: w.control})
		}
	}
	apart := time.NewTimer(0)
	defer apart.Stop()
	for ctx.Err() == nil {
		keep()
		apart.Reset(saveApart)
		select {
		case <-ctx.Done():
		case <-apart.C:
		}
		select {
		case <-ctx.Done():
		case <-n.changed:
		case <-tick.C:
		}
	}
	if !n.isKilled() { // a crash keeps nothing
		keep()
	}
	return nil
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
		_ = n.http.server.Close()
	}
	for _, l := range n.listeners {
		_ = l.Close()
	}
	if n.private != nil {
		_ = n.private.Close()
	}
	if n.gossip != nil {
		n.gossip.Kill()
	}
}

// nudge wakes the mind.
func (n *Node) nudge() { wake(n.wake) }

// wake leaves one wake-up, if none waits.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (n *Node) onPlan(c Change) {
	if c.Urgent {
		wake(n.planned)
		wake(n.changed)
	}
	if n.opts.OnPlan != nil {
		n.opts.OnPlan(c)
	}
}
