package core

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
	// Running is none of the ends: broken off before its answer was whole.
	Running End = ""
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

// The frontends by which requests come.
const (
	HTTP   = "http"
	GRPC   = "grpc"
	OpenAI = "openai"
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

	CutStreams int64 // of Cut: streams that had sent at least one byte
	CutUnseen  int64 // of Cut: requests of which no byte was sent
	Tokens     int64 // generated
}

// Record is one ended request, as the pod remembers it.
type Record struct {
	Seq       int64     // order of starting, from 1
	ID        string    // as given by the client, may be empty
	Model     string    // name of the model
	Frontend  string    // "http", "grpc" or "openai"
	Stream    bool      // asked for as a stream
	Started   time.Time // when it was decoded
	FirstByte time.Time // when the kernel took the first byte of the answer; zero if none
	Bytes     int64     // of the answer, headers and framing included
	Tokens    int64     // generated
	End       End       // how it ended
}

// Job is one request under way.
type Job struct {
	ledger *Ledger
	stats  *Stats // guarded by the ledger's lock
	record Record // settled last; its first part never changes
	tokens atomic.Int64

	mu        sync.Mutex // guards the fields below
	firstByte time.Time
	sent      int64
	end       End
}

// Ledger counts and remembers the requests of a pod.
type Ledger struct {
	mu     sync.Mutex
	seq    int64
	models map[string]*Stats
	ring   []Record
	size   int
	next   int
}

// NewLedger returns a ledger for these models that remembers size requests.
func NewLedger(models []string, size int) *Ledger {
	l := &Ledger{models: make(map[string]*Stats), size: size}
	for _, name := range models {
		l.models[name] = new(Stats)
	}
	return l
}

// Begin starts a job.
func (l *Ledger) Begin(frontend string, m Model, q Request, stream bool) *Job {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	s := l.models[m.Name]
	s.Started++
	s.InFlight++
	s.Peak = max(s.Peak, s.InFlight)
	return &Job{ledger: l, stats: s, record: Record{
		Seq: l.seq, ID: q.ID, Model: m.Name, Frontend: frontend, Stream: stream, Started: time.Now(),
	}}
}

// Wrote notes bytes of the answer that are on their way.
func (j *Job) Wrote(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n > 0 && j.sent == 0 {
		j.firstByte = time.Now()
	}
	j.sent += int64(n)
}

// Streams tells whether the job is in the middle of a stream that has begun.
func (j *Job) Streams() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.record.Stream && j.sent > 0 && j.end == Running
}

// Ended notes how the answer ends; whether the client can have it whole is
// settled after the last write.
func (j *Job) Ended(end End) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.end = end
}

// Settle counts the job as over. An answer that is not whole was cut by the pod
// or left by its client.
func (j *Job) Settle(whole, cut bool) {
	j.mu.Lock()
	end := j.end
	switch {
	case end != Running && whole:
	case cut:
		end = Cut
	case j.record.Stream || end == Canceled:
		end = Canceled
	default:
		end = Undelivered
	}
	r := j.record
	r.FirstByte, r.Bytes, r.Tokens, r.End = j.firstByte, j.sent, j.tokens.Load(), end
	j.mu.Unlock()
	j.ledger.settle(j.stats, r)
}

func (l *Ledger) batch(model string, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.models[model]
	s.Batch = max(s.Batch, int64(size))
}

func (l *Ledger) settle(s *Stats, r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.InFlight--
	s.Tokens += r.Tokens
	switch r.End {
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
		if r.Bytes == 0 {
			s.CutUnseen++
		} else if r.Stream {
			s.CutStreams++
		}
	}
	if l.size == 0 {
		return
	}
	if len(l.ring) < l.size {
		l.ring = append(l.ring, r)
		return
	}
	l.ring[l.next] = r
	l.next = (l.next + 1) % l.size
}

// Stats returns the counters of a model; zero for one that is not there.
func (l *Ledger) Stats(model string) Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.models[model]; s != nil {
		return *s
	}
	return Stats{}
}

// Records returns the last requests that ended, in the order in which they did.
func (l *Ledger) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Record, 0, len(l.ring))
	out = append(out, l.ring[l.next:]...)
	return append(out, l.ring[:l.next]...)
}
