package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/regions/agent"
)

func newAgent() *cobra.Command {
	return role[agent.Options]{
		name: "agent", short: "Run the agent of a region",
		long: `Run the agent of a region: it finds and probes the Triton pods, takes the
clients' requests and tells the directors how the region does. SIGTERM drains it;
a second one ends it at once. SIGHUP, or a changed file, reloads its configuration.`,
		options: func(cfg *config.Config, k *kit) (agent.Options, error) {
			o, err := cfg.AgentOptions(time.Now())
			o.Logger, o.Registry, o.Version = k.log, k.registry, k.build.Version
			return o, err
		},
		start: func(o agent.Options) (daemon[agent.Options], error) { return agent.New(o) },
	}.command()
}
