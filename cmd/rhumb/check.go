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
variables of this environment, and the files that it names: certificates, keys,
databases. Prints "FILE: ok (agent)", or every mistake with its line and what to
do, and exits with 2. Of what will be wrong soon, such as a certificate that
expires within 14 days, it warns.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v := verdict{File: args[0]}
			src.Warn = func(p config.Problem) { v.Warnings = append(v.Warnings, p) }
			cfg, err := config.Load(v.File, src)
			if err != nil {
				return v.refuse(cmd, err)
			}
			v.OK, v.Roles = true, cfg.Roles()
			return show(cmd, v)
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
	Warnings []config.Problem `json:"warnings,omitempty"`
}

// String is the line for a file without mistakes, with the warnings before it.
func (v verdict) String() string {
	var b strings.Builder
	for _, p := range v.Warnings {
		fmt.Fprintf(&b, "warning: %v\n", p)
	}
	fmt.Fprintf(&b, "%s: ok (%s)", v.File, strings.Join(v.Roles, ", "))
	return b.String()
}

// refuse reports a file's mistakes: as JSON on the output if asked for, always
// as text beside the exit code.
func (v verdict) refuse(cmd *cobra.Command, err error) error {
	for _, p := range v.Warnings {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: %v\n", p)
	}
	var problems config.Problems
	if errors.As(err, &problems) && cmd.Flag("output").Value.String() == "json" {
		v.Problems = problems
		if err := show(cmd, v); err != nil {
			return err
		}
	}
	return badInput{err}
}
