package gossip

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	// rejoinFast is the least time between two looks for members while fewer are
	// alive than known, and rejoinJitter what is added at random, so that
	// thousands don't call at once when a partition heals. memberlist alone never
	// heals one: it does not talk to the dead.
	rejoinFast   = 2 * time.Second
	rejoinJitter = time.Second
	// rejoinSlow is the time between two looks while everybody known is alive:
	// names of seeds may have got new addresses.
	rejoinSlow = 15 * time.Second
	// settling is how long a new member exchanges state with a random other one at
	// the fast pace, whoever is missing. Members that start at the same moment
	// join the same seed before it knows the others, and memberlist's broadcasts
	// of who came can be lost (its queue overwrites equal ones, and packets are
	// lost anyway): without this, 6 members that started together needed half a
	// minute of push/pulls to know each other in one of 20 runs, with it never
	// more than 3 s.
	settling = 15 * time.Second
	// maxJoins is how many members are tried at a time. One that answers brings
	// all others with it, so that a few random ones do, and a black hole holds up
	// only itself.
	maxJoins = 4
	// lookupTimeout bounds the lookup of one seed's name.
	lookupTimeout = 2 * time.Second
)

// rejoiner looks for members that should be there, for ever.
type rejoiner struct {
	*Node
	resolver resolver

	looked time.Time                    // when names were last looked up
	byName map[string][]netip.AddrPort  // the last addresses of each seed that is a name
	joined map[netip.AddrPort]time.Time // when an address was last joined

	mu    sync.Mutex
	under map[netip.AddrPort]bool // being tried
	wg    sync.WaitGroup
}

func (n *Node) newRejoiner() *rejoiner {
	return &rejoiner{
		Node: n, resolver: net.DefaultResolver,
		byName: map[string][]netip.AddrPort{}, joined: map[netip.AddrPort]time.Time{}, under: map[netip.AddrPort]bool{},
	}
}

func (r *rejoiner) run(ctx context.Context) {
	defer r.wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	settled := r.now().Add(settling)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		missing := r.missing(ctx)
		r.try(missing)
		wait := rejoinSlow
		unsettled := r.now().Before(settled)
		if unsettled {
			r.try(r.anyAlive())
		}
		if unsettled || len(missing) > 0 {
			wait = rejoinFast
		}
		timer.Reset(wait + rand.N(rejoinJitter))
	}
}

// missing gives the addresses of seeds and known members that are not alive. Of
// members that said goodbye nothing is expected. A seed that was joined is not
// tried again soon even if no member has its address: it may be a load
// balancer's.
func (r *rejoiner) missing(ctx context.Context) []netip.AddrPort {
	now := r.now()
	want := map[netip.AddrPort]bool{}
	for _, a := range r.seeds(ctx, now) {
		if now.Sub(r.joinedAt(a)) > rejoinSlow {
			want[a] = true
		}
	}
	all := r.members.all()
	for _, m := range all {
		if m.State == MemberDead {
			want[m.Addr] = true
		}
	}
	for _, m := range all {
		if m.State == MemberAlive {
			delete(want, m.Addr)
		}
	}
	delete(want, r.addr)
	out := make([]netip.AddrPort, 0, len(want))
	for a := range want {
		out = append(out, a)
	}
	return out
}

// seeds gives the seeds' addresses. A name that can't be looked up keeps those
// it had.
func (r *rejoiner) seeds(ctx context.Context, now time.Time) []netip.AddrPort {
	if r.opts.Seeds == nil {
		return nil
	}
	again := r.looked.IsZero() || now.Sub(r.looked) >= rejoinSlow
	if again {
		r.looked = now
	}
	var out []netip.AddrPort
	for _, s := range r.opts.Seeds() {
		if a, err := netip.ParseAddrPort(s); err == nil {
			out = append(out, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
			continue
		}
		if _, known := r.byName[s]; again || !known {
			r.lookup(ctx, s)
		}
		out = append(out, r.byName[s]...)
	}
	return out
}

func (r *rejoiner) lookup(ctx context.Context, seed string) {
	if _, known := r.byName[seed]; !known {
		r.byName[seed] = nil
	}
	host, portText, err := net.SplitHostPort(seed)
	port, portErr := strconv.ParseUint(portText, 10, 16)
	if err != nil || portErr != nil {
		r.log.Warn("a gossip seed is not host:port", "seed", seed)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := r.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		r.log.Info("a gossip seed can't be looked up", "seed", seed, "err", err)
		return
	}
	found := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		found = append(found, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	r.byName[seed] = found
}

// anyAlive gives the address of a random other member that is alive, if any.
func (r *rejoiner) anyAlive() []netip.AddrPort {
	nodes := r.members.alive(r.opts.Name)
	if len(nodes) == 0 {
		return nil
	}
	a, err := netip.ParseAddrPort(nodes[rand.IntN(len(nodes))].Address())
	if err != nil {
		return nil
	}
	return []netip.AddrPort{a}
}

// try joins a few of the missing, each in its own goroutine; the transport
// bounds how long that takes.
func (r *rejoiner) try(missing []netip.AddrPort) {
	rand.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range missing {
		if len(r.under) >= maxJoins {
			return
		}
		if !r.under[a] {
			r.under[a] = true
			r.wg.Go(func() { r.join(a) })
		}
	}
}

func (r *rejoiner) join(a netip.AddrPort) {
	_, err := r.ml.Load().Join([]string{a.String()})
	r.mu.Lock()
	delete(r.under, a)
	if err == nil {
		if len(r.joined) >= maxMembers {
			clear(r.joined)
		}
		r.joined[a] = r.now()
	}
	r.mu.Unlock()
	if err != nil {
		r.metrics.joins.WithLabelValues("failed").Inc()
		r.log.Debug("joining a member", "addr", a, "err", err)
		return
	}
	r.metrics.joins.WithLabelValues("ok").Inc()
}

func (r *rejoiner) joinedAt(a netip.AddrPort) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.joined[a]
}
