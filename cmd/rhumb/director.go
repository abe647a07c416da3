package main

import (
	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/director/node"
)

func newDirector() *cobra.Command {
	return newDaemon("director", "Run a director: DNS, redirects and the mind behind them",
		`Run a director: it hears the regions, plans, and answers clients by DNS and by
redirect. SIGTERM ends it. SIGHUP, or a changed file, reloads its configuration.`,
		func(s *setup) (daemon, error) {
			o, err := s.cfg.DirectorOptions(s.now())
			if err != nil {
				return nil, badInput{err}
			}
			o.Logger, o.Registry = s.log, s.registry
			n, err := node.New(o)
			if err != nil {
				return nil, badInput{err}
			}
			return n, nil
		})
}
