package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/layout"
	"github.com/rhumb-lb/rhumb/simulations/world"
)

// demoOrders are the commands that play with the running demo.
func demoOrders(at *layout.Layout) []*cobra.Command {
	crash := demoOrder(at, "crash", "Crash a pod of a region (the first, unless another is named)")
	crash.Use, crash.Args = "crash REGION [POD]", cobra.RangeArgs(1, 2)
	return []*cobra.Command{
		crash,
		demoOrder(at, "lose", "Kill a region: agent and pods at once, nobody is told"),
		demoOrder(at, "darken", "Make a region a black hole: nothing is refused, nothing answers"),
		demoOrder(at, "heal", "Undo every fault and drain of a region"),
		demoOrder(at, "drain", "Drain a region: what it has ends there, the rest goes elsewhere"),
		demoOrder(at, "undrain", "End a region's drain"),
		demoWeather(at),
	}
}

func demoOrder(at *layout.Layout, do, short string) *cobra.Command {
	return &cobra.Command{
		Use: do + " REGION", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := world.Order{Do: do, Region: args[0]}
			if len(args) == 2 {
				// A pod is named by its number or in full, like eu-west-0.
				pod, err := strconv.Atoi(strings.TrimPrefix(args[1], args[0]+"-"))
				if err != nil {
					return badInput{fmt.Errorf("pod %q: want its number or name, like 0 or %s-0", args[1], args[0])}
				}
				o.Pod = pod
			}
			return send(cmd, *at, o)
		},
	}
}

// send gives the order; one that is refused was the caller's mistake.
func send(cmd *cobra.Command, l layout.Layout, o world.Order) error {
	err := world.Send(cmd.Context(), l, o)
	if errors.Is(err, world.ErrRefused) {
		return badInput{fmt.Errorf("rhumb demo %s: %w", o.Do, err)}
	}
	if err == nil {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "done: %s %s\n", o.Do, o.Region)
	}
	return err
}

func demoWeather(at *layout.Layout) *cobra.Command {
	o := world.Order{Do: "weather"}
	var percent int
	cmd := &cobra.Command{
		Use: "weather", Short: "Delay and lose what the members say to each other", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if percent < 0 || percent > 100 {
				return badInput{fmt.Errorf("--loss %d: want 0 to 100 percent", percent)}
			}
			o.Loss = regions.Permille(percent * 10)
			return send(cmd, *at, o)
		},
	}
	cmd.Flags().DurationVar(&o.Delay, "delay", 0, "one-way `delay`, at most 1s")
	cmd.Flags().IntVar(&percent, "loss", 0, "`percent` of packets lost")
	return cmd
}
