package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// pollEvery is how often a client asks while a failover is measured, and
	// pollsWithout how many answers in a row must be without the region: one could
	// be luck, twenty are a second.
	pollEvery    = 50 * time.Millisecond
	pollsWithout = 20
)

// measurement is how long one way of asking gave the lost region.
type measurement struct {
	by    string // director and way
	after time.Duration
}

// victim is the region that faults strike, the nearest to London, where the
// clients who are watched live. heir is their next nearest.
const (
	victim = "eu-west"
	heir   = "us-east"
)

// measure strikes and times, for each director by DNS and by redirect, from the
// strike to the first of pollsWithout polls in a row that give the heir instead
// of the victim.
func (w *World) measure(ctx context.Context, strike func() error) ([]measurement, error) {
	l, london := w.opts.Layout, homes[0]
	client := newClient()
	defer client.CloseIdleConnections()
	type way struct {
		by  string
		ask func(context.Context) (regions.ID, error)
	}
	var ways []way
	for d := range directors {
		ways = append(ways,
			way{directorName(d) + " DNS", func(ctx context.Context) (regions.ID, error) { return l.ask(ctx, d, false, Zone, london) }},
			way{directorName(d) + " redirect", func(ctx context.Context) (regions.ID, error) { return l.redirected(ctx, d, client, london) }})
	}
	for _, x := range ways {
		got, err := x.ask(ctx)
		if err != nil {
			return nil, fmt.Errorf("before the loss: %w", err)
		}
		if got != victim {
			return nil, fmt.Errorf("before the loss %s gave %s, want %s", x.by, got, victim)
		}
	}
	at := time.Now()
	if err := strike(); err != nil {
		return nil, err
	}
	out := make([]measurement, len(ways))
	g, ctx := errgroup.WithContext(ctx)
	for i, x := range ways {
		g.Go(func() error {
			after, err := gone(ctx, at, x.ask)
			if err != nil {
				return fmt.Errorf("%s: %w", x.by, err)
			}
			out[i] = measurement{x.by, after}
			return nil
		})
	}
	return out, g.Wait()
}

// gone polls until the victim stays out of the answers, and gives the time from
// at to the first answer without it. An error of the director is a failure, since
// it must always answer, and so is every region but the two.
func gone(ctx context.Context, at time.Time, ask func(context.Context) (regions.ID, error)) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var first time.Time
	for without := 0; without < pollsWithout; {
		asked := time.Now()
		switch got, err := ask(ctx); {
		case err != nil:
			return 0, err
		case got == victim:
			without = 0
		case got != heir:
			return 0, fmt.Errorf("gave %s in place of %s, want %s", got, victim, heir)
		default:
			if without == 0 {
				first = asked
			}
			without++
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s not out of the answers: %w", victim, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return first.Sub(at), nil
}

// loss is a way to lose a region.
type loss struct {
	name   string
	storm  bool // with 100 ms of delay and 10 % of loss between members
	strike func(*World) error
}

var losses = []loss{
	{"killed", false, func(w *World) error { return w.Kill(victim) }},
	{"black hole", false, func(w *World) error { return w.Darken(victim) }},
	{"black hole in a storm", true, func(w *World) error { return w.Darken(victim) }},
}

// Failover loses a region so many times in each of the ways of losses, each time
// in a fresh world, and prints how long new answers went on naming it: least,
// median and most.
func Failover(ctx context.Context, runs int, out io.Writer) error {
	took := map[string][]time.Duration{}
	for run := range runs {
		for _, x := range losses {
			all, err := failoverOnce(ctx, x)
			if err != nil {
				return fmt.Errorf("run %d, %s: %w", run+1, x.name, err)
			}
			for _, m := range all {
				key := x.name + ", " + m.by
				took[key] = append(took[key], m.after)
			}
		}
		_, _ = fmt.Fprintf(out, "run %d of %d done\n", run+1, runs)
	}
	_, _ = fmt.Fprintf(out, "\nseconds from the loss of a region to the first of %d polls, %v apart, without it\n%-38s %6s %6s %6s  (%d runs)\n",
		pollsWithout, pollEvery, "", "min", "median", "max", runs)
	var keys []string
	for k := range took {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		v := took[k]
		slices.Sort(v)
		_, _ = fmt.Fprintf(out, "%-38s %6.2f %6.2f %6.2f\n", k, v[0].Seconds(), v[len(v)/2].Seconds(), v[len(v)-1].Seconds())
	}
	return nil
}

func failoverOnce(ctx context.Context, x loss) ([]measurement, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := NewAnywhere(ctx, Options{})
	if err != nil {
		return nil, err
	}
	running := make(chan error, 1)
	go func() { running <- w.Run(ctx) }()
	all, err := func() ([]measurement, error) {
		if err := w.Ready(ctx); err != nil {
			return nil, err
		}
		if x.storm {
			if err := w.Weather(stormDelay, stormLoss); err != nil {
				return nil, err
			}
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
		return w.measure(ctx, func() error { return x.strike(w) })
	}()
	cancel()
	return all, errors.Join(err, <-running)
}

// pause waits for a random part of a second: a region is not lost in step with
// its statuses.
func pause(ctx context.Context) error {
	t := time.NewTimer(rand.N(time.Second))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
