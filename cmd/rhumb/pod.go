package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/cmd/internal/telemetry"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

func newPod() *cobra.Command {
	o := tritontest.DefaultOptions()
	shape := tritontest.DefaultModel("")
	var models []string
	cmd := &cobra.Command{
		Use:   "pod",
		Short: "Run a simulated Triton server, to try Rhumb without GPUs",
		Long: `Run a simulated Triton server, to try Rhumb without GPUs: it answers on the wire
as Triton does, and takes as long as a model would. SIGTERM drains it as Triton
drains.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range models {
				m := shape
				m.Name = name
				o.Models = append(o.Models, m)
			}
			log, err := telemetry.NewLogger(cmd.ErrOrStderr(), slog.LevelInfo, "text")
			if err != nil {
				return err
			}
			o.Logger = log
			err = tritontest.New(o).Run(cmd.Context())
			if errors.Is(err, tritontest.ErrExitTimeout) {
				return fmt.Errorf("pod: %w", err)
			}
			if err != nil {
				return badInput{err}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Name, "name", "pod", "the pod's `name` in its log")
	f.StringVar(&o.Addr, "listen", "127.0.0.1:8000", "`address` of the HTTP frontend")
	f.StringVar(&o.GRPCAddr, "grpc", "", "`address` of the gRPC frontend, as 127.0.0.1:8001; empty for none")
	f.StringVar(&o.OpenAIAddr, "openai", "", "`address` of the OpenAI frontend, as 127.0.0.1:9000; empty for none")
	f.StringVar(&o.MetricsAddr, "metrics-listen", "127.0.0.1:8002", "`address` of the metrics; empty for none")
	f.StringArrayVar(&models, "model", []string{"llama"}, "`name` of a model to serve; can be repeated")
	f.IntVar(&shape.Slots, "slots", shape.Slots, "sequences that a model runs at a time")
	f.DurationVar(&shape.InterToken, "inter-token", shape.InterToken, "`time` between two tokens")
	f.DurationVar(&shape.PrefillPerToken, "prefill", shape.PrefillPerToken, "`time` for each token of a prompt")
	f.DurationVar(&o.ExitTimeout, "exit-timeout", 30*time.Second, "`time` that a drain may take")
	return cmd
}
