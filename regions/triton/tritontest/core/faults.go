package core

import (
	"context"
	"log/slog"
	"sync"
)

// Zombie is how a model fails whose backend has died while its readiness check
// still passes.
type Zombie int

// The states of a backend.
const (
	Alive   Zombie = iota // as usual
	Hanging               // requests are taken and never answered
	Failing               // requests fail, those under way too
)

// String is the state's name in logs.
func (z Zombie) String() string { return [...]string{"alive", "hanging", "failing"}[z] }

// deadText is what vLLM says of a dead engine.
const deadText = "Error generating stream: EngineCore encountered an issue. See stack trace (above) for the root cause."

// Faults are the switches of a pod. They survive its restarts.
type Faults struct {
	log *slog.Logger

	mu        sync.Mutex    // guards the fields below
	open      chan struct{} // closed while the pod does not hang
	hung      bool
	slow      int
	notReady  map[string]bool
	permille  int // of requests that fail
	owed      int // permille not yet paid out in failures
	inBand    int // streams that are still to fail in-band
	inBandAt  int // after so many responses
	coreExits bool
	zombies   map[string]Zombie
	raised    chan struct{} // closed when a zombie changes
}

// NewFaults returns switches that are all off.
func NewFaults(log *slog.Logger) *Faults {
	f := &Faults{log: log, open: make(chan struct{}), raised: make(chan struct{})}
	close(f.open)
	return f
}

// Hang makes the pod accept connections and read requests but answer nothing,
// on both ports, until Hang(false): open streams stall, nobody is refused. It
// is what a stopped process or a black-holed host looks like from outside.
func (f *Faults) Hang(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if on == f.hung {
		return
	}
	f.hung = on
	if on {
		f.open = make(chan struct{})
	} else {
		close(f.open)
	}
	f.log.Info("fault", "hang", on)
}

// Slow multiplies all times of all models (prefill, tokens, loading) by n, from
// the next token on. 1 or less is the normal speed.
func (f *Faults) Slow(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slow = n
	f.log.Info("fault", "slow", n)
}

// NotReady makes the readiness check of a loaded model fail, as a dead backend
// process does: 400 for the model and for the server. Requests are still served.
func (f *Faults) NotReady(model string, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.notReady == nil {
		f.notReady = make(map[string]bool)
	}
	f.notReady[model] = on
	f.log.Info("fault", "not_ready", on, "model", model)
}

// ErrorRate makes that share of requests fail before their first token, with
// status 500. Which ones is a fixed sequence, evenly spread: after n requests
// exactly n × permille / 1000, rounded down, have failed. Each call starts anew.
func (f *Faults) ErrorRate(permille int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.permille, f.owed = min(max(permille, 0), 1000), 0
	f.log.Info("fault", "error_permille", f.permille)
}

// FailInBand makes each of the next streams send an error event after so many
// responses (at least one) and end cleanly: status 200, and only the body tells.
// Streams that end earlier are not counted.
func (f *Faults) FailInBand(streams, responses int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inBand, f.inBandAt = streams, max(responses, 1)
	f.log.Info("fault", "in_band_errors", streams, "after_responses", f.inBandAt)
}

// Exiting makes the core say that it is exiting while its endpoints still
// answer: live and ready are 503, and models can't be looked up. Shutdown
// reaches this state only when the HTTP endpoint has gone.
func (f *Faults) Exiting(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.coreExits = on
	f.log.Info("fault", "exiting", on)
}

// Zombie kills or revives the backend of a model: the readiness checks go on
// passing, but no request is answered any more.
func (f *Faults) Zombie(model string, how Zombie) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.zombies == nil {
		f.zombies = make(map[string]Zombie)
	}
	f.zombies[model] = how
	f.raiseLocked()
	f.log.Info("fault", "zombie", how, "model", model)
}

func (f *Faults) raiseLocked() {
	close(f.raised)
	f.raised = make(chan struct{})
}

// Heal turns every switch off; it does not start a pod that has crashed.
func (f *Faults) Heal() {
	f.Hang(false)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slow, f.permille, f.owed, f.inBand, f.coreExits = 1, 0, 0, 0, false
	clear(f.notReady)
	clear(f.zombies)
	f.raiseLocked()
	f.log.Info("faults healed")
}

// passable waits while the pod hangs; false means that ctx ended first.
func (f *Faults) passable(ctx context.Context) bool {
	f.mu.Lock()
	open := f.open
	f.mu.Unlock()
	select {
	case <-open:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *Faults) slowness() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(f.slow, 1)
}

func (f *Faults) isNotReady(model string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.notReady[model]
}

func (f *Faults) isExiting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.coreExits
}

// fails draws the next of the error sequence.
func (f *Faults) fails() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owed += f.permille
	if f.owed < 1000 {
		return false
	}
	f.owed -= 1000
	return true
}

// failsInBand tells whether a stream fails now, after its n-th response.
func (f *Faults) failsInBand(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inBand == 0 || n != f.inBandAt {
		return false
	}
	f.inBand--
	return true
}

// backend waits while the model's backend hangs, and fails when it is dead.
func (f *Faults) backend(ctx context.Context, model string) error {
	for {
		f.mu.Lock()
		how, raised := f.zombies[model], f.raised
		f.mu.Unlock()
		switch how {
		case Failing:
			return errDead
		case Hanging:
		default:
			return nil
		}
		select {
		case <-raised:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
