package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Exit codes that scripts can use.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // called wrongly, or given bad input
)

// badInput is an error for which the caller is to blame.
type badInput struct{ error }

// Unwrap returns the error itself.
func (e badInput) Unwrap() error { return e.error }

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	// What fails before a command's own code runs was a mistake on the command line.
	started := false
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkOutput(cmd); err != nil {
			return err
		}
		started = true
		return nil
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	var bad badInput
	switch {
	case err == nil:
		return exitOK
	case !started:
		fmt.Fprintf(stderr, "rhumb: %v\nsee %s --help\n", err, cmd.CommandPath())
		return exitUsage
	case errors.As(err, &bad):
		fmt.Fprintln(stderr, err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "rhumb: %v\n", err)
		return exitFailed
	}
}
