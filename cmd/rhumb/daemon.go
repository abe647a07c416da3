package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/cmd/internal/telemetry"
)

// daemon is an agent or a director.
type daemon interface {
	Run(ctx context.Context) error
}

// setup is what a daemon is made from.
type setup struct {
	cfg      *config.Config
	log      *slog.Logger
	registry *prometheus.Registry
	build    telemetry.Build
}

func (s *setup) now() time.Time { return time.Now() }

// newDaemon is the command of a daemon that make makes.
func newDaemon(role, short, long string, make func(*setup) (daemon, error)) *cobra.Command {
	var file string
	src := config.Source{Environ: os.Environ()}
	cmd := &cobra.Command{
		Use: role, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(file, src)
			if err != nil {
				return badInput{err}
			}
			if !slices.Contains(cfg.Roles(), role) {
				return badInput{fmt.Errorf("%s has no section %q; it configures: %v", file, role, cfg.Roles())}
			}
			log, err := telemetry.NewLogger(cmd.ErrOrStderr(), cfg.Log.Level, cfg.Log.Format)
			if err != nil {
				return badInput{err}
			}
			build := telemetry.ReadBuild()
			d, err := make(&setup{cfg: cfg, log: log, registry: telemetry.NewRegistry(build), build: build})
			if err != nil {
				return err
			}
			return d.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `file`")
	cmd.Flags().StringArrayVar(&src.Set, "set", nil, "set one `path=value` over the file; can be repeated")
	_ = cmd.MarkFlagRequired("config") // it exists
	return cmd
}
