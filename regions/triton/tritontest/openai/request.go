package openai

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// defaultMaxTokens is --default-max-tokens.
const defaultMaxTokens = 16

// request is the body of chat/completions and completions.
type request struct {
	Model         string          `json:"model"`
	Messages      []message       `json:"messages"`
	Prompt        json.RawMessage `json:"prompt"`
	Stream        bool            `json:"stream"`
	StreamOptions *struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Stop                json.RawMessage `json:"stop"`
	N                   *int            `json:"n"`
	BestOf              *int            `json:"best_of"`
	Echo                bool            `json:"echo"`
	Suffix              *string         `json:"suffix"`
	LogitBias           json.RawMessage `json:"logit_bias"`
}

// message is one of a chat; its content is text, or parts of which some are.
type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

func (m message) text() string {
	var whole string
	if json.Unmarshal(m.Content, &whole) == nil {
		return whole
	}
	var parts []struct {
		Text string `json:"text"`
	}
	_ = json.Unmarshal(m.Content, &parts) // what is neither says nothing
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.Text)
	}
	return b.String()
}

// prompt is what a chat is to the model: the simulated chat template.
func prompt(messages []message) string {
	var b strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&b, "<|%s|> %s\n", m.Role, m.text())
	}
	return b.String() + "<|assistant|>"
}

// problem is an answer other than 200.
type problem struct {
	status int
	detail any
}

func bad(format string, args ...any) *problem {
	return &problem{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// unprocessable is how pydantic refuses a body.
func unprocessable(kind, field, text string) *problem {
	return &problem{http.StatusUnprocessableEntity, []object{{"type": kind, "loc": []string{"body", field}, "msg": text}}}
}

func decode(body []byte, into any) *problem {
	if err := json.Unmarshal(body, into); err != nil {
		if json.Valid(body) {
			return unprocessable("model_attributes_type", "", "Input should be of another type: "+err.Error())
		}
		return unprocessable("json_invalid", "0", "JSON decode error")
	}
	return nil
}

// decodeChat reads a chat for one of the models.
func (h *Handler) decodeChat(body []byte) (*core.Engine, request, core.Request, *problem) {
	var r request
	if p := decode(body, &r); p != nil {
		return nil, r, core.Request{}, p
	}
	switch {
	case r.Model == "":
		return nil, r, core.Request{}, unprocessable("missing", "model", "Field required")
	case len(r.Messages) == 0:
		return nil, r, core.Request{}, unprocessable("missing", "messages", "Field required")
	}
	eng, p := h.admit(r)
	if p != nil {
		return nil, r, core.Request{}, p
	}
	if r.MaxCompletionTokens != nil {
		r.MaxTokens = r.MaxCompletionTokens
	}
	return eng, r, r.toCore(prompt(r.Messages)), nil
}

// decodeCompletion reads a prompt for one of the models.
func (h *Handler) decodeCompletion(body []byte) (*core.Engine, request, core.Request, *problem) {
	var r request
	if p := decode(body, &r); p != nil {
		return nil, r, core.Request{}, p
	}
	switch {
	case r.Model == "":
		return nil, r, core.Request{}, unprocessable("missing", "model", "Field required")
	case len(r.Prompt) == 0:
		return nil, r, core.Request{}, unprocessable("missing", "prompt", "Field required")
	}
	eng, p := h.admit(r)
	if p != nil {
		return nil, r, core.Request{}, p
	}
	var text string
	switch {
	case r.Suffix != nil:
		p = bad("suffix is not currently supported")
	case json.Unmarshal(r.Prompt, &text) != nil:
		p = bad("only single string input is supported")
	case text == "":
		p = bad("prompt must be non-empty")
	case r.BestOf != nil && eng.Model().Flavour == core.VLLM:
		p = bad("best_of is no longer supported in vLLM backend, removed from vLLM V1 engine")
	}
	if p != nil {
		return nil, r, core.Request{}, p
	}
	q := r.toCore(text)
	q.Prepend = r.Echo
	return eng, r, q, nil
}

// admit finds the model and refuses what this frontend can't do.
func (h *Handler) admit(r request) (*core.Engine, *problem) {
	eng, err := h.core.Lookup(r.Model, "")
	switch {
	case err != nil:
		return nil, bad("Unknown model: %s", r.Model)
	case r.N != nil && *r.N > 1:
		return nil, bad("Received n=%d, but only single choice (n=1) is currently supported", *r.N)
	case len(r.LogitBias) > 0 && string(r.LogitBias) != "null":
		return nil, bad("logit bias is not currently supported")
	case r.StreamOptions != nil && !r.Stream:
		return nil, bad("`stream_options` can only be used when `stream` is True")
	}
	return eng, nil
}

// toCore is the request in the words of the backends.
func (r request) toCore(prompt string) core.Request {
	q := core.Request{
		Prompt: prompt, PromptTokens: core.CountTokens(prompt), Stream: r.Stream, MaxTokens: defaultMaxTokens, Stop: core.Stops(r.Stop),
	}
	if r.MaxTokens != nil {
		q.MaxTokens = *r.MaxTokens
	}
	return q
}
