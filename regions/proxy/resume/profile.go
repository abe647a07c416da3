package resume

import (
	"fmt"
	"strings"
)

// Profile is how the pods of a model talk. The zero Profile is of a model of
// which nothing is known: its streams pass, and are not resumed.
type Profile struct {
	// Name is vllm, trtllm or openai.
	Name string
	// Cumulative tells that each event has the whole text so far rather than what
	// is new, as tensorrt_llm_bls does with accumulate_tokens.
	Cumulative bool
	// Uncounted tells that pods must not be asked for counters: a vLLM backend
	// that does not know the questions takes them for sampling parameters.
	Uncounted bool

	dialect *dialect
}

// profiles are those that exist, by the names that NewProfile takes.
var profiles = []struct {
	name string
	Profile
}{
	{vllm, Profile{Name: vllm, dialect: &dialects[0]}},
	{vllm + "-uncounted", Profile{Name: vllm, Uncounted: true, dialect: &dialects[0]}},
	{trtllm, Profile{Name: trtllm, dialect: &dialects[1]}},
	{trtllm + "-cumulative", Profile{Name: trtllm, Cumulative: true, dialect: &dialects[1]}},
	{openai, Profile{Name: openai, dialect: &dialects[2]}},
}

// Names are the profiles that exist: vllm and trtllm for generate_stream of the
// vLLM backend and of the ensemble of TensorRT-LLM, each with a variant, and openai for
// /v1/completions.
func Names() (names []string) {
	for _, p := range profiles {
		names = append(names, p.name)
	}
	return names
}

// NewProfile is the profile of a name. Its error says which names there are.
func NewProfile(name string) (Profile, error) {
	for _, p := range profiles {
		if p.name == name {
			return p.Profile, nil
		}
	}
	return Profile{}, fmt.Errorf("unknown resume profile %q; use one of %s", name, strings.Join(Names(), ", "))
}

// OpenAI is the profile of what comes to the OpenAI frontend, whatever the model's
// pods are behind it.
func OpenAI() Profile { return Profile{Name: openai, dialect: &dialects[2]} }

const (
	vllm   = "vllm"
	trtllm = "trtllm"
	openai = "openai"
)

// dialect is what the pods of a profile call things. An empty name is of a thing
// that they do not have.
type dialect struct {
	// Of the request.
	prompt   string
	limit    string // most tokens of the answer
	unsaid   int    // tokens if the request sets no limit; 0 if it has to
	stops    string // strings that end the text
	kept     bool   // the text ends behind such a string, not before it
	exclude  string // asks for the answer without the prompt
	nested   string // an object whose keys are as good as those at the top
	sampling string // a string of JSON in which limit and stops are
	asks     bool   // it has the questions for counters
	folds    bool   // the answer of generate can be told from the events
	// Of the events.
	text, finish, tokens, input string
	unfinished                  string // what finish is in an event that is not the last
	// choices tells that text and finish are in the one element of an array.
	choices bool
}

// The questions for counters of the vLLM backend. Each names an event's field with
// "return_" before it.
const question = "return_"

// dialects are those of vllm, trtllm and openai.
//
// 16 tokens are the default of vLLM's SamplingParams and of Triton's OpenAI
// frontend; the ensemble of TensorRT-LLM has none.
var dialects = [...]dialect{
	{
		prompt: "text_input", limit: "max_tokens", unsaid: 16, stops: "stop", exclude: "exclude_input_in_output",
		nested: "parameters", sampling: "sampling_parameters", asks: true, folds: true,
		text: "text_output", finish: "finish_reason", tokens: "num_output_tokens", input: "num_input_tokens", unfinished: "None",
	},
	{
		prompt: "text_input", limit: "max_tokens", stops: "stop_words", kept: true, exclude: "exclude_input_in_output",
		nested: "parameters", text: "text_output",
	},
	{
		prompt: "prompt", limit: "max_tokens", unsaid: 16, stops: "stop",
		text: "text", finish: "finish_reason", choices: true,
	},
}
