// Package resume lets a stream of generated text that its pod has cut go on at
// another pod. It decides and rewrites; it does no I/O.
//
// A [Session] is one client's request. It sees the client's body and each whole
// event of the pod's answer, and remembers the text that the client has. When the
// pod is lost, [Session.Continue] makes the body for another pod: the prompt with
// that text behind it, and what is left of the tokens. The client's stream simply
// goes on.
//
// That is sound only where the rest of an answer depends on nothing but the text
// so far and parameters that act on each token alone. So parameters are on an
// allow-list, and a request with any other is passed on but not resumed:
// [Session.Refusal] says why. The caller sees to it that the other pod serves the
// same fingerprint of the model, and that the tokenizer's view of the seam may
// differ from the first pod's: the continuation is a sound one, not the same one.
//
// The life of a stream, where err is of the pod's connection:
//
//	s := resume.Open(profile, limits, body)
//	send s.Body() to a pod, split its answer into events
//	for each event:
//		out, err := s.Event(event)
//		to the client: out, unless err is a *PodError to be survived
//		s.Stopped(): leave the pod; to the client: what Finish gives; the end
//	clean end of the pod's body: out, err := s.Finish(); to the client: out; err == nil is the end
//	cut, *PodError with Retryable, or Finish's ErrCut: body, err := s.Continue(now)
//		err == nil: send body to another pod
//		ErrComplete: to the client: what Finish gives; the end, clean
//		else: to the client: the pod's own error event if there is one, or s.Terminal(text); the end
package resume

import (
	"errors"
	"time"
)

// Why a stream does not go on.
var (
	// ErrComplete tells that nothing is missing: the last event was seen, or all
	// tokens that were asked for. The stream ends as it would have.
	ErrComplete = errors.New("the stream is complete")
	// ErrCut is a pod's answer that ended cleanly but without its last event.
	ErrCut = errors.New("the pod's answer ended before its last event")
	// ErrSpent tells that the stream was resumed as often as it may be.
	ErrSpent = errors.New("the stream was resumed too often")
)

// EarlyError is a resume that comes too soon after the last; it is an ErrSpent until
// then.
type EarlyError struct{ Until time.Time }

// Error is ErrSpent's.
func (e *EarlyError) Error() string { return ErrSpent.Error() }

// Unwrap makes it an ErrSpent.
func (e *EarlyError) Unwrap() error { return ErrSpent }

// Limits bound a session.
type Limits struct {
	// Text is how many bytes of generated text are kept. A stream with more is
	// passed on, but no longer resumed.
	Text int
	// Resumes is how many resumes a stream has at once; one more is given Pause
	// after the last of them.
	// With no resumes, nothing is resumed.
	Resumes int
	Pause   time.Duration
	// Answer is how many bytes of text a Gathering takes.
	Answer int
}

// DefaultLimits are the limits if nothing is configured.
//
// 256 KiB are some 60,000 tokens, more than models answer at once. Two resumes
// outlive the crash of a pod and of the one that took over. A third that comes at
// once would rather follow a request that kills its pods; 10 s after the second
// a rollout is likelier. An answer in one piece may have more text than can be
// resumed, up to a million tokens.
func DefaultLimits() Limits {
	return Limits{Text: 256 << 10, Resumes: 2, Pause: 10 * time.Second, Answer: 4 << 20}
}

// Counts are what a session has done, for metrics and the trailer.
type Counts struct {
	// Resumes is how many bodies for another pod Continue has made.
	Resumes int
	// Tokens is how many tokens the client has, over all pods. Exact tells that
	// the pods counted them; otherwise each event with text counts as one.
	Tokens int
	Exact  bool
	// InputTokens is the prompt's tokens as the first pod counted them, 0 if it
	// did not say.
	InputTokens int
	// Text is how many bytes of text the client has.
	Text int
}
