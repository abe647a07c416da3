package live

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/rhumb-lb/rhumb/simulations/client"
)

// Failover loses a region of a running world so many times in each of three
// ways, brings it back each time, and prints how long new answers went on naming
// it.
func (w *World) Failover(ctx context.Context, runs int, out io.Writer) error {
	return client.Losses{
		{Name: "kill -9 of a region", Run: w.loss(func() error { return w.Kill(client.Victim) })},
		{Name: "SIGSTOP of a region", Run: w.loss(func() error { return w.Freeze(client.Victim) })},
		{Name: "SIGSTOP of an agent", Run: w.loss(func() error {
			_, err := w.agents[region(client.Victim)].Signal(syscall.SIGSTOP, false)
			return err
		})},
	}.Table(ctx, runs, out)
}

// loss is one way to lose the victim and to bring it back.
func (w *World) loss(strike func() error) func(context.Context) ([]client.Measurement, error) {
	return func(ctx context.Context) ([]client.Measurement, error) {
		if err := errors.Join(w.Ready(ctx), w.home(ctx), client.Pause(ctx)); err != nil {
			return nil, err
		}
		all, err := w.client.Failover(ctx, strike)
		return all, errors.Join(err, w.Heal(ctx))
	}
}
