package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/cmd/internal/telemetry"
	"github.com/rhumb-lb/rhumb/simulations/layout"
	"github.com/rhumb-lb/rhumb/simulations/world"
)

func newDemo() *cobra.Command {
	at := layout.Default()
	var (
		check    bool
		failover int
		level    string
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a whole world on this machine: three regions, two directors",
		Long: `Run a whole world on this machine, in one process, without root, files or
internet: three regions of simulated Triton pods, each with its agent, and two
directors. It prints what to try, then what it sees. Its subcommands play with
the one that runs.`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			err := at.Check()
			times := cmd.Flags().Changed("failover")
			if check && times {
				err = errors.Join(err, errors.New("--check and --failover are two ways to run: give one"))
			}
			if times && failover < 1 {
				err = errors.Join(err, fmt.Errorf("--failover %d: want at least 1", failover))
			}
			if err != nil {
				return badInput{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := demoLog(cmd.ErrOrStderr(), level)
			switch {
			case err != nil:
				return badInput{err}
			case failover > 0:
				return world.Failover(cmd.Context(), failover, cmd.OutOrStdout())
			}
			build := telemetry.ReadBuild()
			err = world.Demo(cmd.Context(), world.Options{
				Layout: at, Logger: log, Version: build.Version,
				Registry: func() *prometheus.Registry { return telemetry.NewRegistry(build) },
			}, check, cmd.OutOrStdout())
			if errors.Is(err, layout.ErrTaken) {
				return badInput{fmt.Errorf("rhumb demo: %w", err)}
			}
			return err
		},
	}
	cmd.PersistentFlags().TextVar(&at.Net, "net", at.Net, "the `/16` of loopback to run in")
	cmd.PersistentFlags().Uint16Var(&at.Port, "port", at.Port, "`port` of the gateways and redirectors; all other ports move with it")
	cmd.Flags().BoolVar(&check, "check", false, "run the tour that checks itself, and end")
	cmd.Flags().IntVar(&failover, "failover", 0, "lose a region in this many fresh `worlds` and print how long it took")
	cmd.Flags().StringVar(&level, "log", "", "show the daemons' own logs from this `level` on: debug, info, warn or error")
	cmd.AddCommand(demoOrders(&at)...)
	return cmd
}

// demoLog is silent unless a level was asked for.
func demoLog(to io.Writer, level string) (*slog.Logger, error) {
	if level == "" {
		return slog.New(slog.DiscardHandler), nil
	}
	return telemetry.NewLogger(to, level, "text")
}
