package resume

import "time"

// Session is one client's stream over one or more pods. It is not safe for
// concurrent use.
type Session struct{}

// Open reads the client's body, and keeps it. There is always a session: events
// of one that can't be resumed pass unchanged.
func Open(p Profile, l Limits, body []byte) *Session { return &Session{} }

// Refusal says why the stream can't be resumed, as far as is known now; empty if
// it can.
func (s *Session) Refusal() Reason { return "" }

// Detail says more of the refusal: the name of a parameter. It is the client's
// word, for a log and not for a metric's label.
func (s *Session) Detail() string { return "" }

// Body is what the first pod is sent: the client's body, with questions for the
// counters where they are missing; the very same bytes if nothing is asked.
func (s *Session) Body() []byte { return nil }

// Event takes one whole event of the pod and gives what the client gets for it:
// the same bytes where nothing has to be changed, perhaps nothing. An error that
// the pod tells in-band is a *PodError; out is then the pod's event, for the
// client unless the stream goes on elsewhere.
func (s *Session) Event(event []byte) (out []byte, err error) { return event, nil }

// Complete tells that the client has all of the answer: what else the pod says is
// not for it. The caller sends what Finish gives, and may leave the pod.
func (s *Session) Complete() bool { return false }

// Finish gives what the client has to get at the end of a stream that is
// complete, or whose pod ended its answer cleanly. Its error is ErrCut where the
// answer should have had more; nothing was changed then, and Continue may follow.
func (s *Session) Finish() ([]byte, error) { return nil, nil }

// Continue makes the body for the next pod, which must serve the same
// fingerprint. Its error is ErrComplete, ErrSpent, or a *RefusalError.
func (s *Session) Continue(now time.Time) ([]byte, error) { return nil, nil }

// Terminal is the event that ends a stream which can't go on, with a cause for
// people. It never passes for the end of a complete answer.
func (s *Session) Terminal(cause string) []byte { return nil }

// Counts are what was done so far.
func (s *Session) Counts() Counts { return Counts{} }

// Reason is why a stream can't be resumed, fit for a metric's label.
type Reason string

// RefusalError is a stream that can't be resumed.
type RefusalError struct {
	Reason Reason
	Detail string
}

// Error names the reason.
func (e *RefusalError) Error() string { return "not resumable: " + string(e.Reason) }

// PodError is an error that a pod told in its stream.
type PodError struct {
	Text      string
	Retryable bool // another pod may well do it
}

// Error is the pod's text.
func (e *PodError) Error() string { return e.Text }

// Gathering is a unary generate that is sent to the pod as generate_stream, so
// that a client which leaves is noticed there, and folded into the one answer that
// generate would have given. It is resumed like a stream.
type Gathering struct{ *Session }

// Gather opens a body of generate. It is nil, with the reason, where the answer
// could not be told from its events; the request is then sent on as it is. The
// pod is to be asked by generate_stream with Body.
func Gather(p Profile, l Limits, body []byte) (*Gathering, Reason) { return nil, "" }

// Event takes one whole event. Its error is a *PodError or ErrTooLong.
func (g *Gathering) Event(event []byte) error { return nil }

// Answer is the status and the JSON body for the client, after Complete or a
// Finish without error.
func (g *Gathering) Answer() (status int, body []byte) { return 200, nil }

// Failed is the status and the JSON body for an error of a pod, or of the
// gateway where err is none.
func (g *Gathering) Failed(err error) (status int, body []byte) { return 500, nil }
