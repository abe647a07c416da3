package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// demo is the command's flags.
type demo struct {
	layout    layout.Layout
	check     bool
	failover  int
	processes bool
	level     string
}

func newDemo() *cobra.Command {
	d := &demo{layout: layout.Default()}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a whole world on this machine: three regions, two directors",
		Long: `Run a whole world on this machine, in one process, without root, files or
internet: three regions of simulated Triton pods, each with its agent, and two
directors. It prints what to try, then what it sees. Its subcommands play with
the one that runs.

With --processes the same world runs as people run it: every pod, agent and
director a process of its own, with keys and configuration in a temporary folder.`,
		Args:    cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error { return d.verify(cmd.Flags().Changed("failover")) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			return d.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.PersistentFlags().TextVar(&d.layout.Net, "net", d.layout.Net, "the `/16` of loopback to run in")
	cmd.PersistentFlags().Uint16Var(&d.layout.Port, "port", d.layout.Port, "`port` of the gateways and redirectors; all other ports move with it")
	cmd.Flags().BoolVar(&d.check, "check", false, "run the tour that checks itself, and end")
	cmd.Flags().IntVar(&d.failover, "failover", 0, "lose a region this many `times` and print how long it took")
	cmd.Flags().BoolVar(&d.processes, "processes", false, "run every pod, agent and director as a process of its own")
	cmd.Flags().StringVar(&d.level, "log", "", "show the daemons' own logs from this `level` on: debug, info, warn or error")
	cmd.AddCommand(demoOrders(&d.layout)...)
	return cmd
}

// verify refuses flags that make no sense, alone or together.
func (d *demo) verify(times bool) error {
	err := d.layout.Check()
	if d.check && times {
		err = errors.Join(err, errors.New("--check and --failover are two ways to run: give one"))
	}
	if times && d.failover < 1 {
		err = errors.Join(err, fmt.Errorf("--failover %d: want at least 1", d.failover))
	}
	if d.processes && d.layout.Port != layout.Default().Port {
		err = errors.Join(err, fmt.Errorf("--port %d: a world of processes has the ports of its configuration files; move it with --net", d.layout.Port))
	}
	if d.processes && d.level != "" {
		err = errors.Join(err, errors.New("--log: processes log to files, whose folder is printed"))
	}
	if err != nil {
		return badInput{err}
	}
	return nil
}
