package tritontest

import (
	"context"
	"sync"
)

// faults are the switches of a pod. They survive Crash and Start.
type faults struct {
	mu        sync.Mutex
	open      chan struct{} // closed while the pod does not hang
	hung      bool
	slow      int
	notReady  map[string]bool
	permille  int // of requests that fail
	owed      int // permille not yet paid out in failures
	inBand    int // streams that are still to fail in-band
	inBandAt  int // after so many responses
	coreExits bool
}

// Hang makes the pod accept connections and read requests but answer nothing,
// on both ports, until Hang(false): open streams stall, nobody is refused. It
// is what a stopped process or a black-holed host looks like from outside.
func (p *Pod) Hang(on bool) {
	f := &p.faults
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
	p.log.Info("fault", "hang", on)
}

// Slow multiplies all times of all models (prefill, tokens, loading) by n, from
// the next token on. 1 or less is the normal speed.
func (p *Pod) Slow(n int) {
	p.faults.mu.Lock()
	defer p.faults.mu.Unlock()
	p.faults.slow = n
	p.log.Info("fault", "slow", n)
}

// NotReady makes the readiness check of a loaded model fail, as a dead backend
// process does: 400 for the model and for the server. Requests are still served.
func (p *Pod) NotReady(model string, on bool) {
	f := &p.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.notReady == nil {
		f.notReady = make(map[string]bool)
	}
	f.notReady[model] = on
	p.log.Info("fault", "not_ready", on, "model", model)
}

// ErrorRate makes that share of requests fail before their first token, with
// status 500. Which ones is a fixed sequence, evenly spread: after n requests
// exactly n × permille / 1000, rounded down, have failed. Each call starts anew.
func (p *Pod) ErrorRate(permille int) {
	f := &p.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	f.permille, f.owed = min(max(permille, 0), 1000), 0
	p.log.Info("fault", "error_permille", f.permille)
}

// FailInBand makes each of the next streams send an error event after so many
// responses (at least one) and end cleanly: status 200, and only the body tells.
// Streams that end earlier are not counted.
func (p *Pod) FailInBand(streams, responses int) {
	f := &p.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inBand, f.inBandAt = streams, max(responses, 1)
	p.log.Info("fault", "in_band_errors", streams, "after_responses", f.inBandAt)
}

// Exiting makes the core say that it is exiting while its endpoints still
// answer: live and ready are 503, and models can't be looked up. Shutdown
// reaches this state only when the HTTP endpoint has gone.
func (p *Pod) Exiting(on bool) {
	p.faults.mu.Lock()
	defer p.faults.mu.Unlock()
	p.faults.coreExits = on
	p.log.Info("fault", "exiting", on)
}

// CutStreams closes every connection on which an event stream has sent at least
// one byte and is not at its end, without terminating the body. The pod goes
// on. It returns how many it cut; a stream whose last byte was under way may
// have been whole all the same, which Stats tells exactly.
func (p *Pod) CutStreams() int {
	proc := p.current()
	if proc == nil {
		return 0
	}
	var begun []*conn // before any is cut: that frees slots for other streams
	for _, c := range proc.listeners[0].open() {
		if c.streams() {
			begun = append(begun, c)
		}
	}
	for _, c := range begun {
		c.cut(false)
	}
	p.log.Info("fault", "cut_streams", len(begun))
	return len(begun)
}

// Heal turns every switch off; it does not start a pod that has crashed.
func (p *Pod) Heal() {
	p.Hang(false)
	f := &p.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slow, f.permille, f.owed, f.inBand, f.coreExits = 1, 0, 0, 0, false
	clear(f.notReady)
	p.log.Info("faults healed")
}

// passable waits while the pod hangs; false means that ctx ended first.
func (f *faults) passable(ctx context.Context) bool {
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

func (f *faults) slowness() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(f.slow, 1)
}

func (f *faults) isNotReady(model string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.notReady[model]
}

func (f *faults) isExiting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.coreExits
}

// fails draws the next of the error sequence.
func (f *faults) fails() bool {
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
func (f *faults) failsInBand(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inBand == 0 || n != f.inBandAt {
		return false
	}
	f.inBand--
	return true
}
