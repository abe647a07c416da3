// Package world is a whole Rhumb world on one machine: three regions of
// simulated Triton pods, each with its agent, and two directors, all the daemons'
// own code over real loopback sockets in one process, with faults to play with.
package world

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/director/geo"
	"github.com/rhumb-lb/rhumb/director/node"
	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/dnsserver"
	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// fleetLife is how long the demo's certificates are valid.
const fleetLife = 24 * time.Hour

// Options are what a world is made from.
type Options struct {
	Layout layout.Layout
	// Logger gets the daemons' own logs; nil discards them.
	Logger *slog.Logger
	// Tell is called with each change that a director sees; nil for nobody.
	Tell func(Event)
	// Registry makes a registry for each daemon; nil makes empty ones.
	Registry func() *prometheus.Registry
	// Version is the program's, as daemons tell it.
	Version string
}

// registry is a registry for one daemon.
func (o *Options) registry() *prometheus.Registry {
	if o.Registry == nil {
		return prometheus.NewRegistry()
	}
	return o.Registry()
}

// Event is one thing that a director saw change.
type Event struct {
	Director string
	node.VerdictChange
}

// World is a running or not yet running world.
type World struct {
	opts      Options
	sites     []*site
	directors []*node.Node
	weather   atomic.Pointer[gossip.Impairment] // of all links between members
}

// New makes a world and binds the directors' addresses; the regions start in
// [World.Run], which also ends what New has made. Taken addresses are an
// [layout.ErrTaken].
func New(ctx context.Context, o Options) (*World, error) {
	if err := o.Layout.Check(); err != nil {
		return nil, err
	}
	if err := o.Layout.TryAll(ctx); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	w := &World{opts: o}
	w.weather.Store(&gossip.Impairment{})
	now := time.Now()
	authority, err := fleet.NewAuthority("demo", now, fleetLife)
	if err != nil {
		return nil, err
	}
	common := w.gossipOptions(authority)
	if err := w.makeSites(authority, common, now); err != nil {
		return nil, err
	}
	if err := w.makeDirectors(authority, common, now); err != nil {
		w.killDirectors()
		return nil, err
	}
	return w, nil
}

// NewAnywhere makes a world on a random /16 that is free.
func NewAnywhere(ctx context.Context, o Options) (*World, error) {
	const attempts = 20 // of 254 networks
	for attempt := 1; ; attempt++ {
		o.Layout = layout.Random()
		w, err := New(ctx, o)
		if err == nil || attempt == attempts || !errors.Is(err, layout.ErrTaken) {
			return w, err
		}
	}
}

// gossipOptions are what all members have in common.
func (w *World) gossipOptions(authority *fleet.Authority) gossip.Options {
	key := make([]byte, gossip.KeySize)
	_, _ = rand.Read(key) // never fails
	var seeds []string
	for d := range layout.Directors {
		seeds = append(seeds, w.opts.Layout.DirectorGossip(d).String())
	}
	for r := range layout.Places {
		seeds = append(seeds, w.opts.Layout.AgentGossip(r).String())
	}
	o := gossip.DefaultOptions()
	o.Roots, o.Keys, o.Label, o.Seeds = fleet.NewRoots(authority), [][]byte{key}, "demo", gossip.StaticSeeds(seeds...)
	return o
}

func (w *World) makeSites(authority *fleet.Authority, common gossip.Options, now time.Time) error {
	for i, p := range layout.Places {
		s := &site{Place: p, index: i, where: w.opts.Layout, gate: newGate(), gossip: common, epochs: &epochs{},
			world: &w.opts, log: w.opts.Logger.With("region", p.ID), failed: make(chan error, 1)}
		s.listen = s.gate.listen
		var err error
		s.identity, err = authority.Issue(fleet.Request{
			Role: fleet.RoleRegion, Name: string(p.ID), Grant: fleet.Grant{Endpoints: []regions.Endpoint{s.endpoint()}},
		}, now)
		if err != nil {
			return err
		}
		s.gossip.Impair = w.impair(s.gate)
		s.makePods()
		w.sites = append(w.sites, s)
	}
	return nil
}

// impair is what the links of a member suffer: the weather, and the gates at
// both ends.
func (w *World) impair(own *gate) func(netip.Addr) gossip.Impairment {
	return func(peer netip.Addr) gossip.Impairment {
		i := *w.weather.Load()
		i.Cut = own != nil && own.isShut()
		for _, s := range w.sites {
			i.Cut = i.Cut || s.where.Gateway(s.index).Addr() == peer && s.gate.isShut()
		}
		return i
	}
}

func (w *World) makeDirectors(authority *fleet.Authority, common gossip.Options, now time.Time) error {
	earth, err := geo.Default()
	if err != nil {
		return err
	}
	for d := range layout.Directors {
		identity, err := authority.Issue(fleet.Request{Role: fleet.RoleDirector, Name: layout.DirectorName(d)}, now)
		if err != nil {
			return err
		}
		o := w.directorOptions(d)
		o.Geo = earth
		o.Gossip = common
		o.Gossip.Name, o.Gossip.Identity, o.Gossip.Bind = layout.DirectorName(d), identity, w.opts.Layout.DirectorGossip(d)
		o.Gossip.Impair = w.impair(nil)
		n, err := node.New(o)
		if err != nil {
			return err
		}
		w.directors = append(w.directors, n)
	}
	return nil
}

func (w *World) directorOptions(d int) node.Options {
	l := w.opts.Layout
	o := node.DefaultOptions()
	o.Zone.Name, o.Zone.Serial = layout.Zone, 1
	for i := range layout.Directors {
		o.Zone.NS = append(o.Zone.NS, dnsserver.NameServer{Name: layout.DirectorName(i), Addrs: []netip.Addr{l.DNS(i).Addr()}})
		o.RouteAddrs = append(o.RouteAddrs, l.Redirect(i).Addr())
	}
	o.DNS = []string{l.DNS(d).String()}
	if at, ok := l.DNS6(); ok && d == 0 {
		o.DNS = append(o.DNS, at.String())
	}
	o.Redirect, o.Admin.Listen = []string{l.Redirect(d).String()}, l.Admin(d).String()
	o.Location, o.Scheme, o.Port, o.Why = redirect.ByEndpoint, "http", l.Port, true
	o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	o.Logger = w.opts.Logger.With("director", layout.DirectorName(d))
	o.Registry = w.opts.registry()
	o.OnPlan = func(c node.Change) {
		for _, v := range c.Verdicts {
			if w.opts.Tell != nil {
				w.opts.Tell(Event{layout.DirectorName(d), v})
			}
		}
	}
	return o
}

// killDirectors closes what the directors have bound.
func (w *World) killDirectors() {
	for _, n := range w.directors {
		n.Kill()
	}
}

// Run runs the world until ctx is done, then ends it gracefully, also where it
// has not started all of it yet. The error names the region or director that
// could not start or ended by itself. Run it once.
func (w *World) Run(ctx context.Context) error {
	orders, err := new(net.ListenConfig).Listen(ctx, "tcp", w.opts.Layout.Control().String())
	if err != nil {
		w.killDirectors()
		return errors.Join(fmt.Errorf("listen for orders: %w", err), w.end())
	}
	g, parts := errgroup.WithContext(ctx)
	g.Go(func() error { return w.control(parts, orders) })
	for d, n := range w.directors {
		g.Go(func() error {
			if err := n.Run(parts); err != nil {
				return fmt.Errorf("director %s: %w", layout.DirectorName(d), err)
			}
			return nil
		})
	}
	for _, s := range w.sites {
		g.Go(func() error { return s.watch(parts) })
	}
	g.Go(func() error { return w.start(parts) })
	g.Go(func() error {
		<-parts.Done()
		return w.end()
	})
	return g.Wait()
}

// start starts the regions. That ctx ends meanwhile is no error.
func (w *World) start(ctx context.Context) error {
	for _, s := range w.sites {
		if err := s.start(ctx); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it was told to stop, and what has started ends with the rest
			}
			return err
		}
	}
	return nil
}

// end ends the regions, for good.
func (w *World) end() error {
	var ends errgroup.Group
	for _, s := range w.sites {
		ends.Go(s.end)
	}
	return ends.Wait()
}

// site finds a region.
func (w *World) site(id string) (*site, error) {
	var known []string
	for _, s := range w.sites {
		if string(s.ID) == id {
			return s, nil
		}
		known = append(known, string(s.ID))
	}
	return nil, fmt.Errorf("no region %q; there are %v", id, known)
}

// Crash crashes one pod of a region, counting from 0.
func (w *World) Crash(region string, pod int) error {
	s, err := w.site(region)
	if err != nil {
		return err
	}
	if pod < 0 || pod >= len(s.pods) {
		return fmt.Errorf("no pod %d in %s; there are 0 to %d", pod, region, len(s.pods)-1)
	}
	s.pods[pod].Crash()
	return nil
}

// Kill ends a region as a power cut would.
func (w *World) Kill(region string) error {
	s, err := w.site(region)
	if err != nil {
		return err
	}
	return s.kill()
}

// Darken makes a region a black hole: nothing is refused, nothing answers.
func (w *World) Darken(region string) error {
	s, err := w.site(region)
	if err != nil {
		return err
	}
	return s.darken()
}

// Heal undoes every fault and drain of a region.
func (w *World) Heal(ctx context.Context, region string) error {
	s, err := w.site(region)
	if err != nil {
		return err
	}
	return s.start(ctx)
}

// Drain drains a region, or ends its drain.
func (w *World) Drain(region string, on bool) error {
	s, err := w.site(region)
	if err != nil {
		return err
	}
	return s.drain(on)
}

// Weather sets the delay and loss of all links between members.
func (w *World) Weather(delay time.Duration, loss regions.Permille) error {
	if delay < 0 || delay > time.Second || loss < 0 || loss > regions.Whole {
		return errors.New("want a delay of 0s to 1s and a loss of 0 to 1000 permille")
	}
	w.weather.Store(&gossip.Impairment{Delay: delay, Loss: loss})
	return nil
}
