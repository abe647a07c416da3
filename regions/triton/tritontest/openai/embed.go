package openai

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
	"strings"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/socket"
)

const (
	// defaultDimensions of an embedding, few enough to read.
	defaultDimensions = 16
	// maxDimensions is beyond what models have.
	maxDimensions = 16384
)

type embedRequest struct {
	Model          string          `json:"model"`
	Input          json.RawMessage `json:"input"`
	Dimensions     int             `json:"dimensions"`
	EncodingFormat string          `json:"encoding_format"`
}

// embed answers with a vector that is a function of model and input.
func (h *Handler) embed(w http.ResponseWriter, r *http.Request, b []byte) {
	req := embedRequest{Dimensions: defaultDimensions, EncodingFormat: "float"}
	p := decode(b, &req)
	if p == nil {
		p = req.check()
	}
	if p != nil {
		reply(w, p.status, object{"detail": p.detail})
		return
	}
	eng, err := h.core.Lookup(req.Model, "")
	switch {
	case err != nil:
		reply(w, http.StatusBadRequest, detail("Unknown model: "+req.Model))
		return
	case eng.Model().Flavour == core.TRTLLM:
		reply(w, http.StatusBadRequest, detail("TRT-LLM backend and Python backend do not support embedding requests"))
		return
	}
	input := req.text()
	q := core.Request{Prompt: input, PromptTokens: core.CountTokens(input), MaxTokens: 1}
	j := h.core.Begin(core.OpenAI, eng.Model(), q, false)
	socket.Of(r.Context()).Carry(j)
	end := h.core.Generate(h.whole(r), eng, j, q, &vector{w: w, request: req})
	j.Ended(end)
	if end == core.Running {
		panic(http.ErrAbortHandler)
	}
}

func (r embedRequest) check() *problem {
	switch {
	case r.Model == "":
		return unprocessable("missing", "model", "Field required")
	case len(r.Input) == 0 || r.text() == "":
		return unprocessable("missing", "input", "Field required")
	case r.Dimensions < 1 || r.Dimensions > maxDimensions:
		return unprocessable("value_error", "dimensions", "Input should be from 1 to 16384")
	case r.EncodingFormat != "float" && r.EncodingFormat != "base64":
		return unprocessable("literal_error", "encoding_format", "Input should be 'float' or 'base64'")
	}
	return nil
}

// text is the input; a list of tokens reads as its numbers.
func (r embedRequest) text() string {
	var one string
	if json.Unmarshal(r.Input, &one) == nil {
		return one
	}
	var tokens []json.Number
	_ = json.Unmarshal(r.Input, &tokens) // what is neither is refused as empty
	words := make([]string, 0, len(tokens))
	for _, t := range tokens {
		words = append(words, t.String())
	}
	return strings.Join(words, " ")
}

// vector is the answer to an embedding.
type vector struct {
	w       http.ResponseWriter
	request embedRequest
}

// Events is false: it is no stream.
func (v *vector) Events() bool { return false }

// Send sends the answer.
func (v *vector) Send(m core.Model, q core.Request, _ core.Step) error {
	var embedding any = core.Embedding(m, q.Prompt, v.request.Dimensions)
	if floats := embedding.([]float32); v.request.EncodingFormat == "base64" {
		var raw []byte
		for _, f := range floats {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
		}
		embedding = base64.StdEncoding.EncodeToString(raw)
	}
	reply(v.w, http.StatusOK, object{
		"object": "list", "model": m.Name,
		"data":  []object{{"object": "embedding", "embedding": embedding, "index": 0}},
		"usage": object{"prompt_tokens": q.PromptTokens, "total_tokens": q.PromptTokens},
	})
	return nil
}

// Finish ends the answer.
func (v *vector) Finish(err *core.Error) core.End {
	if err != nil {
		reply(v.w, http.StatusInternalServerError, detail(err.Text))
		return core.Failed
	}
	return core.Completed
}
