package world

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
	"github.com/rhumb-lb/rhumb/simulations/client"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// crashSlow is by how much the pods are slowed down until the crash: 200 ms and
// more for a token, so that no answer ends before it.
const crashSlow = 10

// load is requests that are sent to one region and what became of each.
type load struct {
	tour    *tour
	site    *site
	started int64  // of the model on the region's pods, before the load
	arrived uint64 // at the region's gateway, likewise

	wg    sync.WaitGroup
	asked []client.Question
	begun atomic.Int64 // streams of which the client saw an event
	mu    sync.Mutex
	fates map[string]fate // by the request's ID
}

// fate is what became of a request.
type fate struct {
	client.Generation
	err error
}

func (t *tour) newLoad(s *site) *load {
	l := &load{tour: t, site: s, fates: map[string]fate{}}
	l.started, l.arrived = l.onPods(), l.arrivals()
	return l
}

// onPods is how many requests were given to the region's pods.
func (l *load) onPods() int64 {
	n := -l.started
	for _, p := range l.site.pods {
		n += p.Stats("llama").Started
	}
	return n
}

// arrivals is how many requests for the model a director knows to have come to the
// region.
func (l *load) arrivals() uint64 {
	for _, r := range l.tour.w.directors[0].Regions() {
		if m := r.Model("llama"); r.ID == l.site.ID && m != nil {
			return m.Arrivals - l.arrived
		}
	}
	return 0
}

// send sends n more requests to the region.
func (l *load) send(ctx context.Context, n int, atOnce bool) {
	for range n {
		q := client.Question{Model: "llama", ID: fmt.Sprintf("load-%d", len(l.asked)), Tokens: 30, AtOnce: atOnce, From: client.Homes[0]}
		l.asked = append(l.asked, q)
		l.wg.Go(func() { l.follow(ctx, q) })
	}
}

// ask sends n more requests to the region and waits until its pods have them.
func (l *load) ask(ctx context.Context, n int, atOnce bool) error {
	l.send(ctx, n, atOnce)
	return client.Until(ctx, func() error {
		if n := l.onPods(); n < int64(len(l.asked)) {
			return fmt.Errorf("%d of %d requests are on pods", n, len(l.asked))
		}
		return nil
	})
}

func (l *load) follow(ctx context.Context, q client.Question) {
	got, err := l.tour.client.Generate(ctx, l.tour.l.GatewayURL(l.site.index), q, func() {
		if !q.AtOnce {
			l.begun.Add(1)
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fates[q.ID] = fate{got, err}
}

// fill puts 50 requests of each kind on the region so that streams run on every
// pod and none is about to begin: one stream more than two pods have slots for,
// other requests for the slots that are left, and the rest waits at the gateway, or
// has gone on to another region.
func (l *load) fill(ctx context.Context) error {
	const each, streams, slots = 50, (layout.PodsPerRegion-1)*podSlots + 1, layout.PodsPerRegion * podSlots
	if err := l.ask(ctx, streams, false); err != nil {
		return err
	}
	err := client.Until(ctx, func() error {
		if n := l.begun.Load(); n < streams {
			return fmt.Errorf("%d of %d streams have begun", n, streams)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = l.ask(ctx, slots-streams, true)
	l.send(ctx, each-streams, false)
	l.send(ctx, each-(slots-streams), true)
	return errors.Join(err, client.Until(ctx, func() error {
		if n := l.arrivals(); n < 2*each {
			return fmt.Errorf("%d of %d requests have come to the gateway", n, 2*each)
		}
		return nil
	}))
}

// check fails unless every request has its whole answer, those included that the
// crashed pod was in the middle of. It gives how many these are.
func (l *load) check(crashed *tritontest.Pod) (int, error) {
	cut := 0
	for _, r := range crashed.Requests() {
		if r.End == tritontest.Cut && !r.FirstByte.IsZero() {
			cut++
		}
	}
	for id, f := range l.fates {
		if f.err != nil {
			return 0, fmt.Errorf("%s failed after %d events: %w", id, f.Events, f.err)
		}
	}
	if cut == 0 || len(l.fates) != len(l.asked) {
		return 0, fmt.Errorf("%d of %d requests ended, the crash met %d streams; want all, and some", len(l.fates), len(l.asked), cut)
	}
	return cut, nil
}

func (t *tour) crashed(ctx context.Context) (string, error) {
	s, err := t.w.site(client.Victim)
	if err != nil {
		return "", err
	}
	pace := func(n int) {
		for _, p := range s.pods {
			p.Slow(n)
		}
	}
	pace(crashSlow)
	l := t.newLoad(s)
	err = l.fill(ctx)
	s.pods[0].Crash()
	pace(1)
	l.wg.Wait()
	if err := errors.Join(err, t.w.Heal(ctx, client.Victim)); err != nil {
		return "", err
	}
	cut, err := l.check(s.pods[0])
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("all %d whole; %d of them had begun to come from that pod, and went on from another", len(l.asked), cut), t.normal(ctx)
}
