package tritontest

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDecodeGenerate(t *testing.T) {
	vllm := DefaultModel("llama")
	trt := vllm
	trt.Flavour = TRTLLM
	for _, c := range []struct {
		model Model
		body  string
		want  genRequest
	}{
		{vllm, `{"text_input":"a b"}`, genRequest{prompt: "a b", promptTokens: 2, maxTokens: 16, prepend: true}},
		{vllm, `{"text_input":["a"],"stream":[true]}`, genRequest{prompt: "a", promptTokens: 1, maxTokens: 16, stream: true}},
		{vllm, `{"id":"7","text_input":"a","parameters":{"max_tokens":3,"temperature":0.5,"seed":1,"x":"y"}}`,
			genRequest{id: "7", prompt: "a", promptTokens: 1, maxTokens: 3, prepend: true}},
		{vllm, `{"text_input":"a","max_tokens":2,"sampling_parameters":"{\"max_tokens\":\"5\"}"}`, genRequest{prompt: "a", promptTokens: 1, maxTokens: 5, prepend: true}},
		{vllm, `{"text_input":"a","max_tokens":2,"sampling_parameters":"{}"}`, genRequest{prompt: "a", promptTokens: 1, maxTokens: 16, prepend: true}},
		{vllm, `{"text_input":"a","max_tokens":-4}`, genRequest{prompt: "a", promptTokens: 1, prepend: true}},
		{trt, `{"text_input":"a","max_tokens":2,"stream":true}`, genRequest{prompt: "a", promptTokens: 1, maxTokens: 2, stream: true}},
	} {
		got, err := decodeGenerate([]byte(c.body), c.model)
		if err != nil || got != c.want {
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
		{vllm, `{"text_input":"a","stream":1}`, 500, "attempt to access JSON non-boolean as boolean"},
		{vllm, `{"text_input":"a","text_input":"b"}`, 400, "[request id: <id_unknown>] input 'text_input' already exists in request"},
		{vllm, `{"text_input":"a","parameters":7}`, 500, "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object"},
		{vllm, `{"text_input":"a","parameters":{"x":[1]}}`, 400, "Converting keyword: 'parameters': parameter 'x' has invalid type. It should be either 'int', 'bool', or 'string'."},
		{trt, `{"id":"3","text_input":"a"}`, 400, "[request id: 3] expected number of inputs between 2 and 9 but got 1 inputs for model 'llama'. " +
			"Got input(s) ['text_input'], but missing required input(s) ['max_tokens']. Please provide all required input(s)."},
		{trt, `{"text_input":"a","max_tokens":1.5}`, 500, "attempt to access JSON non-signed-integer as signed-integer"},
		{vllm, `{"text_input":"` + strings.Repeat("a", maxInput) + `"}`, 400,
			"request JSON size of 67108881 bytes exceeds the maximum allowed input size of 67108864 bytes. Use --http-max-input-size to increase the limit."},
	} {
		_, err := decodeGenerate([]byte(c.body), c.model)
		if err == nil || err.status != c.status || err.text != c.text {
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
				if err.status != 400 && err.status != 500 || !json.Valid([]byte(errorJSON(err.text))) {
					t.Fatalf("refused with %d %q", err.status, err.text)
				}
				continue
			}
			if q.maxTokens < 0 || q.promptTokens < 0 || q.promptTokens > len(q.prompt) || !utf8.ValidString(q.prompt) {
				t.Fatalf("decoded %+v", q)
			}
			var out map[string]any
			if err := json.Unmarshal(response(m, q, step{text: " x", tokens: 1, finish: "None"}), &out); err != nil {
				t.Fatal(err)
			}
			if id, _ := out["id"].(string); id != q.id {
				t.Fatalf("id %q came back as %q", q.id, id)
			}
		}
		if q, err := decodeInfer(body, trt); err == nil && q.stream {
			t.Fatal("a coupled model streams")
		}
	})
}
