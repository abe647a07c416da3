package tritontest

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

func TestDecodeGenerate(t *testing.T) {
	vllm := DefaultModel("llama")
	trt := vllm
	trt.Flavour = TRTLLM
	for _, c := range []struct {
		model Model
		body  string
		want  core.Request
	}{
		{vllm, `{"text_input":"a b"}`, core.Request{Prompt: "a b", PromptTokens: 2, MaxTokens: 16, Prepend: true}},
		{vllm, `{"text_input":["a"],"stream":[true]}`, core.Request{Prompt: "a", PromptTokens: 1, MaxTokens: 16, Stream: true}},
		{vllm, `{"id":"7","text_input":"a","parameters":{"max_tokens":3,"temperature":0.5,"seed":1,"x":"y"}}`,
			core.Request{ID: "7", Prompt: "a", PromptTokens: 1, MaxTokens: 3, Prepend: true}},
		{vllm, `{"text_input":"a","max_tokens":2,"sampling_parameters":"{\"max_tokens\":\"5\"}"}`, core.Request{Prompt: "a", PromptTokens: 1, MaxTokens: 5, Prepend: true}},
		{vllm, `{"text_input":"a","max_tokens":2,"sampling_parameters":"{}"}`, core.Request{Prompt: "a", PromptTokens: 1, MaxTokens: 16, Prepend: true}},
		{vllm, `{"text_input":"a","max_tokens":-4}`, core.Request{Prompt: "a", PromptTokens: 1, Prepend: true}},
		{trt, `{"text_input":"a","max_tokens":2,"stream":true}`, core.Request{Prompt: "a", PromptTokens: 1, MaxTokens: 2, Stream: true}},
	} {
		got, err := decodeGenerate([]byte(c.body), c.model)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", c.body, got, err, c.want)
		}
	}
	for _, c := range []struct {
		model  Model
		body   string
		status int
		text   string
	}{
		{vllm, ``, 500, "failed to parse the request JSON buffer: The document is empty. at 0"},
		{vllm, `{"text_input":"a"} x`, 500, "failed to parse the request JSON buffer: The document root must not be followed by other values. at 19"},
		{vllm, `[1]`, 500, "attempt to get members for non-object"},
		{vllm, `{"text_input":"a","id":7}`, 500, "Unable to parse 'id': attempt to access JSON non-string as string"},
		{vllm, `{"text_input":7}`, 500, "Unable to parse JSON bytes array: attempt to access JSON non-string as string"},
		{vllm, `{"text_input":["a","b"]}`, 400, "The schema can not convert input 'text_input' to tensor with proper shape"},
		{vllm, `{"text_input":"a","stream":1}`, 500, "Unable to parse 'data': attempt to access JSON non-boolean as boolean"},
		{vllm, `{"text_input":"a","text_input":"b"}`, 400, "[request id: <id_unknown>] input 'text_input' already exists in request"},
		{vllm, `{"text_input":"a","parameters":7}`, 500, "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object"},
		{vllm, `{"text_input":"a","parameters":{"x":[1]}}`, 400, "Converting keyword: 'parameters': parameter 'x' has invalid type. It should be either 'int', 'bool', or 'string'."},
		{trt, `{"id":"3","text_input":"a"}`, 400, "[request id: 3] expected number of inputs between 2 and 9 but got 1 inputs for model 'llama'. " +
			"Got input(s) ['text_input'], but missing required input(s) ['max_tokens']. Please provide all required input(s)."},
		{trt, `{"text_input":"a","max_tokens":1.5}`, 500, "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer"},
		{vllm, `{"text_input":"` + strings.Repeat("a", maxInput) + `"}`, 400,
			"request JSON size of 67108881 bytes exceeds the maximum allowed input size of 67108864 bytes. Use --http-max-input-size to increase the limit."},
	} {
		_, err := decodeGenerate([]byte(c.body), c.model)
		if err == nil || err.Status != c.status || err.Text != c.text {
			t.Errorf("%.60s: %+v", c.body, err)
		}
	}
}

// FuzzDecodeGenerate checks that every body is either refused with one of
// Triton's statuses or gives a request whose answers are valid JSON.
func FuzzDecodeGenerate(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `[]`, `null`, `{"text_input":"hi"}`, `{"text_input":["hi"],"id":"\u0000\ud800","stream":true}`,
		`{"text_input":"a","parameters":{"max_tokens":1e99,"stream":false,"x":null}}`,
		`{"text_input":"a","sampling_parameters":"{\"max_tokens\":{}}","max_tokens":"NaN"}`,
		`{"text_input":"a","max_tokens":2147483647,"exclude_input_in_output":[[[false]]]}`, "{\"text_input\":\"\xff\"}", `{"text_input":"","max_tokens":"NaN"}`,
	} {
		f.Add([]byte(seed))
	}
	vllm := DefaultModel("llama")
	trt := vllm
	trt.Flavour = TRTLLM
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, m := range []Model{vllm, trt} {
			q, err := decodeGenerate(body, m)
			if err != nil {
				if err.Status != 400 && err.Status != 500 || !json.Valid([]byte(errorJSON(err.Text))) {
					t.Fatalf("refused with %d %q", err.Status, err.Text)
				}
				continue
			}
			if q.MaxTokens < 0 || q.PromptTokens < 0 || q.PromptTokens > len(q.Prompt) || !utf8.ValidString(q.Prompt) {
				t.Fatalf("decoded %+v", q)
			}
			var out map[string]any
			if err := json.Unmarshal(response(m, q, core.Step{Text: " x", Tokens: 1, Finish: "None"}), &out); err != nil {
				t.Fatal(err)
			}
			if id, _ := out["id"].(string); id != q.ID {
				t.Fatalf("id %q came back as %q", q.ID, id)
			}
		}
	})
}
