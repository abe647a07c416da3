package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
)

func newCheck() *cobra.Command {
	return newGroup("check", "Find mistakes before they are live", newCheckConfig())
}

func newCheckConfig() *cobra.Command {
	src := config.Source{Environ: os.Environ()}
	cmd := &cobra.Command{
		Use:   "config FILE",
		Short: "Check a configuration file as the daemon would read it",
		Long: `Check a configuration file as the daemon would read it, with the RHUMB_
variables of this environment. Prints "FILE: ok (agent)", or every mistake with
its line and what to do, and exits with 2.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0], src)
			if err != nil {
				return refuse(cmd, args[0], err)
			}
			return show(cmd, verdict{File: args[0], OK: true, Roles: cfg.Roles()})
		},
	}
	cmd.Flags().StringArrayVar(&src.Set, "set", nil, "set one `path=value` over the file; can be repeated")
	cmd.Flags().BoolVar(&src.SkipFiles, "skip-files", false, "don't look at the files that the configuration names")
	return cmd
}

// verdict is what a check found.
type verdict struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Roles    []string         `json:"roles,omitempty"`
	Problems []config.Problem `json:"problems,omitempty"`
}

// String is the line for a file without mistakes.
func (v verdict) String() string {
	return fmt.Sprintf("%s: ok (%s)", v.File, strings.Join(v.Roles, ", "))
}

// refuse reports a file's mistakes: as JSON on the output if asked for, always
// as text beside the exit code.
func refuse(cmd *cobra.Command, file string, err error) error {
	var problems config.Problems
	if errors.As(err, &problems) && cmd.Flag("output").Value.String() == "json" {
		if err := show(cmd, verdict{File: file, Problems: problems}); err != nil {
			return err
		}
	}
	return badInput{err}
}
