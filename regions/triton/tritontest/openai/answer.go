package openai

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"time"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/socket"
)

// The keys of what is sent are in the order of Triton's schemas.
type (
	usage struct {
		PromptTokens     int `json:"prompt_tokens"`
		TotalTokens      int `json:"total_tokens"`
		CompletionTokens int `json:"completion_tokens"`
	}
	body struct {
		ID                string  `json:"id"`
		Choices           []any   `json:"choices"`
		Created           int64   `json:"created"`
		Model             string  `json:"model"`
		SystemFingerprint *string `json:"system_fingerprint"`
		Object            string  `json:"object"`
		Usage             *usage  `json:"usage"`
	}
	completionChoice struct {
		FinishReason *string `json:"finish_reason"`
		Index        int     `json:"index"`
		Logprobs     *string `json:"logprobs"`
		Text         string  `json:"text"`
	}
	deltaChoice struct {
		Delta        delta   `json:"delta"`
		Logprobs     *string `json:"logprobs"`
		FinishReason *string `json:"finish_reason"`
		Index        int     `json:"index"`
	}
	delta struct {
		Content      string  `json:"content"`
		FunctionCall *string `json:"function_call"`
		Role         *string `json:"role"`
	}
	messageChoice struct {
		FinishReason *string `json:"finish_reason"`
		Index        int     `json:"index"`
		Message      answer  `json:"message"`
		Logprobs     *string `json:"logprobs"`
	}
	answer struct {
		Content      string  `json:"content"`
		ToolCalls    *string `json:"tool_calls"`
		Role         string  `json:"role"`
		FunctionCall *string `json:"function_call"`
	}
)

// finish is the only reason that Triton gives.
var finish, assistant = "stop", "assistant"

func (h *Handler) chat(w http.ResponseWriter, r *http.Request, b []byte) {
	eng, req, q, p := h.decodeChat(b)
	h.run(w, r, eng, req, q, p, true)
}

func (h *Handler) complete(w http.ResponseWriter, r *http.Request, b []byte) {
	eng, req, q, p := h.decodeCompletion(b)
	h.run(w, r, eng, req, q, p, false)
}

// run answers one decoded request, and leaves the connection to net/http only
// if the answer is whole.
func (h *Handler) run(w http.ResponseWriter, r *http.Request, eng *core.Engine, req request, q core.Request, p *problem, chat bool) {
	if p != nil {
		reply(w, p.status, object{"detail": p.detail})
		return
	}
	out := &writer{
		w: w, control: http.NewResponseController(w), chat: chat, streaming: q.Stream,
		include: req.StreamOptions != nil && req.StreamOptions.IncludeUsage,
		body:    body{ID: "cmpl-" + uuid(), Created: time.Now().Unix(), Model: req.Model, Object: "text_completion"},
	}
	ctx := h.whole(r) // its client's leaving is not noticed
	if q.Stream {
		ctx = r.Context()
	}
	if chat {
		out.body.Object = "chat.completion"
		if q.Stream {
			out.body.Object = "chat.completion.chunk"
		}
	}
	j := h.core.Begin(core.OpenAI, eng.Model(), q, q.Stream)
	socket.Of(r.Context()).Carry(j)
	end := core.Running
	if out.begin() == nil {
		end = h.core.Generate(ctx, eng, j, q, out)
	}
	j.Ended(end)
	if end == core.Running || out.broken {
		panic(http.ErrAbortHandler)
	}
}

func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// writer is the answer to a chat or a completion.
type writer struct {
	w         http.ResponseWriter
	control   *http.ResponseController
	body      body
	chat      bool
	streaming bool
	include   bool // a last chunk with the usage
	used      usage
	counted   bool // the backend tells tokens
	ended     bool // a chunk had the finish reason
	broken    bool // the stream ends without an end
}

// Events tells whether it is a stream.
func (o *writer) Events() bool { return o.streaming }

// begin sends what comes before the model has done anything: the head of a
// stream, and of a chat the role.
func (o *writer) begin() error {
	if !o.streaming {
		return nil
	}
	o.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	o.w.WriteHeader(http.StatusOK)
	if o.chat {
		return o.chunk(deltaChoice{Delta: delta{Role: &assistant}}, nil)
	}
	return o.control.Flush()
}

// chunk sends one event; a nil choice is none.
func (o *writer) chunk(choice any, u *usage) error {
	b := o.body
	b.Usage, b.Choices = u, []any{}
	if choice != nil {
		b.Choices = append(b.Choices, choice)
	}
	return o.event(string(compact(b)))
}

func (o *writer) event(data string) error {
	if _, err := fmt.Fprintf(o.w, "data: %s\n\n", data); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	if err := o.control.Flush(); err != nil {
		return fmt.Errorf("flush event: %w", err)
	}
	return nil
}

// Send sends one response of a stream, or the whole answer. That of vLLM says
// itself that it is the last.
func (o *writer) Send(m core.Model, q core.Request, s core.Step) error {
	o.used.PromptTokens = q.PromptTokens
	o.used.CompletionTokens += s.Tokens
	o.used.TotalTokens = o.used.PromptTokens + o.used.CompletionTokens
	o.counted = m.Flavour == core.VLLM
	if o.streaming {
		o.ended = s.Last() && m.Flavour == core.VLLM
		return o.piece(s.Text, o.ended)
	}
	b := o.body
	if o.counted {
		b.Usage = &o.used
	}
	if o.chat {
		b.Choices = []any{messageChoice{FinishReason: &finish, Message: answer{Content: q.Text(s), Role: assistant}}}
	} else {
		b.Choices = []any{completionChoice{FinishReason: &finish, Text: q.Text(s)}}
	}
	reply(o.w, http.StatusOK, b)
	return nil
}

func (o *writer) piece(text string, last bool) error {
	var reason *string
	if last {
		reason = &finish
	}
	if o.chat {
		return o.chunk(deltaChoice{Delta: delta{Content: text}, FinishReason: reason}, nil)
	}
	return o.chunk(completionChoice{FinishReason: reason, Text: text}, nil)
}

// Finish ends the answer. The failure of a stream can't be told any more.
func (o *writer) Finish(err *core.Error) core.End {
	switch {
	case err != nil && o.streaming:
		o.broken = true
		return core.Failed
	case err != nil:
		reply(o.w, http.StatusInternalServerError, detail(err.Text))
		return core.Failed
	case !o.streaming:
		return core.Completed
	}
	var failed error
	if !o.ended {
		failed = o.piece("", true)
	}
	if o.include && o.counted && failed == nil {
		failed = o.chunk(nil, &o.used)
	}
	if failed == nil {
		failed = o.event("[DONE]")
	}
	o.broken = failed != nil
	return core.Completed
}
