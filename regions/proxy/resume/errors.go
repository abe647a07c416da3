package resume

import "strings"

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

// Statuses of answers, RFC 9110 section 15.
const (
	statusOK          = 200
	statusInternal    = 500
	statusUnavailable = 503
)

// Status is what generate answers such an error with as its first response.
// An event does not tell Triton's error code; all that is the request's own fault
// is met before a stream begins.
func (e *PodError) Status() int {
	if e.Retryable {
		return statusUnavailable
	}
	return statusInternal
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
		if inner, isObject := parseObject(raw); isObject {
			if message, ok := asString(inner.value("message")); ok {
				text = message
			}
		}
	}
	return NewPodError(text)
}

// NewPodError is the error that a pod tells with a text.
func NewPodError(text string) *PodError {
	e := &PodError{Text: text}
	for _, part := range passing {
		e.Retryable = e.Retryable || strings.Contains(text, part)
	}
	return e
}

// errAborted is the end of a text that says itself that it is none.
var errAborted = &PodError{Text: "the pod gave the request up in the middle of its answer", Retryable: true}

// gaveUp reports that a finish reason is none: vLLM ends the texts of requests so that its
// engine drops, such as when it shuts down.
func gaveUp(finish string) bool { return finish == "abort" || finish == "error" }

// Reason is why a stream can't be resumed, fit for a metric's label.
type Reason string

// The reasons in the request.
const (
	ReasonOff        Reason = "off"
	ReasonBody       Reason = "body"
	ReasonPrompt     Reason = "prompt"
	ReasonUnary      Reason = "unary"
	ReasonUnknown    Reason = "unknown"
	ReasonLimit      Reason = "limit"
	ReasonStops      Reason = "stops"
	ReasonChoices    Reason = "choices"
	ReasonBeams      Reason = "beams"
	ReasonScores     Reason = "scores"
	ReasonPenalties  Reason = "penalties"
	ReasonSeed       Reason = "seed"
	ReasonMinimum    Reason = "minimum"
	ReasonEcho       Reason = "echo"
	ReasonStructured Reason = "structured"
	ReasonBias       Reason = "bias"
	ReasonTools      Reason = "tools"
	ReasonInsertion  Reason = "insertion"
	ReasonMedia      Reason = "media"
	ReasonSequence   Reason = "sequence"
	ReasonTokens     Reason = "tokens"
)

// The reasons that turn up while a stream runs.
const (
	ReasonText      Reason = "text"
	ReasonEvent     Reason = "event"
	ReasonCharacter Reason = "character"
)

// Explain says a reason in a sentence; empty for what is none.
func (r Reason) Explain() string {
	for _, known := range reasons {
		if known.reason == r {
			return known.why
		}
	}
	return ""
}

// Reasons are all reasons.
func Reasons() []Reason {
	var list []Reason
	for _, r := range reasons {
		list = append(list, r.reason)
	}
	return list
}

var reasons = []struct {
	reason Reason
	why    string
}{
	{ReasonOff, "The model has no resume profile, or resuming is switched off."},
	{ReasonBody, "The body is not a JSON object in UTF-8 with each key once and at most 64 of them, or a parameter is a list or an object where a plain value is expected."},
	{ReasonPrompt, "The prompt is missing or not a plain string, so nothing can be put behind it."},
	{ReasonUnary, "The answer was not asked for as a stream (`stream` is not true)."},
	{ReasonUnknown, "A parameter is on neither list: it may do anything."},
	{ReasonLimit, "The number of tokens is not set where the model has no default, or is not a whole number above 0, so what is left of it is not known."},
	{ReasonStops, "The stop strings are empty, more than 64, longer than 1,024 bytes, or not a string or list of strings; or they are kept in the text on request."},
	{ReasonChoices, "Several answers come interleaved, each cut elsewhere."},
	{ReasonBeams, "Beams weigh whole texts against each other; their scores are lost with the pod."},
	{ReasonScores, "The scores of the second pod's tokens are given what the first pod wrote as prompt, and those of the prompt change."},
	{ReasonPenalties, "Penalties count the tokens that were generated; the second pod would count them as prompt, or not at all."},
	{ReasonSeed, "A seed promises the same text again; the second pod would begin the sequence of random numbers anew."},
	{ReasonMinimum, "A minimum length counts generated tokens."},
	{ReasonEcho, "The prompt is part of the answer."},
	{ReasonStructured, "A grammar would start again at its root in the middle of the text."},
	{ReasonBias, "Words that are favoured or forbidden may straddle the seam."},
	{ReasonTools, "Calls of tools are structured text."},
	{ReasonInsertion, "What is put before a suffix can't be put behind the prompt."},
	{ReasonMedia, "There is more in the prompt than text."},
	{ReasonSequence, "The pod holds the state of a sequence of requests."},
	{ReasonTokens, "Prompt or text are changed in their tokens, which the second pod would do to the first one's text as well."},
	{ReasonText, "The text has grown beyond what is kept of it."},
	{ReasonEvent, "The pod sent an event that is not understood."},
	{ReasonCharacter, "The text has a replacement character (U+FFFD): part of a character was cut off, or the pod has written one; what it stands for can't be given to another pod."},
}
