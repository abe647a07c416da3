package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/cmd/internal/telemetry"
)

// load reads the configuration of a daemon of this role, and makes its kit.
func (r role[O]) load(cmd *cobra.Command, file string, src config.Source) (*config.Config, *kit, error) {
	cfg, err := config.Load(file, src)
	if err != nil {
		return nil, nil, err
	}
	if !slices.Contains(cfg.Roles(), r.name) {
		return nil, nil, fmt.Errorf("%s has no section %q; it is for: rhumb %s", file, r.name, cfg.Roles()[0])
	}
	k := &kit{level: new(slog.LevelVar), build: telemetry.ReadBuild()}
	k.registry = telemetry.NewRegistry(k.build)
	if err := k.setLevel(cfg); err != nil {
		return nil, nil, err
	}
	k.log, err = telemetry.NewLogger(cmd.ErrOrStderr(), k.level, cfg.Log.Format)
	return cfg, k, err
}

func (k *kit) setLevel(cfg *config.Config) error {
	level, err := telemetry.ParseLevel(cfg.Log.Level)
	if err == nil {
		k.level.Set(level)
	}
	return err
}

// watcher takes changes of the configuration over until ctx is done.
func (r role[O]) watcher(ctx context.Context, d daemon[O], cfg *config.Config, k *kit, file string, src config.Source) func() error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	w := &config.Watcher{
		Path: file, Source: src, Running: cfg, Hangup: hangup, Log: k.log, Registry: k.registry,
		Apply: func(renewed *config.Config) error {
			o, err := r.options(renewed, k)
			if err != nil {
				return err
			}
			if err := d.Reload(o); err != nil {
				return err
			}
			return k.setLevel(renewed)
		},
	}
	return func() error {
		defer signal.Stop(hangup)
		return w.Run(ctx)
	}
}
