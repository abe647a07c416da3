package world

import (
	"context"
	"errors"
	"io"

	"github.com/rhumb-lb/rhumb/simulations/client"
)

// loss is a way to lose a region.
type loss struct {
	storm  bool // with 100 ms of delay and 10 % of loss between members
	strike func(*World) error
}

var losses = client.Losses{
	{Name: "killed", Run: loss{false, func(w *World) error { return w.Kill(client.Victim) }}.once},
	{Name: "black hole", Run: loss{false, func(w *World) error { return w.Darken(client.Victim) }}.once},
	{Name: "black hole in a storm", Run: loss{true, func(w *World) error { return w.Darken(client.Victim) }}.once},
}

// Failover loses a region so many times in each of three ways, each time in a
// fresh world, and prints how long new answers went on naming it.
func Failover(ctx context.Context, runs int, out io.Writer) error {
	return losses.Table(ctx, runs, out)
}

func (x loss) once(ctx context.Context) ([]client.Measurement, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := NewAnywhere(ctx, Options{})
	if err != nil {
		return nil, err
	}
	running := make(chan error, 1)
	go func() { running <- w.Run(ctx) }()
	all, err := x.measure(ctx, w)
	cancel()
	return all, errors.Join(err, <-running)
}

func (x loss) measure(ctx context.Context, w *World) ([]client.Measurement, error) {
	if err := w.Ready(ctx); err != nil {
		return nil, err
	}
	if x.storm {
		if err := w.Weather(stormDelay, stormLoss); err != nil {
			return nil, err
		}
	}
	if err := client.Pause(ctx); err != nil {
		return nil, err
	}
	c := client.New(w.opts.Layout)
	defer c.Close()
	return c.Failover(ctx, func() error { return x.strike(w) })
}
