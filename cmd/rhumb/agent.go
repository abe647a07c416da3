package main

import (
	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/regions/agent"
)

func newAgent() *cobra.Command {
	return newDaemon("agent", "Run the agent of a region",
		`Run the agent of a region: it finds and probes the Triton pods, takes the
clients' requests and tells the directors how the region does. SIGTERM drains it;
a second one ends it at once. SIGHUP, or a changed file, reloads its configuration.`,
		func(s *setup) (daemon, error) {
			o, err := s.cfg.AgentOptions(s.now())
			if err != nil {
				return nil, badInput{err}
			}
			o.Logger, o.Registry, o.Version = s.log, s.registry, s.build.Version
			a, err := agent.New(o)
			if err != nil {
				return nil, badInput{err}
			}
			return a, nil
		})
}
