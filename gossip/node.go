package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/gossip/relay"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// maxInbox is how many messages wait to be worked through: 2 s of statuses of
	// 200 members.
	maxInbox = 1024
	// maxStates is how many push/pull states wait, each up to 1 MiB.
	maxStates = 8
	// maxRecords is how many records wait for OnRecord.
	maxRecords = 256
	// leaveTimeout bounds the goodbye, which takes a gossip interval or two.
	leaveTimeout = 2 * time.Second
)

// Node is this process's membership in the fleet.
type Node struct {
	opts      Options
	now       func() time.Time
	log       *slog.Logger
	metrics   *metrics
	epochs    EpochStore
	transport memberlist.NodeAwareTransport
	addr      netip.AddrPort // as advertised

	members *members
	store   *store
	own     publisher
	lanes   *lanes
	relays  relays
	large   atomic.Bool // a record was too large for a packet

	syncedAt atomic.Pointer[time.Time] // from when on Synced holds; nil before the first status

	inbox   chan inbound
	states  chan inbound
	records chan Received
	changes chan struct{}

	ml      atomic.Pointer[memberlist.Memberlist] // nil before Run
	running atomic.Bool
	killed  chan struct{}
	kill    sync.Once
}

// New checks the options, takes the next epoch and binds the sockets, so that a
// wrong setting or a taken port shows here and Addrs is known; nothing is sent or
// received before Run. A node that is not run must be killed.
func New(o Options) (*Node, error) {
	n := &Node{
		opts: o, now: o.Now, log: o.Logger, metrics: newMetrics(), epochs: o.Epochs,
		store: newStore(),
		inbox: make(chan inbound, maxInbox), states: make(chan inbound, maxStates),
		records: make(chan Received, maxRecords), changes: make(chan struct{}, 1),
		killed: make(chan struct{}),
	}
	if n.now == nil {
		n.now = time.Now
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.log = n.log.With("component", "gossip", "member", o.Name)
	if n.epochs == nil {
		n.epochs = memoryEpochs{}
	}
	n.members = newMembers(n.now)
	n.own.records, n.own.kick = map[slot]Record{}, make(chan struct{}, 1)
	n.lanes = &lanes{open: map[string]*lane{}, send: n.sendStream, dropped: n.metrics.dropped.WithLabelValues("stream").Inc, failed: n.streamFailed}
	n.relays.queue = relay.New(relay.Limits{Retransmit: relayTimes, MaxSize: maxRelayed, MaxCount: maxRelays})
	if err := n.open(); err != nil {
		return nil, fmt.Errorf("gossip of %q: %w", o.Name, err)
	}
	return n, nil
}

// open does what of New can fail.
func (n *Node) open() error {
	if err := n.opts.check(n.now()); err != nil {
		return err
	}
	registry := n.opts.Registry
	if registry == nil {
		registry = prometheus.NewRegistry()
	}
	if err := n.register(registry); err != nil {
		return err
	}
	if err := n.firstEpoch(); err != nil {
		return err
	}
	n.store.addCert(n.opts.Identity.Cert)
	n.restore(n.opts.Memory)
	if n.transport = n.opts.Transport; n.transport == nil {
		s, err := bind(&n.opts, n.metrics)
		if err != nil {
			return err
		}
		n.transport = s
	}
	ip, port, err := n.transport.FinalAdvertiseAddr("", 0)
	if err != nil {
		return errors.Join(fmt.Errorf("find the own address: %w", err), n.transport.Shutdown())
	}
	addr, _ := netip.AddrFromSlice(ip)
	n.addr = netip.AddrPortFrom(addr.Unmap(), uint16(port))
	return nil
}

// Addrs are the addresses at which other members reach this one.
func (n *Node) Addrs() []netip.AddrPort { return []netip.AddrPort{n.addr} }

// Members lists all members that are known, this one among them, by name.
func (n *Node) Members() []Member { return n.members.all() }

// Heeds reports whether an audience has anybody in it besides this member.
func (n *Node) Heeds(to Audience) bool { return len(n.members.audience(n.opts.Name, to)) > 0 }

// Snapshot is the newest status of every agent that was heard of within Forget,
// whether its process is still a member or not, with ages by this member's
// clock. It is immutable, cheap to ask for, and never half of a push/pull's state.
//
// The age of a status that came by push/pull is the relay's word. It can't make
// a record that is already held younger, but one that is new here is as old as
// the relay says: a restarted member, which holds nothing, must take that until
// the agent is heard directly or its own probe has shown otherwise.
func (n *Node) Snapshot() regions.Snapshot { return n.store.snapshot() }

// syncGrace is how long after the first status every agent that speaks was heard:
// a second until all know of this member, two heartbeats, of which one may be lost,
// and 200 ms for the longest path.
const syncGrace = time.Second + 2*heartbeat + 200*time.Millisecond

// Synced reports whether Snapshot can be taken for a picture of the fleet rather
// than of who happened to speak first: the state of a director that is synced
// itself was merged, or 2.2 s have passed since the first status of another member
// was accepted. (Agents hear of other regions now and then, so that their states
// prove nothing.) Once true it stays so; Changes has a value when it becomes true.
func (n *Node) Synced() bool {
	at := n.syncedAt.Load()
	return at != nil && !n.now().Before(*at)
}

// Changes has a value whenever Snapshot may have changed since the last value
// was taken; changes in between are one.
func (n *Node) Changes() <-chan struct{} { return n.changes }

func (n *Node) changed() {
	select {
	case n.changes <- struct{}{}:
	default:
	}
}

// Run takes part until ctx ends; then it says goodbye, leaves and closes the
// sockets. It returns when all that it started has ended, but for memberlist's
// own goroutines, which follow within a probe's time. It can be called once.
func (n *Node) Run(ctx context.Context) error {
	if !n.running.CompareAndSwap(false, true) {
		return fmt.Errorf("gossip of %q: run twice", n.opts.Name)
	}
	c := n.config()
	if len(n.opts.Keys) > 0 {
		ring, err := memberlist.NewKeyring(n.opts.Keys, n.opts.Keys[0])
		if err != nil {
			return errors.Join(fmt.Errorf("gossip of %q: keys: %w", n.opts.Name, err), n.transport.Shutdown())
		}
		c.Keyring = ring
	}
	select {
	case <-n.killed:
		return nil
	default:
	}
	if s, ok := n.transport.(*sockets); ok {
		s.start()
	}
	ml, err := memberlist.Create(c)
	if err != nil {
		return errors.Join(fmt.Errorf("gossip of %q: start memberlist: %w", n.opts.Name, err), n.transport.Shutdown())
	}
	n.ml.Store(ml)
	epoch, _ := n.own.order()
	n.log.Info("gossip runs", "addr", n.addr, "role", n.opts.role(), "epoch", epoch)

	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { n.newIntake().run(work) })
	wg.Go(func() { n.dispatch(work) })
	wg.Go(func() { n.newRejoiner().run(work) })
	wg.Go(func() { n.beat(work) })
	select {
	case <-ctx.Done():
		n.leave(ml)
	case <-n.killed:
	}
	stop()
	err = ml.Shutdown()
	n.lanes.close()
	wg.Wait()
	n.log.Info("gossip ended")
	if err != nil {
		return fmt.Errorf("gossip of %q: shut down: %w", n.opts.Name, err)
	}
	return nil
}

// leave says goodbye twice: signed, for those who would look for this member,
// and in memberlist's way, which ends its membership at once.
func (n *Node) leave(ml *memberlist.Memberlist) {
	if err := n.Publish(Record{Kind: wire.Kind_RECORD, Key: leaving}); err != nil {
		n.log.Warn("saying goodbye", "err", err)
	}
	if err := ml.Leave(leaveTimeout); err != nil {
		n.log.Info("leaving without the others' notice", "err", err)
	}
}

// Kill closes the sockets at once, without a goodbye: what a crash looks like to
// the others. Run returns.
func (n *Node) Kill() {
	n.kill.Do(func() {
		close(n.killed)
		if err := n.transport.Shutdown(); err != nil {
			n.log.Debug("closing the sockets", "err", err)
		}
	})
}

// dispatch gives records to OnRecord.
func (n *Node) dispatch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-n.records:
			n.opts.OnRecord(r)
		}
	}
}

func (n *Node) sendStream(to *memberlist.Node, m []byte) error {
	ml := n.ml.Load()
	if ml == nil {
		return errors.New("the node does not run")
	}
	return ml.SendReliable(to, m)
}

func (n *Node) streamFailed(to string, err error) {
	n.log.Debug("sending over a stream", "to", to, "err", err)
}
