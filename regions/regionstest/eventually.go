// Package regionstest holds what tests of every package share.
package regionstest

import (
	"testing"
	"time"
)

// pollEvery is how often Eventually looks. 5 ms keeps a test that waits for a
// loopback exchange fast without spending a core on polling.
const pollEvery = 5 * time.Millisecond

// Eventually waits until cond holds and fails the test if it does not within
// the given time. Choose within generously (seconds): it bounds a hang, it does
// not assert speed.
func Eventually(tb testing.TB, within time.Duration, cond func() bool, what string) {
	tb.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			tb.Fatalf("not within %v: %s", within, what)
		case <-tick.C:
		}
	}
}
