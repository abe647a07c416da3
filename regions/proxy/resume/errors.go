package resume

import (
	"net/http"
	"strings"
)

// RefusalError is a stream that can't be resumed.
type RefusalError struct {
	Reason Reason
	// Detail is the name of a parameter, or empty. It is the client's word.
	Detail string
}

// Error names the reason.
func (e *RefusalError) Error() string {
	if e.Detail == "" {
		return "not resumable: " + string(e.Reason)
	}
	return "not resumable: " + string(e.Reason) + " (" + e.Detail + ")"
}

// PodError is an error that a pod told in its stream.
type PodError struct {
	Text string
	// Retryable tells that it is of the pod rather than of the request: another
	// pod may well do it.
	Retryable bool
}

// Error is the pod's text.
func (e *PodError) Error() string { return e.Text }

// Status is what generate answers such an error with as its first response.
// An event does not tell Triton's error code; all that is the request's own fault
// is met before a stream begins.
func (e *PodError) Status() int {
	if e.Retryable {
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// passing are parts of texts that pods have for what is of the pod: of Triton's
// core while it stops or unloads a model and when a queue is full or too slow, and
// of backends whose engine or process has died.
var passing = []string{
	"shutting down",
	"Server exiting",
	"Server not ready",
	"is not at ready state",
	"has no available versions",
	"Exceeds maximum queue size",
	"Request timeout expired",
	"unavailable",
	"Stub process",
	"EngineCore encountered an issue",
	"EngineDeadError",
	"Background loop",
}

// podError is the error that an event tells, nil if none: a text in Triton's
// events, an object with a message in OpenAI's.
func podError(o object) *PodError {
	raw := o.value("error")
	if raw == nil || string(raw) == "null" {
		return nil
	}
	text, ok := asString(raw)
	if !ok {
		text = string(raw)
		if inner, err := parseObject(raw); err == nil {
			if message, ok := asString(inner.value("message")); ok {
				text = message
			}
		}
	}
	e := &PodError{Text: text}
	for _, part := range passing {
		e.Retryable = e.Retryable || strings.Contains(text, part)
	}
	return e
}
