package core

import (
	"errors"
	"strings"
	"time"
)

// Flavour is the backend that a model runs on; it decides the model's inputs,
// its outputs and its metrics.
type Flavour int

const (
	// VLLM is Triton's vLLM backend: decoupled, waits inside the engine (the
	// pending gauge stays 0), no gauges of its own.
	VLLM Flavour = iota
	// TRTLLM is a TensorRT-LLM ensemble: max_tokens is a required input, and
	// nv_trt_llm_* gauges tell waiting and active requests and KV cache blocks.
	TRTLLM
)

// Model describes one model of a pod and how fast it is.
type Model struct {
	// Name as in the URL: no slash.
	Name string
	// Version is the only version of the model, at least 1.
	Version int
	// Flavour is the backend.
	Flavour Flavour
	// Checkpoint names the weights. It stands in the model's configuration, and
	// models with different ones say different things. Empty is the usual one.
	Checkpoint string
	// Coupled models answer each request once and serve infer; the others are
	// decoupled, as vLLM always is.
	Coupled bool
	// Cumulative models (TRTLLM only) repeat in each response of a stream the
	// whole text so far, as with accumulate_tokens; the others send what is new.
	Cumulative bool
	// CustomMetrics is REPORT_CUSTOM_METRICS of the vLLM backend: vllm:* metrics.
	CustomMetrics bool
	// Slots is how many sequences run at once (the largest batch).
	Slots int
	// PrefillPerToken is the time to read one token of the prompt. A token is
	// a word between white space, and each further 8 bytes of a longer one.
	PrefillPerToken time.Duration
	// InterToken is the time between two tokens of a sequence that runs alone.
	InterToken time.Duration
	// BatchPenalty is by how much (permille) a token takes longer when all
	// slots are busy than alone; it grows linearly with the batch.
	BatchPenalty int
	// QueueLimit is max_queue_size of Triton's own scheduler: more waiting
	// requests are refused. 0 is no limit. With a limit or a timeout (or
	// Coupled) requests wait in that queue and count as pending; else they
	// wait inside of the backend, where Triton's metrics don't see them.
	QueueLimit int
	// QueueTimeout is default_timeout_microseconds of that queue. 0 is none.
	QueueTimeout time.Duration
	// LoadDelay passes before the model is READY, after Start and after a load.
	LoadDelay time.Duration
	// Unloaded keeps the model in the repository, not loaded at Start.
	Unloaded bool
	// MaxTokens is the context length: prompt and output together.
	MaxTokens int
	// StopEvery ends a text by itself (finish reason "stop") at one in so many
	// tokens on average; 0 is never. Like the tokens, it depends on the text only.
	StopEvery int
	// KVBlocks is the size of the KV cache in blocks of 64 tokens (TRTLLM).
	KVBlocks int
}

// DefaultModel returns a small vLLM model: 8 slots, 0.2 ms of prefill and 20 ms
// of decoding per token, twice that in a full batch (decoding is bound by
// memory, so a batch costs far less than its size).
func DefaultModel(name string) Model {
	return Model{
		Name:            name,
		Version:         1,
		Slots:           8,
		PrefillPerToken: 200 * time.Microsecond,
		InterToken:      20 * time.Millisecond,
		BatchPenalty:    1000,
		MaxTokens:       32768, // the context of the models in common use
		KVBlocks:        4096,  // 8 slots × 32768 tokens / 64
	}
}

// Validate names the first thing that can't be simulated.
func (m Model) Validate() error {
	switch {
	case m.Name == "" || strings.Contains(m.Name, "/"):
		return errors.New("name must not be empty or contain a slash")
	case m.Version < 1:
		return errors.New("version must be at least 1; start from DefaultModel")
	case m.Slots < 1:
		return errors.New("slots must be at least 1; start from DefaultModel")
	case m.MaxTokens < 1:
		return errors.New("max tokens must be at least 1; start from DefaultModel")
	case m.Flavour == VLLM && m.Coupled:
		return errors.New("the vLLM backend is always decoupled; use TRTLLM for a coupled model")
	case m.Flavour == VLLM && m.Cumulative:
		return errors.New("the vLLM backend streams what is new; use TRTLLM for cumulative text")
	case m.Flavour == TRTLLM && m.CustomMetrics:
		return errors.New("custom metrics are the vLLM backend's; TensorRT-LLM has gauges of its own")
	case m.Flavour == TRTLLM && m.KVBlocks < 1:
		return errors.New("KV blocks must be at least 1; start from DefaultModel")
	case min(m.PrefillPerToken, m.InterToken, m.QueueTimeout, m.LoadDelay) < 0,
		min(m.BatchPenalty, m.QueueLimit, m.StopEvery) < 0:
		return errors.New("times, penalty, queue limit and stop must not be negative")
	}
	return nil
}

// Queues tells whether requests wait in Triton's own queue, where they are
// pending, rather than unseen inside of a decoupled backend.
func (m Model) Queues() bool {
	return m.Coupled || m.QueueLimit > 0 || m.QueueTimeout > 0
}

// Platform is the backend's name in metadata and configuration.
func (m Model) Platform() string {
	if m.Flavour == TRTLLM {
		return "ensemble"
	}
	return "vllm"
}

// Tensor is an input or output of a model, by the names of the wire.
type Tensor struct {
	Name, Datatype string
	Shape          int // of its one dimension; -1 is variable
	Optional       bool
}

// Inputs lists the inputs of the model.
func (m Model) Inputs() []Tensor {
	if m.Flavour == TRTLLM {
		return trtllmInputs
	}
	return vllmInputs
}

// Outputs lists the outputs of the model.
func (m Model) Outputs() []Tensor {
	if m.Flavour == TRTLLM {
		return trtllmOutputs
	}
	return vllmOutputs
}

// Input finds an input.
func (m Model) Input(name string) (Tensor, bool) {
	for _, t := range m.Inputs() {
		if t.Name == name {
			return t, true
		}
	}
	return Tensor{}, false
}

var (
	vllmInputs = []Tensor{
		{"text_input", "BYTES", 1, false}, {"image", "BYTES", -1, true}, {"stream", "BOOL", 1, true},
		{"sampling_parameters", "BYTES", 1, true}, {"exclude_input_in_output", "BOOL", 1, true},
		{"return_finish_reason", "BOOL", 1, true}, {"return_cumulative_logprob", "BOOL", 1, true},
		{"return_logprobs", "BOOL", 1, true}, {"return_num_input_tokens", "BOOL", 1, true},
		{"return_num_output_tokens", "BOOL", 1, true}, {"embedding_request", "BYTES", 1, true},
	}
	vllmOutputs = []Tensor{
		{"text_output", "BYTES", -1, false}, {"finish_reason", "BYTES", -1, false},
		{"cumulative_logprob", "FP32", -1, false}, {"logprobs", "BYTES", -1, false},
		{"num_input_tokens", "UINT32", 1, false}, {"num_output_tokens", "UINT32", -1, false},
	}
	trtllmInputs = []Tensor{
		{"text_input", "BYTES", 1, false}, {"max_tokens", "INT32", 1, false}, {"stream", "BOOL", 1, true},
		{"exclude_input_in_output", "BOOL", 1, true}, {"temperature", "FP32", 1, true}, {"top_p", "FP32", 1, true},
		{"top_k", "INT32", 1, true}, {"bad_words", "BYTES", 1, true}, {"stop_words", "BYTES", 1, true},
	}
	trtllmOutputs = []Tensor{
		{"text_output", "BYTES", -1, false}, {"cum_log_probs", "FP32", -1, false}, {"output_log_probs", "FP32", -1, false},
	}
)
