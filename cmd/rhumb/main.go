// Command rhumb directs inference traffic across the world: it is the agent of
// a region, a director of the fleet, and the tools to run and try both.
//
// It exits with 0 when all is well, 1 when something failed, and 2 when it was
// called wrongly or given a bad file.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// The first signal ends the context, so that the daemons drain; a second one
	// kills, because stop gives the signals back.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
