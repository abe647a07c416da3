package tritontest

import (
	"sync"
	"sync/atomic"
	"time"
)

// End is how a request ended, as seen from the pod.
type End string

// The ends of a request. A client can have seen a whole answer only with
// Completed, Failed and Rejected.
const (
	running End = ""
	// Completed: the whole answer was handed to the kernel.
	Completed End = "completed"
	// Failed: the answer is an error, or ends with one (an in-band error).
	Failed End = "failed"
	// Rejected: refused by the queue, full or timed out; nothing was run.
	Rejected End = "rejected"
	// Canceled: the client left an event stream; its generation was stopped.
	Canceled End = "canceled"
	// Undelivered: the client left another request; it was generated in vain.
	Undelivered End = "undelivered"
	// Cut: the pod broke the connection (Crash, CutStreams, exit timeout).
	Cut End = "cut"
)

// Stats counts the requests of one model since New, over restarts. A request
// counts once it is decoded and its model found. Started is always the sum of
// InFlight and the six ends.
type Stats struct {
	Started  int64 // given to the model
	InFlight int64 // queued, running, or with the answer's last byte not yet written
	Peak     int64 // the most InFlight at once
	Batch    int64 // the most that ran at once, at most the slots

	Completed, Failed, Rejected, Canceled, Undelivered, Cut int64

	CutStreams int64 // of Cut: event streams that had sent at least one byte
	CutUnseen  int64 // of Cut: requests of which no byte was sent
	Tokens     int64 // generated
}

// Request is one ended request, as the pod remembers it.
type Request struct {
	Seq       int64     // order of starting, from 1
	ID        string    // as given by the client, may be empty
	Model     string    // name of the model
	Stream    bool      // asked for by generate_stream
	Started   time.Time // when it was decoded
	FirstByte time.Time // when the kernel took the first byte of the answer; zero if none
	Bytes     int64     // of the answer, headers and framing included
	Tokens    int64     // generated
	End       End       // how it ended
}

// job is one request under way. The connection's lock guards it but for tokens.
type job struct {
	model     string
	id        string
	stream    bool
	seq       int64
	started   time.Time
	firstByte time.Time
	sent      int64
	tokens    atomic.Int64
	end       End
}

// ledger counts and remembers the requests of a pod.
type ledger struct {
	mu     sync.Mutex
	seq    int64
	models map[string]*Stats
	ring   []Request
	size   int
	next   int
}

func newLedger(models []string, size int) *ledger {
	l := &ledger{models: make(map[string]*Stats), size: size}
	for _, name := range models {
		l.models[name] = new(Stats)
	}
	return l
}

// begin starts a job on the connection.
func (l *ledger) begin(c *conn, model, id string, stream bool) *job {
	l.mu.Lock()
	l.seq++
	j := &job{model: model, id: id, stream: stream, seq: l.seq, started: time.Now()}
	s := l.models[model]
	s.Started++
	s.InFlight++
	s.Peak = max(s.Peak, s.InFlight)
	l.mu.Unlock()
	c.mu.Lock()
	c.job = j
	c.mu.Unlock()
	return j
}

// ended notes how the handler ended its job; whether the client can have it
// whole is settled after the last write.
func (c *conn) ended(j *job, end End) {
	c.mu.Lock()
	defer c.mu.Unlock()
	j.end = end
}

func (l *ledger) batch(model string, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.models[model]
	s.Batch = max(s.Batch, int64(size))
}

func (l *ledger) settle(j *job, end End) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.models[j.model]
	s.InFlight--
	s.Tokens += j.tokens.Load()
	switch end {
	case Completed:
		s.Completed++
	case Failed:
		s.Failed++
	case Rejected:
		s.Rejected++
	case Canceled:
		s.Canceled++
	case Undelivered:
		s.Undelivered++
	default:
		s.Cut++
		if j.sent == 0 {
			s.CutUnseen++
		} else if j.stream {
			s.CutStreams++
		}
	}
	if l.size == 0 {
		return
	}
	r := Request{
		Seq: j.seq, ID: j.id, Model: j.model, Stream: j.stream, Started: j.started,
		FirstByte: j.firstByte, Bytes: j.sent, Tokens: j.tokens.Load(), End: end,
	}
	if len(l.ring) < l.size {
		l.ring = append(l.ring, r)
		return
	}
	l.ring[l.next] = r
	l.next = (l.next + 1) % l.size
}

// Stats returns the counters of a model; zero for one that the pod has not.
// Tokens of requests under way are not in it. A request is settled after the
// last write of its answer, so a client may hold a whole answer for a moment
// before Completed counts it.
func (p *Pod) Stats(model string) Stats {
	p.ledger.mu.Lock()
	defer p.ledger.mu.Unlock()
	if s := p.ledger.models[model]; s != nil {
		return *s
	}
	return Stats{}
}

// Requests returns the last Options.LogSize requests that ended, in the order
// in which they ended.
func (p *Pod) Requests() []Request {
	l := p.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Request, 0, len(l.ring))
	out = append(out, l.ring[l.next:]...)
	return append(out, l.ring[:l.next]...)
}
