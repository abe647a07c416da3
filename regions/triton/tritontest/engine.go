package tritontest

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
)

// engine runs the sequences of one loaded model: a first-in first-out queue in
// front of a fixed number of slots.
type engine struct {
	proc  *process
	model Model

	mu      sync.Mutex // guards the fields below
	running map[*sequence]struct{}
	waiting []*ticket
	counts  counters
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

// step is what the backend hands out at once: one token of a stream, or the
// whole text of any other request.
type step struct {
	text   string
	tokens int
	finish string // "None" until the last, then "stop" or "length"
}

func newEngine(p *process, m Model) *engine {
	return &engine{proc: p, model: m, running: make(map[*sequence]struct{})}
}

// queues tells whether requests wait in Triton's own queue, where they are
// pending, rather than unseen inside of a decoupled backend.
func (e *engine) queues() bool {
	return e.model.Coupled || e.model.QueueLimit > 0 || e.model.QueueTimeout > 0
}

// enter waits for a slot. It fails with errQueueFull, errQueueTimeout (the
// request's own timeout, if shorter than the queue's) or ctx's error.
func (e *engine) enter(ctx context.Context, timeout time.Duration) (*sequence, error) {
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
	if e.queues() && timeout > 0 {
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
func (e *engine) withdraw(t *ticket, why error) (*sequence, error) {
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

func (e *engine) admitLocked() *sequence {
	s := new(sequence)
	e.running[s] = struct{}{}
	e.proc.gpu.change(time.Now(), 1)
	e.proc.pod.ledger.batch(e.model.Name, len(e.running))
	return s
}

// leave frees the slot and gives it to the next in the queue.
func (e *engine) leave(s *sequence) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.running, s)
	e.proc.gpu.change(time.Now(), -1)
	if len(e.waiting) > 0 {
		t := e.waiting[0]
		e.waiting = e.waiting[1:]
		t.granted <- e.admitLocked()
	}
}

// generate runs the request from the queue to its last token and hands the
// steps to emit. An error from emit or the end of ctx stops it.
func (e *engine) generate(ctx context.Context, j *job, q genRequest, emit func(step) error) error {
	begin := time.Now()
	s, err := e.enter(ctx, q.timeout)
	if err != nil {
		e.count(begin, begin, err)
		return err
	}
	start := time.Now()
	if !e.queues() {
		start = begin // the wait inside of a backend is computing to Triton
	}
	err = e.decode(ctx, s, j, q, emit)
	e.leave(s)
	e.count(begin, start, err)
	return err
}

// decode is the time in the slot: prefill, then a token at a time.
func (e *engine) decode(ctx context.Context, s *sequence, j *job, q genRequest, emit func(step) error) error {
	s.tokens.Store(int64(q.promptTokens))
	if err := e.proc.pause(ctx, time.Duration(q.promptTokens)*e.model.PrefillPerToken); err != nil {
		return err
	}
	s.prefilled.Store(true)
	limit := min(q.maxTokens, e.model.MaxTokens-q.promptTokens)
	state := newTextState(e.model.Name, q.prompt)
	var text strings.Builder
	for n := 1; ; n++ {
		one := step{tokens: 1, finish: "None"}
		if state.stops(e.model.StopEvery) {
			one.finish = "stop"
		} else {
			one.text = state.next()
			state = state.add(one.text)
			if n == limit {
				one.finish = "length"
			}
		}
		s.tokens.Add(1)
		j.tokens.Add(1)
		if q.stream {
			if err := emit(one); err != nil {
				return err
			}
		} else if text.WriteString(one.text); one.finish != "None" {
			return emit(step{text.String(), n, one.finish})
		}
		if one.finish != "None" {
			return nil
		}
		if err := e.proc.pause(ctx, interToken(e.model, e.batch())); err != nil {
			return err
		}
	}
}

func (e *engine) batch() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.running)
}

// idle tells whether nothing runs or waits.
func (e *engine) idle() bool {
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
