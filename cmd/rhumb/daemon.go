package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/cmd/internal/telemetry"
)

// daemon is an agent or a director with options O.
type daemon[O any] interface {
	Run(ctx context.Context) error
	Reload(o O) error
}

// kit is what every daemon is given besides its configuration.
type kit struct {
	level    *slog.LevelVar
	log      *slog.Logger
	registry *prometheus.Registry
	build    telemetry.Build
}

// role says how to run one kind of daemon.
type role[O any] struct {
	name, short, long string
	options           func(*config.Config, *kit) (O, error)
	start             func(O) (daemon[O], error)
}

// command is the daemon's command.
func (r role[O]) command() *cobra.Command {
	var file string
	src := config.Source{Environ: os.Environ()}
	cmd := &cobra.Command{
		Use: r.name, Short: r.short, Long: r.long + settingsHelp, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd, file, src) },
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `file`")
	cmd.Flags().StringArrayVar(&src.Set, "set", nil, "set one `path=value` over the file; can be repeated")
	_ = cmd.MarkFlagRequired("config") // it exists
	return cmd
}

func (r role[O]) run(cmd *cobra.Command, file string, src config.Source) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // which would end the process, from its first moment on
	defer signal.Stop(hangup)
	cfg, k, err := r.load(cmd, file, src)
	if err != nil {
		return badInput{err}
	}
	w := r.watcher(cfg, k, file, src)
	w.Hangup = hangup
	o, err := r.options(cfg, k)
	if err != nil {
		return badInput{fmt.Errorf("%s: %w", file, err)}
	}
	d, err := r.start(o)
	if err != nil {
		return badInput{fmt.Errorf("%s: %w", file, err)}
	}
	g, ctx := errgroup.WithContext(cmd.Context())
	ctx, stop := context.WithCancel(ctx)
	g.Go(func() error {
		defer stop()
		return d.Run(ctx)
	})
	g.Go(func() error { return r.watch(ctx, w, d, k) })
	return g.Wait()
}
