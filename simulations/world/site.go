package world

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/agent"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// podSlots is how many sequences a simulated pod runs at a time.
const podSlots = 8

// vllm is how the pods talk, so that streams that one of them has cut go on at another.
var vllm = func() resume.Profile {
	p, err := resume.NewProfile("vllm")
	if err != nil {
		panic(err) // there is one
	}
	return p
}()

// site is one region of the world: pods, an agent and the gate to the rest.
type site struct {
	layout.Place
	index    int
	where    layout.Layout
	identity *fleet.Identity
	gate     *gate
	pods     []*tritontest.Pod
	gossip   gossip.Options
	log      *slog.Logger
	world    *Options
	epochs   *epochs
	listen   func(ctx context.Context, network, address string) (net.Listener, error) // for the gateway
	failed   chan error                                                               // holds one end that nobody asked for

	mu      sync.Mutex   // held for a start or an end; guards the fields below
	closed  bool         // ended: nothing starts any more
	agent   *agent.Agent // nil while the region is killed
	stop    context.CancelFunc
	stopped chan error
}

// errEnded is the error for what comes after the end of the world.
var errEnded = errors.New("the world has ended; start another one")

func (s *site) endpoint() regions.Endpoint {
	at := s.where.Gateway(s.index)
	return regions.Endpoint{Scheme: "http", Host: at.Addr().String(), Port: at.Port(), Addrs: []netip.Addr{at.Addr()}}
}

// makePods makes the region's pods; they start with the region.
func (s *site) makePods() {
	for k := range layout.PodsPerRegion {
		o := tritontest.DefaultOptions()
		o.Name = layout.PodName(s.ID, k)
		o.Addr, o.MetricsAddr = s.where.PodHTTP(s.index, k).String(), s.where.PodMetrics(s.index, k).String()
		o.GRPCAddr, o.OpenAIAddr = s.where.PodGRPC(s.index, k).String(), s.where.PodOpenAI(s.index, k).String()
		o.Logger = s.log
		for _, name := range s.Models {
			m := tritontest.DefaultModel(name)
			m.Slots = podSlots
			o.Models = append(o.Models, m)
		}
		s.pods = append(s.pods, tritontest.New(o))
	}
}

// start starts what of the region does not run, and undoes its faults and drain.
// After end it fails with errEnded.
func (s *site) start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("start region %s: %w", s.ID, errEnded)
	}
	s.gate.set(false)
	for _, p := range s.pods {
		p.Heal()
		if !p.Running() {
			if err := p.Start(ctx); err != nil {
				return err
			}
		}
	}
	if s.agent != nil {
		s.agent.Drain(false, "healed")
		return nil
	}
	a, err := agent.New(s.options())
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan error, 1)
	s.agent, s.stop, s.stopped = a, stop, stopped
	go func() {
		err := a.Run(run)
		if err != nil && run.Err() == nil {
			err = fmt.Errorf("region %s ended by itself: %w", s.ID, err)
			select {
			case s.failed <- err:
			default: // one is enough to end the world
			}
		}
		stopped <- err
	}()
	return nil
}

// watch waits until the region ends by itself, which is an error, or ctx is done.
func (s *site) watch(ctx context.Context) error {
	select {
	case err := <-s.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (s *site) options() agent.Options {
	o := agent.DefaultOptions()
	o.Region, o.Location = s.ID, s.At
	o.Endpoints = []regions.Endpoint{s.endpoint()}
	var pods []regions.Pod
	for k := range layout.PodsPerRegion {
		p := regions.Pod{ID: regions.PodID(layout.PodName(s.ID, k)), HTTP: s.where.PodHTTP(s.index, k), Metrics: s.where.PodMetrics(s.index, k),
			GRPC: s.where.PodGRPC(s.index, k), OpenAI: s.where.PodOpenAI(s.index, k)}
		for _, m := range s.Models {
			p.Models = append(p.Models, regions.PodModel{Name: regions.ModelName(m), Slots: podSlots})
		}
		pods = append(pods, p)
	}
	for _, m := range s.Models {
		o.Models = append(o.Models, agent.Model{Name: regions.ModelName(m), Route: proxy.Route{Profile: vllm}})
	}
	source, err := discovery.NewStatic(pods)
	if err != nil {
		panic(fmt.Sprintf("the demo's own pods: %v", err))
	}
	o.Sources = []discovery.Source{source}
	o.Listen = []string{s.where.Gateway(s.index).String()}
	o.Admin.Listen = s.where.AgentAdmin(s.index).String()
	// A client's place can be played from this machine.
	o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	o.ListenStream, o.Dial = s.listen, s.gate.dial
	o.Gossip = s.gossip
	o.Gossip.Name = string(s.ID) + "/agent-1"
	o.Gossip.Identity, o.Gossip.Bind, o.Gossip.Epochs = s.identity, s.where.AgentGossip(s.index), s.epochs
	o.Linger, o.Grace = 500*time.Millisecond, 5*time.Second
	o.Logger, o.Registry, o.Version = s.log, s.world.registry(), s.world.Version
	return o
}

// kill ends the region as a power cut would: agent and pods at once, nobody is
// told.
func (s *site) kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.agent == nil {
		return nil
	}
	s.agent.Kill()
	for _, p := range s.pods {
		p.Crash()
	}
	err := <-s.stopped
	s.stop()
	s.agent = nil
	return err
}

// darken makes the region a black hole.
func (s *site) darken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("darken region %s: %w", s.ID, errEnded)
	}
	s.gate.set(true)
	return nil
}

// end ends the region gracefully and for good, whether or not it was started.
func (s *site) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.gate.set(false)
	var err error
	if s.agent != nil {
		s.stop()
		err = <-s.stopped
		s.agent = nil
	}
	for _, p := range s.pods {
		p.Close()
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// drain sets the region's drain.
func (s *site) drain(on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return fmt.Errorf("drain region %s: %w", s.ID, errEnded)
	case s.agent == nil:
		return fmt.Errorf("region %s is killed; heal it first", s.ID)
	}
	s.agent.Drain(on, "by rhumb demo")
	return nil
}

// epochs keeps an agent's epoch over its restarts, as its disk would.
type epochs struct {
	mu  sync.Mutex
	now uint64
}

// Load implements gossip.EpochStore.
func (e *epochs) Load() (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now, nil
}

// Save implements gossip.EpochStore.
func (e *epochs) Save(n uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = n
	return nil
}
