package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/cmd/internal/telemetry"
	"github.com/rhumb-lb/rhumb/simulations/layout"
	"github.com/rhumb-lb/rhumb/simulations/live"
	"github.com/rhumb-lb/rhumb/simulations/world"
)

// run runs the world, in this process or as many.
func (d *demo) run(ctx context.Context, out, errs io.Writer) error {
	var err error
	if d.processes {
		err = live.Demo(ctx, d.layout, live.Task{Check: d.check, Failover: d.failover}, out)
	} else {
		err = d.inProcess(ctx, out, errs)
	}
	if errors.Is(err, layout.ErrTaken) {
		return badInput{fmt.Errorf("rhumb demo: %w", err)}
	}
	return err
}

func (d *demo) inProcess(ctx context.Context, out, errs io.Writer) error {
	if d.failover > 0 {
		return world.Failover(ctx, d.failover, out)
	}
	log, err := demoLog(errs, d.level)
	if err != nil {
		return badInput{err}
	}
	build := telemetry.ReadBuild()
	return world.Demo(ctx, world.Options{
		Layout: d.layout, Logger: log, Version: build.Version,
		Registry: func() *prometheus.Registry { return telemetry.NewRegistry(build) },
	}, d.check, out)
}

// demoLog is silent unless a level was asked for.
func demoLog(to io.Writer, level string) (*slog.Logger, error) {
	if level == "" {
		return slog.New(slog.DiscardHandler), nil
	}
	lowest, err := telemetry.ParseLevel(level)
	if err != nil {
		return nil, err
	}
	return telemetry.NewLogger(to, lowest, "text")
}
