package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newRoot is the whole tree of commands.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "rhumb",
		Short:         "Direct inference traffic to the region that answers first",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringP("output", "o", "text", "`format` of the output: text or json")
	root.AddCommand(newAgent(), newCheck(), newDemo(), newDirector(), newKeygen(), newPod(), newVersion())
	return root
}

// newGroup is a command that only holds others; by itself it is a mistake.
func newGroup(use, short string, commands ...*cobra.Command) *cobra.Command {
	group := &cobra.Command{
		Use: use, Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			return badInput{fmt.Errorf("rhumb %s: no such command %q; see %s --help", use, args, cmd.CommandPath())}
		},
	}
	group.AddCommand(commands...)
	return group
}
