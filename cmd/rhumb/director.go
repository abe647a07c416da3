package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/director/node"
)

func newDirector() *cobra.Command {
	return role[node.Options]{
		name: "director", short: "Run a director: DNS, redirects and the mind behind them",
		long: `Run a director: it hears the regions, plans, and answers clients by DNS and by
redirect. SIGTERM ends it. SIGHUP, or a changed file, reloads its configuration.`,
		options: func(cfg *config.Config, k *kit) (node.Options, error) {
			o, err := cfg.DirectorOptions(time.Now())
			o.Logger, o.Registry = k.log, k.registry
			return o, err
		},
		start: func(o node.Options) (daemon[node.Options], error) { return node.New(o) },
	}.command()
}
