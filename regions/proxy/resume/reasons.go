package resume

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
