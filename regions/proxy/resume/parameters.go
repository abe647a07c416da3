package resume

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Parameter is a row of the table of what requests may have.
type Parameter struct {
	Name string
	// Profiles know the parameter.
	Profiles []string
	// Reason is why a request that has it is not resumed; empty if it is.
	Reason Reason
	// Unless are values that change nothing, in JSON; numbers also in any other
	// way of writing them, and as strings.
	Unless []string
	// Foldable tells that the events still make up the answer of generate.
	foldable bool
}

// Parameters is the table: everything else in a request refuses it as unknown.
func Parameters() []Parameter { return slices.Clone(parameters) }

var (
	all       = []string{vllm, trtllm, openai}
	generates = []string{vllm, trtllm}
	engines   = []string{vllm, openai}
)

var parameters = []Parameter{
	// What acts on each token alone, or on none.
	{Name: "id", Profiles: generates},
	{Name: "model", Profiles: []string{openai}},
	{Name: "user", Profiles: []string{openai}},
	{Name: "priority", Profiles: generates},
	{Name: "timeout", Profiles: generates},
	{Name: "triton_enable_empty_final_response", Profiles: generates},
	{Name: "temperature", Profiles: all},
	{Name: "top_p", Profiles: all},
	{Name: "top_k", Profiles: all},
	{Name: "min_p", Profiles: engines},
	{Name: "ignore_eos", Profiles: engines},
	{Name: "lora_name", Profiles: []string{vllm}},
	{Name: "end_id", Profiles: []string{trtllm}},
	{Name: "pad_id", Profiles: []string{trtllm}},
	{Name: "return_finish_reason", Profiles: []string{vllm}},
	{Name: "return_num_input_tokens", Profiles: []string{vllm}},
	{Name: "return_num_output_tokens", Profiles: []string{vllm}},

	{Name: "stream", Profiles: all, Reason: ReasonUnary, Unless: []string{"true"}},
	{Name: "echo", Profiles: []string{openai}, Reason: ReasonEcho, Unless: []string{"false"}},
	{Name: "exclude_input_in_output", Profiles: generates, Reason: ReasonEcho, Unless: []string{"true"}},
	{Name: "include_stop_str_in_output", Profiles: engines, Reason: ReasonStops, Unless: []string{"false"}, foldable: true},

	{Name: "n", Profiles: engines, Reason: ReasonChoices, Unless: []string{"1"}},
	{Name: "best_of", Profiles: engines, Reason: ReasonChoices, Unless: []string{"1"}},
	{Name: "num_return_sequences", Profiles: []string{trtllm}, Reason: ReasonChoices, Unless: []string{"1"}},
	{Name: "use_beam_search", Profiles: engines, Reason: ReasonBeams, Unless: []string{"false"}},
	{Name: "beam_width", Profiles: []string{trtllm}, Reason: ReasonBeams, Unless: []string{"1"}},
	{Name: "length_penalty", Profiles: all, Reason: ReasonBeams, Unless: []string{"1"}},
	{Name: "early_stopping", Profiles: engines, Reason: ReasonBeams, Unless: []string{"false"}},

	{Name: "logprobs", Profiles: engines, Reason: ReasonScores},
	{Name: "prompt_logprobs", Profiles: engines, Reason: ReasonScores},
	{Name: "return_logprobs", Profiles: []string{vllm}, Reason: ReasonScores, Unless: []string{"false"}},
	{Name: "return_cumulative_logprob", Profiles: []string{vllm}, Reason: ReasonScores, Unless: []string{"false"}},
	{Name: "return_log_probs", Profiles: []string{trtllm}, Reason: ReasonScores, Unless: []string{"false"}},
	{Name: "return_context_logits", Profiles: []string{trtllm}, Reason: ReasonScores, Unless: []string{"false"}},
	{Name: "return_generation_logits", Profiles: []string{trtllm}, Reason: ReasonScores, Unless: []string{"false"}},
	{Name: "return_perf_metrics", Profiles: []string{trtllm}, Reason: ReasonScores, Unless: []string{"false"}},

	{Name: "presence_penalty", Profiles: all, Reason: ReasonPenalties, Unless: []string{"0"}, foldable: true},
	{Name: "frequency_penalty", Profiles: all, Reason: ReasonPenalties, Unless: []string{"0"}, foldable: true},
	{Name: "repetition_penalty", Profiles: all, Reason: ReasonPenalties, Unless: []string{"1"}, foldable: true},
	{Name: "seed", Profiles: all, Reason: ReasonSeed, foldable: true},
	{Name: "random_seed", Profiles: []string{trtllm}, Reason: ReasonSeed, foldable: true},
	{Name: "min_tokens", Profiles: all, Reason: ReasonMinimum, Unless: []string{"0"}, foldable: true},
	{Name: "min_length", Profiles: []string{trtllm}, Reason: ReasonMinimum, Unless: []string{"0"}, foldable: true},

	{Name: "guided_decoding", Profiles: engines, Reason: ReasonStructured, foldable: true},
	{Name: "structured_outputs", Profiles: engines, Reason: ReasonStructured, foldable: true},
	{Name: "response_format", Profiles: engines, Reason: ReasonStructured, foldable: true},
	{Name: "guided_json", Profiles: engines, Reason: ReasonStructured, foldable: true},
	{Name: "guided_regex", Profiles: engines, Reason: ReasonStructured, foldable: true},
	{Name: "guided_choice", Profiles: engines, Reason: ReasonStructured, foldable: true},
	{Name: "guided_grammar", Profiles: engines, Reason: ReasonStructured, foldable: true},
	{Name: "guided_decoding_guide_type", Profiles: []string{trtllm}, Reason: ReasonStructured, foldable: true},
	{Name: "guided_decoding_guide", Profiles: []string{trtllm}, Reason: ReasonStructured, foldable: true},
	{Name: "logits_processors", Profiles: engines, Reason: ReasonStructured, foldable: true},

	{Name: "logit_bias", Profiles: engines, Reason: ReasonBias, foldable: true},
	{Name: "bad_words", Profiles: all, Reason: ReasonBias, foldable: true},
	{Name: "embedding_bias_words", Profiles: []string{trtllm}, Reason: ReasonBias, foldable: true},
	{Name: "embedding_bias_weights", Profiles: []string{trtllm}, Reason: ReasonBias, foldable: true},

	{Name: "tools", Profiles: engines, Reason: ReasonTools},
	{Name: "tool_choice", Profiles: engines, Reason: ReasonTools},
	{Name: "messages", Profiles: []string{openai}, Reason: ReasonPrompt},
	{Name: "suffix", Profiles: []string{openai}, Reason: ReasonInsertion},
	{Name: "image", Profiles: []string{vllm}, Reason: ReasonMedia, foldable: true},
	{Name: "multi_modal_data", Profiles: []string{vllm}, Reason: ReasonMedia, foldable: true},
	{Name: "image_input", Profiles: []string{trtllm}, Reason: ReasonMedia},
	{Name: "image_bytes_input", Profiles: []string{trtllm}, Reason: ReasonMedia},
	{Name: "image_url_input", Profiles: []string{trtllm}, Reason: ReasonMedia},
	{Name: "video_bytes_input", Profiles: []string{trtllm}, Reason: ReasonMedia},
	{Name: "decoder_text_input", Profiles: []string{trtllm}, Reason: ReasonMedia},
	{Name: "prompt_embedding_table", Profiles: []string{trtllm}, Reason: ReasonMedia},

	{Name: "sequence_id", Profiles: generates, Reason: ReasonSequence},
	{Name: "sequence_start", Profiles: generates, Reason: ReasonSequence},
	{Name: "sequence_end", Profiles: generates, Reason: ReasonSequence},

	{Name: "truncate_prompt_tokens", Profiles: engines, Reason: ReasonTokens, foldable: true},
	{Name: "skip_special_tokens", Profiles: engines, Reason: ReasonTokens, Unless: []string{"true"}, foldable: true},
	{Name: "spaces_between_special_tokens", Profiles: engines, Reason: ReasonTokens, Unless: []string{"true"}, foldable: true},
	{Name: "detokenize", Profiles: engines, Reason: ReasonTokens, Unless: []string{"true"}},
	{Name: "add_special_tokens", Profiles: []string{openai}, Reason: ReasonTokens, Unless: []string{"true"}},
}

// parameter finds a row.
func parameter(profile, name string) (Parameter, bool) {
	for _, p := range parameters {
		if p.Name == name && slices.Contains(p.Profiles, profile) {
			return p, true
		}
	}
	return Parameter{}, false
}

// without tells whether the value is as good as none. Numbers may be strings, which
// the vLLM backend makes numbers of; its own examples send them so.
func (p Parameter) without(raw []byte) bool {
	if string(raw) == "null" {
		return true
	}
	number, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	for _, v := range p.Unless {
		if v == string(raw) {
			return true
		}
		if want, bad := strconv.ParseFloat(v, 64); err == nil && bad == nil && want == number {
			return true
		}
	}
	return false
}

// Table is the table for people, in Markdown: what is resumed, and what refuses
// with which reason.
func Table() string {
	var b strings.Builder
	b.WriteString("| parameter | profiles | resumed | reason |\n|---|---|---|---|\n")
	for _, p := range parameters {
		resumed := "yes"
		switch {
		case len(p.Unless) > 0:
			resumed = "only `" + strings.Join(p.Unless, "`, `") + "`"
		case p.Reason != "":
			resumed = "no"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", p.Name, strings.Join(p.Profiles, ", "), resumed, p.Reason)
	}
	b.WriteString("\n| reason | why |\n|---|---|\n")
	for _, r := range Reasons() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r, r.Explain())
	}
	return b.String()
}
