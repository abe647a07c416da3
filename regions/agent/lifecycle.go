package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/heads"
)

// errKilled ends all parts of a killed agent.
var errKilled = errors.New("killed")

// Run runs the agent until ctx is done or a part fails. When ctx is done it
// leaves gracefully: it says that it stops, serves on for Linger while it asks its
// clients' connections to go, takes no more requests, waits for its streams for up to Grace, and says goodbye.
func (a *Agent) Run(ctx context.Context) error {
	defer a.closeListeners()
	defer a.proxy.CloseIdle()
	// The parts outlive ctx: while the agent drains they go on.
	parts, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	g, parts := errgroup.WithContext(parts)
	g.Go(func() error { return a.gossip.Run(parts) })
	g.Go(func() error { return a.runner.Run(parts) })
	g.Go(func() error { return a.signals.Run(parts) })
	g.Go(func() error { return a.publish(parts) })
	g.Go(func() error { return a.share(parts) })
	g.Go(func() error { return a.guard.Run(parts) })
	for i := range a.opts.Sources {
		g.Go(func() error { return a.opts.Sources[i].Run(parts, func(pods []regions.Pod) { a.found(i, pods) }) })
	}
	for _, l := range a.listeners {
		g.Go(func() error {
			return a.serve(l)
		})
	}
	if a.private != nil {
		g.Go(func() error { return a.admin.Serve(parts, a.private) })
	}
	g.Go(func() error {
		defer stop(nil)
		select {
		case <-ctx.Done():
			return a.leave(parts)
		case <-a.killed:
			stop(errKilled)
			return nil
		case <-parts.Done():
			return a.server.Close()
		}
	})
	a.log.Info("agent runs", "gateway", a.Addrs(), "endpoint", a.opts.Endpoints[0].URL())
	err := g.Wait()
	if a.isKilled() {
		return nil
	}
	return err
}

// serve serves the gateway on a listener until the server ends.
func (a *Agent) serve(l net.Listener) error {
	var err error
	if a.tls.On() {
		secure := heads.ListenTLS(l, a.server.TLSConfig, a.opts.Head.Time, a.log)
		var hands sync.WaitGroup
		hands.Go(secure.Run)
		err = a.server.Serve(secure)
		_ = secure.Close() // Serve has closed it, unless it did not begin
		hands.Wait()
	} else {
		err = a.server.Serve(heads.Listen(l))
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("gateway on %s: %w", l.Addr(), err)
	}
	return nil
}

func (a *Agent) isKilled() bool {
	select {
	case <-a.killed:
		return true
	default:
		return false
	}
}

// leave is the graceful end, in its order.
func (a *Agent) leave(ctx context.Context) error {
	a.stopped.Store(a.opts.Now().UnixNano())
	last := *a.farewell.Load()
	a.log.Info("stopping", "linger", last.linger, "grace", last.grace)
	a.nudge()
	a.guard.LeaveAll(last.linger)
	linger := time.NewTimer(last.linger)
	defer linger.Stop()
	select {
	case <-linger.C:
	case <-a.killed:
		return nil
	case <-ctx.Done():
		return a.server.Close()
	}
	a.proxy.Dismiss()
	ctx, cancel := context.WithTimeout(ctx, last.grace)
	defer cancel()
	if err := a.server.Shutdown(ctx); err != nil && !a.isKilled() {
		a.log.Warn("streams cut", "after", last.grace, "error", err)
		return a.server.Close()
	}
	return nil
}

// found takes the set of pods of one source.
func (a *Agent) found(source int, pods []regions.Pod) {
	a.podsMu.Lock()
	defer a.podsMu.Unlock()
	a.pods[source] = append([]regions.Pod{}, pods...) // not nil: a source that finds none has told so
	all := slices.Concat(a.pods...)
	a.pool.SetPods(a.opts.Now(), all)
	a.retellLocked()
	a.signals.SetPods(all)
	a.proxy.Keep(all)
	a.runner.SetPods(all) // last: it tells the others what it finds
}

// publish renews what the agent says of its region, twice a second and at
// once when pods or drain change; gossip sends it.
func (a *Agent) publish(ctx context.Context) error {
	tick := time.NewTicker(regions.StatusEvery)
	defer tick.Stop()
	for {
		now := a.opts.Now()
		status := a.status(now)
		a.facts.Store(a.count(now, status.Models))
		if err := a.gossip.PublishStatus(status); err != nil {
			a.log.Error("status not published", "error", err)
		}
		a.spill.divide(now)
		a.spill.replan(now)
		a.forgetPeers(now)
		select {
		case <-ctx.Done():
			return nil
		case <-a.pool.Changed():
		case <-a.news:
		case <-tick.C:
		}
	}
}
