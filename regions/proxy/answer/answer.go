// Package answer is what a client gets for its request when one pod answers it, or
// several in turn because they are lost: events, one JSON object that is made of
// events, or the messages of a gRPC stream. It knows how each is put into bytes; how
// text goes on at another pod is [resume]'s.
package answer

import (
	"io"
	"net/http"
	"time"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
)

// maxPart bounds one event or message of an answer in bytes. One has a token's text and
// some counters, or with log probabilities tens of kilobytes; what is longer passes as
// it comes, and is not resumed.
const maxPart = 1 << 20

// Payload is what pods are sent.
type Payload interface {
	// Open begins another pod's turn: what it is sent, from the beginning. moved is
	// called as what is not in memory streams.
	Open(moved func()) io.ReadCloser
	// Length is in bytes, -1 if that is not known.
	Length() int64
	// Whole reports that it can be opened again.
	Whole() bool
}

// Answer follows an answer from pod to pod. It is used by one goroutine, but for its
// Payload's readers.
type Answer interface {
	Payload
	Listener
	Narrator
}

// Listener takes what pods say.
type Listener interface {
	// Hear takes the next bytes of the present pod's answer.
	Hear(p []byte) Heard
	// Over takes the clean end of the present pod's answer, with its trailers.
	Over(trailers http.Header) Heard
}

// Narrator sees to an answer whose pod was lost.
type Narrator interface {
	// Continue makes the payload for the next pod. It gives what the client gets before,
	// and an error if no pod is to go on: resume.ErrComplete if nothing is missing.
	Continue(now time.Time) ([]byte, error)
	// Interrupt ends an answer that can't go on, for a cause that the client is told.
	Interrupt(cause string) []byte
	// Refusal says why the answer could not go on elsewhere, as far as is known now;
	// empty if it could.
	Refusal() resume.Reason
}

// Heard is what comes of a part of a pod's answer. At most one of Cut and End is set.
type Heard struct {
	// Out is for the client. It is valid until the next call.
	Out []byte
	// Some tells that something whole was heard of the answer, or why there is none:
	// not only that the pod lives, or that it is the one that can't give it.
	Some bool
	// Told is how many errors the pod told.
	Told int
	// Sick tells of an error that is the pod's: in the middle of an answer. One before it
	// may be the request's own, whatever its words are, since a client's are among them.
	Sick bool
	// Cut is why the pod's answer is over before its time.
	Cut error
	// End is io.EOF if the answer is complete, or why it can't be given at all.
	End error
}

// Then is what was heard with what followed.
func (h Heard) Then(next Heard) Heard {
	next.Out = append(h.Out, next.Out...)
	next.Some, next.Sick, next.Told = h.Some || next.Some, h.Sick || next.Sick, h.Told+next.Told
	return next
}
