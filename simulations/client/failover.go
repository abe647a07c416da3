package client

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// pollsWithout is how many answers in a row must be without a lost region: one
// could be luck, twenty are a second.
const pollsWithout = 20

// Victim is the region that faults strike, the nearest to London, where the
// clients who are watched live. Heir is their next nearest.
const (
	Victim = "eu-west"
	Heir   = "us-east"
)

// Measurement is how long one way of asking gave the lost region.
type Measurement struct {
	By    string // director and way
	After time.Duration
}

// way is one way of asking.
type way struct {
	by  string
	ask func(context.Context) (regions.ID, error)
}

func (c *Client) ways() []way {
	var out []way
	for d := range layout.Directors {
		name := layout.DirectorName(d)
		out = append(out,
			way{name + " DNS", func(ctx context.Context) (regions.ID, error) {
				return c.Ask(ctx, d, false, layout.Zone, Homes[0])
			}},
			way{name + " redirect", func(ctx context.Context) (regions.ID, error) { return c.Redirected(ctx, d, Homes[0]) }})
	}
	return out
}

// Failover strikes and times, for each director by DNS and by redirect, from the
// strike to the first of 20 polls in a row that give the heir instead of the
// victim.
func (c *Client) Failover(ctx context.Context, strike func() error) ([]Measurement, error) {
	ways := c.ways()
	for _, x := range ways {
		got, err := x.ask(ctx)
		if err != nil {
			return nil, fmt.Errorf("before the loss: %w", err)
		}
		if got != Victim {
			return nil, fmt.Errorf("before the loss %s gave %s, want %s", x.by, got, Victim)
		}
	}
	at := time.Now()
	if err := strike(); err != nil {
		return nil, err
	}
	out := make([]Measurement, len(ways))
	g, ctx := errgroup.WithContext(ctx)
	for i, x := range ways {
		g.Go(func() error {
			after, err := gone(ctx, at, x.ask)
			if err != nil {
				return fmt.Errorf("%s: %w", x.by, err)
			}
			out[i] = Measurement{x.by, after}
			return nil
		})
	}
	return out, g.Wait()
}

// gone polls until the victim stays out of the answers, and gives the time from
// at to the first answer without it. An error of the director is a failure, since
// it must always answer, and so is every region but the two.
func gone(ctx context.Context, at time.Time, ask func(context.Context) (regions.ID, error)) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	tick := time.NewTicker(PollEvery)
	defer tick.Stop()
	var first time.Time
	for without := 0; without < pollsWithout; {
		asked := time.Now()
		switch got, err := ask(ctx); {
		case err != nil:
			return 0, err
		case got == Victim:
			without = 0
		case got != Heir:
			return 0, fmt.Errorf("gave %s in place of %s, want %s", got, Victim, Heir)
		default:
			if without == 0 {
				first = asked
			}
			without++
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s not out of the answers: %w", Victim, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return first.Sub(at), nil
}

// Pause waits for a random part of a second: a region is not lost in step with
// its statuses.
func Pause(ctx context.Context) error {
	t := time.NewTimer(rand.N(time.Second))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Losses are ways to lose a region, each of which gives the measurements of one
// run.
type Losses []struct {
	Name string
	Run  func(context.Context) ([]Measurement, error)
}

// Table runs all losses so many times and prints how long new answers went on
// naming the lost region: least, median and most.
func (all Losses) Table(ctx context.Context, runs int, out io.Writer) error {
	took := map[string][]time.Duration{}
	for run := range runs {
		for _, x := range all {
			got, err := x.Run(ctx)
			if err != nil {
				return fmt.Errorf("run %d, %s: %w", run+1, x.Name, err)
			}
			for _, m := range got {
				key := x.Name + ", " + m.By
				took[key] = append(took[key], m.After)
			}
		}
		_, _ = fmt.Fprintf(out, "run %d of %d done\n", run+1, runs)
	}
	_, _ = fmt.Fprintf(out, "\nseconds from the loss of a region to the first of %d polls, %v apart, without it\n%-38s %6s %6s %6s  (%d runs)\n",
		pollsWithout, PollEvery, "", "min", "median", "max", runs)
	for _, k := range slices.Sorted(maps.Keys(took)) {
		v := took[k]
		slices.Sort(v)
		_, _ = fmt.Fprintf(out, "%-38s %6.2f %6.2f %6.2f\n", k, v[0].Seconds(), v[len(v)/2].Seconds(), v[len(v)-1].Seconds())
	}
	return nil
}
