package core

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errQueueFull    = errors.New("queue is full")
	errQueueTimeout = errors.New("request timed out in the queue")
	errDead         = errors.New("backend is dead")
)

// Engine runs the sequences of one loaded model: a first-in first-out queue in
// front of a fixed number of slots.
type Engine struct {
	server *Server
	model  Model

	mu      sync.Mutex // guards the fields below
	running map[*sequence]struct{}
	waiting []*ticket
	counts  Counters
	stats   backendStats
}

// sequence is one request in a slot. Its tokens (prompt and output so far) say
// how much of the KV cache it holds.
type sequence struct {
	tokens    atomic.Int64
	prefilled atomic.Bool
}

// ticket is one request's place in the queue; granted gets its slot.
type ticket struct {
	granted chan *sequence
}

// Step is what the backend hands out at once: one token of a stream, or the
// whole text of any other request.
type Step struct {
	Text   string
	Tokens int
	Finish string // "None" until the last, then "stop" or "length"
}

// Last tells whether the text ends with this step.
func (s Step) Last() bool { return s.Finish != "None" }

func newEngine(s *Server, m Model) *Engine {
	return &Engine{server: s, model: m, running: make(map[*sequence]struct{}), stats: newBackendStats(m)}
}

// Model is what the engine runs.
func (e *Engine) Model() Model { return e.model }

// enter waits for a slot. It fails with errQueueFull, errQueueTimeout (the
// request's own timeout, if shorter than the queue's) or ctx's error.
func (e *Engine) enter(ctx context.Context, timeout time.Duration) (*sequence, error) {
	e.mu.Lock()
	if len(e.running) < e.model.Slots {
		defer e.mu.Unlock()
		return e.admitLocked(), nil
	}
	if e.model.QueueLimit > 0 && len(e.waiting) >= e.model.QueueLimit {
		e.mu.Unlock()
		return nil, errQueueFull
	}
	t := &ticket{granted: make(chan *sequence, 1)}
	e.waiting = append(e.waiting, t)
	e.mu.Unlock()

	if q := e.model.QueueTimeout; q > 0 && (timeout <= 0 || q < timeout) {
		timeout = q
	}
	var expired <-chan time.Time
	if e.model.Queues() && timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case s := <-t.granted:
		return s, nil
	case <-expired:
		return e.withdraw(t, errQueueTimeout)
	case <-ctx.Done():
		s, err := e.withdraw(t, ctx.Err())
		if err == nil {
			e.leave(s)
		}
		return nil, ctx.Err()
	}
}

// withdraw takes the ticket out of the queue, or returns the slot that it was
// granted in the meantime.
func (e *Engine) withdraw(t *ticket, why error) (*sequence, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, other := range e.waiting {
		if other == t {
			e.waiting = append(e.waiting[:i], e.waiting[i+1:]...)
			return nil, why
		}
	}
	return <-t.granted, nil
}

func (e *Engine) admitLocked() *sequence {
	s := new(sequence)
	e.running[s] = struct{}{}
	e.server.gpu.change(time.Now(), 1)
	e.server.ledger.batch(e.model.Name, len(e.running))
	return s
}

// leave frees the slot and gives it to the next in the queue.
func (e *Engine) leave(s *sequence) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.running, s)
	e.server.gpu.change(time.Now(), -1)
	if len(e.waiting) > 0 {
		t := e.waiting[0]
		e.waiting = e.waiting[1:]
		t.granted <- e.admitLocked()
	}
}

// generate runs the request from the queue to its last token and hands the
// steps to emit. An error from emit or the end of ctx stops it.
func (e *Engine) generate(ctx context.Context, j *Job, q Request, emit func(Step) error) error {
	t := timing{arrived: time.Now()}
	s, err := e.enter(ctx, q.Timeout)
	if err != nil {
		if !e.model.Queues() {
			t.begun = t.arrived
		}
		e.count(t, err)
		return err
	}
	if t.begun = time.Now(); !e.model.Queues() {
		t.begun = t.arrived // the wait inside of a backend is computing to Triton
	}
	var text strings.Builder
	n, last := 0, t.begun
	err = e.decode(ctx, s, q, func(one Step) error {
		n++
		s.tokens.Add(1)
		j.tokens.Add(1)
		e.observe(&last, n, q)
		text.WriteString(one.Text)
		switch {
		case !q.Stream && !one.Last():
			return nil
		case !q.Stream:
			one = Step{text.String(), n, one.Finish}
		case e.model.Cumulative:
			one.Text = text.String()
		}
		return emit(one)
	})
	e.leave(s)
	e.count(t, err)
	if err == nil {
		e.observeEnd(time.Since(t.begun), n, q)
	}
	return err
}

// decode is the time in the slot: prefill, then a token at a time.
func (e *Engine) decode(ctx context.Context, s *sequence, q Request, each func(Step) error) error {
	s.tokens.Store(int64(q.PromptTokens))
	if err := e.pause(ctx, time.Duration(q.PromptTokens)*e.model.PrefillPerToken); err != nil {
		return err
	}
	s.prefilled.Store(true)
	limit := min(q.MaxTokens, e.model.MaxTokens-q.PromptTokens)
	state, text := newTextState(e.model, q.Prompt), newBuffer(q.Stop)
	for n := 1; ; n++ {
		one, piece := Step{Tokens: 1, Finish: "None"}, ""
		if state.stops(e.model.StopEvery) {
			one.Finish = "stop"
		} else {
			piece = state.next()
			state = state.add(piece)
			if n == limit {
				one.Finish = "length"
			}
		}
		seen, hit := text.add(piece, one.Last())
		if one.Text = seen; hit {
			one.Finish = "stop"
		}
		if err := each(one); err != nil {
			return err
		}
		if one.Last() {
			return nil
		}
		if err := e.pause(ctx, interToken(e.model, e.batch())); err != nil {
			return err
		}
	}
}

// pause computes for a while, if the backend lives.
func (e *Engine) pause(ctx context.Context, d time.Duration) error {
	if err := e.server.Pause(ctx, d); err != nil {
		return err
	}
	return e.server.faults.backend(ctx, e.model.Name)
}

func (e *Engine) batch() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.running)
}

// idle tells whether nothing runs or waits.
func (e *Engine) idle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.running) == 0 && len(e.waiting) == 0
}

// interToken is the time between two tokens of a sequence in a batch of this
// size: linear from InterToken alone to BatchPenalty permille more with every
// slot busy.
func interToken(m Model, batch int) time.Duration {
	if m.Slots < 2 || batch < 2 {
		return m.InterToken
	}
	extra := int64(m.BatchPenalty) * int64(min(batch, m.Slots)-1) / int64(m.Slots-1)
	return m.InterToken + time.Duration(int64(m.InterToken)/1000*extra+int64(m.InterToken)%1000*extra/1000)
}

// gpuGauge measures for which share of the time anything ran, as NVML does:
// one sequence keeps a GPU as busy as a full batch. A value lasts for an
// interval. The zero value is ready.
type gpuGauge struct {
	mu      sync.Mutex
	active  int
	changed time.Time // of busy
	busy    time.Duration
	taken   time.Time
	value   float64
}

func (g *gpuGauge) change(now time.Time, by int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.advanceLocked(now)
	g.active += by
}

func (g *gpuGauge) advanceLocked(now time.Time) {
	if g.active > 0 {
		g.busy += now.Sub(g.changed)
	}
	g.changed = now
}

// read returns the share of the last whole interval.
func (g *gpuGauge) read(now time.Time, interval time.Duration) float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.advanceLocked(now)
	if g.taken.IsZero() {
		g.taken, g.busy = now, 0
	} else if span := now.Sub(g.taken); span >= interval && span > 0 {
		g.value = min(float64(g.busy)/float64(span), 1)
		g.taken, g.busy = now, 0
	}
	return g.value
}
