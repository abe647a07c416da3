package gossiptest

import (
	"testing"

	"go.uber.org/goleak"
)

// Patient runs a package's tests for goleak.VerifyTestMain, and then waits for
// memberlist's own goroutines, which follow its shutdown within a probe's time
// and which nobody can join, rather than ignoring them.
type Patient struct{ *testing.M }

// Run runs the tests.
func (p Patient) Run() int {
	code := p.M.Run()
	for range 30 { // Find itself looks for half a second
		if goleak.Find() == nil {
			break
		}
	}
	return code
}
