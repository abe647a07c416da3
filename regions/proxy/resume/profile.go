package resume

import "fmt"

// Profile is how the pods of a model talk. The zero Profile is of a model of
// which nothing is known: its streams pass, and are not resumed.
type Profile struct {
	// Name is one of Names.
	Name string
	// Cumulative tells that each event has the whole text so far rather than what
	// is new, as tensorrt_llm_bls does with accumulate_tokens.
	Cumulative bool
	// Uncounted tells that pods must not be asked for counters: those of a vLLM
	// backend before 24.12 take the question for a sampling parameter.
	Uncounted bool

	dialect *dialect
}

// Names are the profiles that exist: vllm and trtllm for generate_stream of the
// vLLM backend and of the ensemble of TensorRT-LLM, openai for /v1/completions.
func Names() []string { return []string{"vllm", "trtllm", "openai"} }

// NewProfile is the profile of a name. Its error says which names there are.
func NewProfile(name string) (Profile, error) {
	d, ok := dialects[name]
	if !ok {
		return Profile{}, fmt.Errorf("unknown resume profile %q, want one of %v", name, Names())
	}
	return Profile{Name: name, dialect: d}, nil
}
