package tritontest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"strings"
)

// errInBand ends a stream with an error event, by the FailInBand switch.
var errInBand = errors.New("in-band failure")

// What the simulated failures say, in the backend's form.
const simulatedFailure = "Error generating stream: simulated failure"

// serveGenerate serves generate and generate_stream. What fails before the
// inference is a plain JSON error; from there on the first response decides the
// status and everything is in a chunked body.
func (p *process) serveGenerate(w http.ResponseWriter, r *http.Request, name, version string, streaming bool) {
	if !allowed(w, r, jsonType, http.MethodPost) {
		return
	}
	eng, err := p.repo.lookup(name, version)
	if err == nil {
		err = p.serving()
	}
	if encoding := r.Header.Get("Content-Encoding"); err == nil && encoding != "" && encoding != "identity" {
		err = invalid("Unsupported content-encoding, only 'identity' is supported.")
	}
	if err != nil {
		replyError(w, jsonType, err)
		return
	}
	body, readErr := readBody(r)
	if readErr != nil {
		panic(http.ErrAbortHandler) // the client broke off
	}
	q, err := decodeGenerate(body, eng.model)
	if err != nil {
		replyError(w, jsonType, err)
		return
	}
	ctx := lifeOf(r.Context()) // a client that leaves a paused connection is not noticed
	if streaming {
		ctx = r.Context()
	}
	out := &responder{
		w: w, control: http.NewResponseController(w), streaming: streaming,
		orca: func() string { return p.orca(r.Header.Get("Endpoint-Load-Metrics-Format")) },
	}
	p.run(ctx, connOf(r.Context()), eng, q, out)
}

// run answers one decoded request and leaves the connection to net/http only if
// the answer is whole.
func (p *process) run(ctx context.Context, c *conn, eng *engine, q genRequest, out answer) {
	j := p.pod.ledger.begin(c, eng.model.Name, q.id, out.events())
	end := p.generate(ctx, eng, j, q, out)
	if end == running {
		panic(http.ErrAbortHandler)
	}
	c.ended(j, end)
}

// answer is how the responses of a request reach its client.
type answer interface {
	// send sends one response.
	send(m Model, q genRequest, s step) error
	// finish ends the answer: with the error if it is not nil.
	finish(err *apiError) End
	// events tells whether the answer is an event stream.
	events() bool
}

func (p *process) generate(ctx context.Context, eng *engine, j *job, q genRequest, out answer) End {
	refused := refuse(eng.model, q)
	if refused == nil && p.pod.faults.fails() {
		refused = internal(simulatedFailure)
	}
	if refused != nil {
		eng.fail(failBackend)
		return out.finish(refused)
	}
	n := 0
	err := eng.generate(ctx, j, q, func(s step) error {
		n++
		if err := out.send(eng.model, q, s); err != nil {
			return err
		}
		if out.events() && p.pod.faults.failsInBand(n) {
			return errInBand
		}
		return nil
	})
	switch {
	case err == nil:
		return out.finish(nil)
	case errors.Is(err, errInBand):
		return out.finish(internal(simulatedFailure))
	case errors.Is(err, errQueueFull):
		full := unavailable("%sExceeds maximum queue size", q.logID())
		full.early = true
		out.finish(full)
		return Rejected
	case errors.Is(err, errQueueTimeout):
		out.finish(unavailable("Request timeout expired"))
		return Rejected
	}
	return running // cut, or the client has left
}

// refuse is what the backend finds wrong with a request before it queues it.
func refuse(m Model, q genRequest) *apiError {
	switch {
	case m.Flavour == VLLM && q.stream && q.prepend:
		return internal("Error generating stream: When streaming, `exclude_input_in_output` = False is not allowed.")
	case q.maxTokens < 1:
		return internal("Error generating stream: max_tokens must be at least 1, got %d.", q.maxTokens)
	case q.promptTokens >= m.MaxTokens:
		return internal("Error generating stream: The decoder prompt (length %d) is longer than the maximum model length of %d. "+
			"Make sure that `max_model_len` is no smaller than the number of text tokens.", q.promptTokens, m.MaxTokens)
	}
	return nil
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

func (o *responder) events() bool { return o.streaming }

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

// send writes one response as one chunk; generate holds it back until the end.
func (o *responder) send(m Model, q genRequest, s step) error {
	if o.responses++; o.responses == 1 {
		o.start(http.StatusOK)
	}
	if o.streaming {
		return o.chunk(response(m, q, s))
	}
	if o.held = response(m, q, s); q.stream {
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

// finish ends the body. Writes that fail are seen by the connection.
func (o *responder) finish(err *apiError) End {
	switch {
	case err != nil && err.early:
		replyError(o.w, jsonType, err)
		return Failed
	case err != nil:
		if o.responses == 0 {
			o.start(err.status)
		}
		_ = o.chunk([]byte(errorJSON(err.text)))
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
func response(m Model, q genRequest, s step) []byte {
	text := s.text
	if q.prepend && !q.stream {
		text = q.prompt + text
	}
	quoted := func(v string) string { return string(appendJSON(nil, v)) }
	out := map[string]string{
		"model_name":    quoted(m.Name),
		"model_version": quoted(strconv.Itoa(m.Version)),
		"text_output":   quoted(text),
	}
	if q.id != "" {
		out["id"] = quoted(q.id)
	}
	if m.Flavour == TRTLLM {
		out["cum_log_probs"], out["output_log_probs"] = "0.0", "0.0"
		if s.tokens > 1 {
			out["output_log_probs"] = "[0.0" + strings.Repeat(",0.0", s.tokens-1) + "]"
		}
		out["sequence_end"], out["sequence_id"], out["sequence_start"] = "false", "0", "false"
	}
	if q.finishReason {
		out["finish_reason"] = quoted(s.finish)
	}
	if q.numInput {
		out["num_input_tokens"] = strconv.Itoa(q.promptTokens)
	}
	if q.numOutput {
		out["num_output_tokens"] = strconv.Itoa(s.tokens)
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

// serveInfer serves coupled models; decoupled ones are refused, as is the
// binary tensor extension.
func (p *process) serveInfer(w http.ResponseWriter, r *http.Request, name, version string) {
	if !allowed(w, r, plainType, http.MethodPost) {
		return
	}
	eng, err := p.repo.lookup(name, version)
	if err == nil && !eng.model.Coupled {
		err = unsupported("HTTP end point doesn't support models with decoupled transaction policy")
	}
	if err == nil && r.Header.Get("Inference-Header-Content-Length") != "" {
		err = unsupported("binary tensors are not simulated; send the inputs as JSON")
	}
	if err != nil {
		replyError(w, plainType, err)
		return
	}
	body, readErr := readBody(r)
	if readErr != nil {
		panic(http.ErrAbortHandler)
	}
	q, err := decodeInfer(body, eng.model)
	if err != nil {
		replyError(w, jsonType, err)
		return
	}
	p.run(lifeOf(r.Context()), connOf(r.Context()), eng, q, &inferAnswer{w: w})
}

// inferAnswer is the one response of infer.
type inferAnswer struct {
	w    http.ResponseWriter
	body string
}

func (a *inferAnswer) events() bool { return false }

func (a *inferAnswer) send(m Model, q genRequest, s step) error {
	b := []byte{'{'}
	if q.id != "" {
		b = append(appendJSON(append(b, `"id":`...), q.id), ',')
	}
	text := s.text
	if q.prepend {
		text = q.prompt + text
	}
	b = appendJSON(append(b, `"model_name":`...), m.Name)
	b = fmt.Appendf(b, `,"model_version":"%d","outputs":[{"name":"text_output","datatype":"BYTES","shape":[1],"data":[`, m.Version)
	a.body = string(appendJSON(b, text)) + "]}]}"
	return nil
}

func (a *inferAnswer) finish(err *apiError) End {
	if err != nil {
		replyError(a.w, jsonType, err)
		return Failed
	}
	reply(a.w, http.StatusOK, jsonType, a.body)
	return Completed
}
