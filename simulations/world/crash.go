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
	started int64 // of the model on the region's pods, before the load

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
	l.started = l.onPods()
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

// ask sends n more requests to the region and waits until its pods have them.
func (l *load) ask(ctx context.Context, n int, atOnce bool) error {
	for range n {
		q := client.Question{Model: "llama", ID: fmt.Sprintf("load-%d", len(l.asked)), Tokens: 30, AtOnce: atOnce, From: client.Homes[0]}
		l.asked = append(l.asked, q)
		l.wg.Go(func() { l.follow(ctx, q) })
	}
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
// other requests for the slots that are left, and the rest in the pods' queues.
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
	return errors.Join(l.ask(ctx, slots-streams, true), l.ask(ctx, each-streams, false), l.ask(ctx, each-(slots-streams), true))
}

// check fails unless the requests that failed are the streams that the crashed
// pod had begun to answer, no more and no less. It gives how many they are.
func (l *load) check(crashed *tritontest.Pod) (int, error) {
	cut := map[string]bool{}
	for _, r := range crashed.Requests() {
		if r.End == tritontest.Cut && !r.FirstByte.IsZero() && r.Stream {
			cut[r.ID] = true
		}
	}
	for id, f := range l.fates {
		switch {
		case f.err != nil && !cut[id]:
			return 0, fmt.Errorf("%s failed, though the crashed pod had not begun to stream it: %w", id, f.err)
		case f.err == nil && cut[id]:
			return 0, fmt.Errorf("%s was cut by the crash, and its client does not know", id)
		case cut[id] && (f.Events == 0 || errors.Is(f.err, client.ErrShort)):
			return 0, fmt.Errorf("%s was cut after %d events: %w", id, f.Events, f.err)
		}
	}
	if len(cut) == 0 || len(l.fates) != len(l.asked) {
		return 0, fmt.Errorf("%d of %d requests ended, %d streams were cut; want all, and some", len(l.fates), len(l.asked), len(cut))
	}
	return len(cut), nil
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
	return fmt.Sprintf("%d whole; %d cut, exactly the streams that had had a byte from that pod", len(l.asked)-cut, cut), t.normal(ctx)
}
