package main

import (
	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/cmd/internal/telemetry"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which build this is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(cmd, telemetry.ReadBuild())
		},
	}
}
