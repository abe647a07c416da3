//go:build race

package gossip_test

import "runtime"

// Timers of no time that run at once on two processors in one bubble share the race
// detector's state, which now and then crashes it (golang/go#78156, open as of Go 1.26). It finds
// races by what happens before what, for which one processor is enough.
func init() { runtime.GOMAXPROCS(1) }
