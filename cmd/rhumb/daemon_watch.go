package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/cmd/internal/config/reload"
	"github.com/rhumb-lb/rhumb/cmd/internal/telemetry"
)

// load reads the configuration of a daemon of this role, and makes its kit.
func (r role[O]) load(cmd *cobra.Command, file string, src config.Source) (*config.Config, *kit, error) {
	var warnings config.Problems
	src.Serving, src.Warn = true, func(p config.Problem) { warnings = append(warnings, p) }
	cfg, err := config.Load(file, src)
	if err != nil {
		return nil, nil, err
	}
	if !slices.Contains(cfg.Roles(), r.name) {
		return nil, nil, fmt.Errorf("%s has no section %q; it is for: rhumb %s", file, r.name, cfg.Roles()[0])
	}
	k := &kit{level: new(slog.LevelVar), build: telemetry.ReadBuild()}
	k.registry = telemetry.NewRegistry(k.build)
	level, err := telemetry.ParseLevel(cfg.Log.Level)
	if err != nil {
		return nil, nil, err
	}
	k.level.Set(level)
	k.log, err = telemetry.NewLogger(cmd.ErrOrStderr(), k.level, cfg.Log.Format)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range warnings {
		k.warn(p)
	}
	return cfg, k, nil
}

func (k *kit) warn(p config.Problem) { k.log.Warn("configuration", "warning", p.String()) }

// watcher begins to watch the configuration that was just loaded.
func (r role[O]) watcher(cfg *config.Config, k *kit, file string, src config.Source) *reload.Watcher {
	src.Serving, src.Warn = true, k.warn
	w := reload.New(file, src, cfg)
	w.Log, w.Registry = k.log, k.registry
	return w
}

// watch takes changes of the configuration over until ctx is done.
func (r role[O]) watch(ctx context.Context, w *reload.Watcher, d daemon[O], k *kit) error {
	w.Apply = func(renewed *config.Config) error {
		level, err := telemetry.ParseLevel(renewed.Log.Level)
		if err != nil {
			return err
		}
		o, err := r.options(renewed, k)
		if err != nil {
			return err
		}
		if err := d.Reload(o); err != nil {
			return err
		}
		k.level.Set(level)
		return nil
	}
	return w.Run(ctx)
}
