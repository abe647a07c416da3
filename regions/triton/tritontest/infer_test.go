package tritontest

import (
	"encoding/json"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// FuzzDecodeInfer checks that every body, cut in two anywhere, is either refused
// with one of Triton's statuses or gives a request for one response.
func FuzzDecodeInfer(f *testing.F) {
	const text = `{"name":"text_input","shape":[1],"datatype":"BYTES","data":["hi"]}`
	const tokens = `{"name":"max_tokens","shape":[1],"datatype":"INT32","data":[[3]]}`
	for _, seed := range []struct{ body, header string }{
		{``, ``}, {`{}`, `2`}, {`[1]`, ``}, {`{"inputs":7}`, `12`}, {`{"inputs":[` + text + `,` + tokens + `]}`, ``},
		{`{"id":"a","inputs":[` + tokens + `],"outputs":[{"name":"text_output","parameters":{"binary_data":true}}]}`, `-1`},
		{`{"inputs":[{"name":"text_input","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6}}]}` + "\x02\x00\x00\x00hi", `98`},
		{`{"inputs":[{"name":"max_tokens","shape":[1],"datatype":"INT32","parameters":{"binary_data_size":99999999999999999999}}]}`, `x`},
	} {
		f.Add([]byte(seed.body), seed.header)
	}
	m := DefaultModel("trt")
	m.Flavour, m.Coupled = TRTLLM, true
	f.Fuzz(func(t *testing.T, body []byte, header string) {
		d := inferDecoder{model: m}
		q, err := d.decode(body, header)
		if err != nil {
			if err.Status != 400 && err.Status != 500 || !json.Valid([]byte(errorJSON(err.Text))) {
				t.Fatalf("refused with %d %q", err.Status, err.Text)
			}
			return
		}
		if q.Stream || q.MaxTokens < 0 {
			t.Fatalf("decoded %+v", q)
		}
		a := &inferAnswer{binary: d.binary, allBinary: d.allBinary}
		if err := a.Send(m, q, core.Step{Text: " x", Tokens: 1, Finish: "length"}); err != nil {
			t.Fatal(err)
		}
		whole := a.body
		if a.json > 0 {
			whole = a.body[:a.json]
		}
		if !json.Valid(whole) {
			t.Fatalf("answered %q", whole)
		}
	})
}
