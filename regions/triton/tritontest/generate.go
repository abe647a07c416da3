package tritontest

import (
	"context"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"strings"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/socket"
)

// serveGenerate serves generate and generate_stream. What fails before the
// inference is a plain JSON error; from there on the first response decides the
// status and everything is in a chunked body.
func (p *process) serveGenerate(w http.ResponseWriter, r *http.Request, name, version string, streaming bool) {
	if !allowed(w, r, jsonType, http.MethodPost) {
		return
	}
	eng, err := p.core.Lookup(name, version)
	if err == nil {
		err = p.core.Serving()
	}
	if encoding := r.Header.Get("Content-Encoding"); err == nil && encoding != "" && encoding != "identity" {
		err = core.Invalid("Unsupported content-encoding, only 'identity' is supported.")
	}
	if err != nil {
		replyError(w, jsonType, err)
		return
	}
	body, readErr := readBody(r)
	if readErr != nil {
		panic(http.ErrAbortHandler) // the client broke off
	}
	q, err := decodeGenerate(body, eng.Model())
	if err != nil {
		replyError(w, jsonType, err)
		return
	}
	out := &responder{
		w: w, control: http.NewResponseController(w), streaming: streaming,
		orca: func() string { return p.orca(r.Header.Get("Endpoint-Load-Metrics-Format")) },
	}
	p.run(r.Context(), socket.Of(r.Context()), eng, q, out)
}

// run answers one decoded request and leaves the connection to net/http only if
// the answer is whole.
func (p *process) run(ctx context.Context, c *socket.Conn, eng *core.Engine, q core.Request, out core.Answer) {
	j := p.core.Begin(core.HTTP, eng.Model(), q, out.Events())
	c.Carry(j)
	end := p.core.Generate(ctx, eng, j, q, out)
	if end == core.Running {
		panic(http.ErrAbortHandler)
	}
	j.Ended(end)
}

// responder writes the responses of generate or generate_stream.
type responder struct {
	w         http.ResponseWriter
	control   *http.ResponseController
	streaming bool
	orca      func() string
	responses int
	held      []byte // generate's response, which must be the only one
}

func (o *responder) Events() bool { return o.streaming }

// start sets the status by the first response.
func (o *responder) start(status int) {
	h := o.w.Header()
	if load := o.orca(); load != "" {
		h["endpoint-load-metrics"] = []string{load} // lower case, as Triton writes it
	}
	h.Set("Content-Type", jsonType)
	if o.streaming {
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
	}
	o.w.WriteHeader(status)
}

// Send writes one response as one chunk; generate holds it back until the end.
func (o *responder) Send(m Model, q core.Request, s core.Step) error {
	if o.responses++; o.responses == 1 {
		o.start(http.StatusOK)
	}
	if o.streaming {
		return o.chunk(response(m, q, s))
	}
	if o.held = response(m, q, s); q.Stream {
		return o.control.Flush()
	}
	return nil
}

// chunk writes one chunk and hands it to the kernel at once.
func (o *responder) chunk(body []byte) error {
	if o.streaming {
		body = append(append([]byte("data: "), body...), "\n\n"...)
	}
	if _, err := o.w.Write(body); err != nil {
		return fmt.Errorf("write response: %w", err)
	}
	if err := o.control.Flush(); err != nil {
		return fmt.Errorf("flush response: %w", err)
	}
	return nil
}

// Finish ends the body. Writes that fail are seen by the connection.
func (o *responder) Finish(err *core.Error) End {
	switch {
	case err != nil && err.Early:
		replyError(o.w, jsonType, err)
		return Failed
	case err != nil:
		if o.responses == 0 {
			// Whatever its code: Triton reads it after it has freed the error.
			o.start(http.StatusBadRequest)
		}
		_ = o.chunk([]byte(errorJSON(err.Text)))
		return Failed
	case o.streaming:
		return Completed
	case o.responses != 1:
		_ = o.chunk([]byte(errorJSON("generate expects model to produce exactly 1 response, " +
			"use generate stream for model that generates various number of responses")))
		return Failed
	}
	_ = o.chunk(o.held)
	return Completed
}

// response is one response as JSON: keys in alphabetical order, arrays of one
// element without their brackets.
func response(m Model, q core.Request, s core.Step) []byte {
	quoted := func(v string) string { return string(appendJSON(nil, v)) }
	out := map[string]string{
		"model_name":    quoted(m.Name),
		"model_version": quoted(strconv.Itoa(m.Version)),
		"text_output":   quoted(q.Text(s)),
	}
	if q.ID != "" {
		out["id"] = quoted(q.ID)
	}
	if m.Flavour == core.TRTLLM {
		out["cum_log_probs"], out["output_log_probs"] = "0.0", "0.0"
		if s.Tokens > 1 {
			out["output_log_probs"] = "[0.0" + strings.Repeat(",0.0", s.Tokens-1) + "]"
		}
		out["sequence_end"], out["sequence_id"], out["sequence_start"] = "false", "0", "false"
	}
	if q.FinishReason {
		out["finish_reason"] = quoted(s.Finish)
	}
	if q.NumInput {
		out["num_input_tokens"] = strconv.Itoa(q.PromptTokens)
	}
	if q.NumOutput {
		out["num_output_tokens"] = strconv.Itoa(s.Tokens)
	}
	keys := make([]string, 0, len(out))
	for k := range out {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	b := []byte{'{'}
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(appendJSON(b, k), ':'), out[k]...)
	}
	return append(b, '}')
}
