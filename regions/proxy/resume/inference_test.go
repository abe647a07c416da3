package resume_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

type (
	inferRequest   = inferencepb.ModelInferRequest
	inferInput     = inferencepb.ModelInferRequest_InferInputTensor
	inferOutput    = inferencepb.ModelInferResponse_InferOutputTensor
	inferResponse  = inferencepb.ModelInferResponse
	streamResponse = inferencepb.ModelStreamInferResponse
	inferWanted    = inferencepb.ModelInferRequest_InferRequestedOutputTensor
	inferContents  = inferencepb.InferTensorContents
	inferParameter = inferencepb.InferParameter
)

func flag(v bool) *inferParameter {
	return &inferParameter{ParameterChoice: &inferencepb.InferParameter_BoolParam{BoolParam: v}}
}

func whole(v int64) *inferParameter {
	return &inferParameter{ParameterChoice: &inferencepb.InferParameter_Int64Param{Int64Param: v}}
}

func lengthed(text string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// addInput adds an input of one element: a string, a bool or an int.
func addInput(r *inferRequest, raw bool, name string, value any) {
	in := &inferInput{Name: name, Shape: []int64{1}, Contents: &inferContents{}}
	var bytes []byte
	switch v := value.(type) {
	case string:
		in.Datatype, in.Contents.BytesContents, bytes = "BYTES", [][]byte{[]byte(v)}, lengthed(v)
	case bool:
		in.Datatype, in.Contents.BoolContents, bytes = "BOOL", []bool{v}, []byte{0}
		if v {
			bytes[0] = 1
		}
	case int:
		in.Datatype, in.Contents.IntContents = "INT32", []int32{int32(v)}
		bytes = binary.LittleEndian.AppendUint32(nil, uint32(v))
	}
	if raw {
		in.Contents = nil
		r.RawInputContents = append(r.RawInputContents, bytes)
	}
	r.Inputs = append(r.Inputs, in)
}

// asBody is a request as the JSON of generate_stream, which the pods of the tests
// understand.
func asBody(tb testing.TB, r *inferRequest) []byte {
	tb.Helper()
	all := map[string]any{"id": r.Id}
	for name, p := range r.Parameters {
		switch v := p.ParameterChoice.(type) {
		case *inferencepb.InferParameter_BoolParam:
			all[name] = v.BoolParam
		case *inferencepb.InferParameter_Int64Param:
			all[name] = v.Int64Param
		}
	}
	for n, in := range r.Inputs {
		if len(r.RawInputContents) > 0 {
			b := r.RawInputContents[n]
			switch in.Datatype {
			case "BYTES":
				all[in.Name] = string(b[4:])
			case "BOOL":
				all[in.Name] = b[0] == 1
			case "INT32":
				all[in.Name] = int(binary.LittleEndian.Uint32(b))
			}
			continue
		}
		switch in.Datatype {
		case "BYTES":
			all[in.Name] = string(in.Contents.BytesContents[0])
		case "BOOL":
			all[in.Name] = in.Contents.BoolContents[0]
		case "INT32":
			all[in.Name] = in.Contents.IntContents[0]
		}
	}
	body, err := json.Marshal(all)
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

// responses are a pod's answer, raw or not, with the mark if it is wished for.
func (p pod) responses(tb testing.TB, r *inferRequest, raw bool) []*streamResponse {
	tb.Helper()
	var list []*streamResponse
	for _, e := range p.events(tb, asBody(tb, r)) {
		var fields map[string]any
		if err := json.Unmarshal(sse.Parse([]byte(e)).Data, &fields); err != nil {
			tb.Fatal(err)
		}
		out := &inferResponse{ModelName: llama, ModelVersion: "1", Id: r.Id, Parameters: map[string]*inferParameter{"triton_final_response": flag(false)}}
		for _, name := range []string{"text_output", "finish_reason", "num_output_tokens", "num_input_tokens"} {
			if len(r.Outputs) > 0 && !slices.ContainsFunc(r.Outputs, func(o *inferWanted) bool { return o.Name == name }) {
				continue
			}
			switch v := fields[name].(type) {
			case string:
				addOutput(out, raw, name, "BYTES", lengthed(v), &inferContents{BytesContents: [][]byte{[]byte(v)}})
			case float64:
				addOutput(out, raw, name, "UINT32", binary.LittleEndian.AppendUint32(nil, uint32(v)), &inferContents{UintContents: []uint32{uint32(v)}})
			}
		}
		list = append(list, &streamResponse{InferResponse: out})
	}
	if r.Parameters["triton_enable_empty_final_response"].GetBoolParam() {
		list = append(list, &streamResponse{InferResponse: &inferResponse{
			ModelName: llama, ModelVersion: "1", Id: r.Id, Parameters: map[string]*inferParameter{"triton_final_response": flag(true)},
		}})
	}
	return list
}

func addOutput(r *inferResponse, raw bool, name, datatype string, bytes []byte, c *inferContents) {
	out := &inferOutput{Name: name, Datatype: datatype, Shape: []int64{1}, Contents: c}
	if raw {
		out.Contents = nil
		r.RawOutputContents = append(r.RawOutputContents, bytes)
	}
	r.Outputs = append(r.Outputs, out)
}

// heardFrom is what a client makes of its responses.
func heardFrom(tb testing.TB, list []*streamResponse) (text string, names []string, tokens int, finish string, marks int) {
	tb.Helper()
	for _, m := range list {
		r := m.InferResponse
		if m.ErrorMessage != "" {
			tb.Fatal(m.ErrorMessage)
		}
		if r.Parameters["triton_final_response"].GetBoolParam() {
			marks++
		}
		if raw := len(r.RawOutputContents); raw > 0 && raw != len(r.Outputs) {
			tb.Fatalf("%d outputs, %d contents: %v", len(r.Outputs), raw, r)
		}
		names = names[:0]
		for n, out := range r.Outputs {
			names = append(names, out.Name)
			var s string
			var count uint32
			if len(r.RawOutputContents) > 0 {
				b := r.RawOutputContents[n]
				count = binary.LittleEndian.Uint32(b)
				s = string(b[4:])
			} else {
				if out.Datatype == "BYTES" {
					s = string(out.Contents.BytesContents[0])
				} else {
					count = out.Contents.UintContents[0]
				}
			}
			switch out.Name {
			case "text_output":
				text += s
			case "finish_reason":
				finish = s
			case "num_output_tokens":
				tokens += int(count)
			}
		}
	}
	return text, names, tokens, finish, marks
}

// requests are those of the gRPC client, of both backends and kinds of contents.
func inferRequests() map[string]struct {
	profile string
	raw     bool
	request *inferRequest
} {
	all := make(map[string]struct {
		profile string
		raw     bool
		request *inferRequest
	})
	for _, raw := range []bool{false, true} {
		for _, kind := range []string{"vllm", "vllm sampling", "vllm asks", "vllm outputs", "trtllm"} {
			r := &inferRequest{ModelName: llama, Id: "7", Parameters: make(map[string]*inferParameter)}
			addInput(r, raw, "text_input", "Set sail")
			addInput(r, raw, "stream", true)
			profile := "vllm"
			switch kind {
			case "vllm":
				r.Parameters["max_tokens"] = whole(9)
			case "vllm sampling":
				addInput(r, raw, "sampling_parameters", `{"max_tokens":9}`)
			case "vllm asks":
				r.Parameters["max_tokens"] = whole(9)
				r.Parameters["triton_enable_empty_final_response"] = flag(true)
				for _, name := range []string{"return_finish_reason", "return_num_output_tokens", "return_num_input_tokens"} {
					addInput(r, raw, name, true)
				}
			case "vllm outputs":
				r.Parameters["max_tokens"] = whole(9)
				r.Outputs = []*inferWanted{{Name: "text_output"}}
			case "trtllm":
				profile = kind
				addInput(r, raw, "max_tokens", 9)
			}
			all[fmt.Sprintf("%s raw %v", kind, raw)] = struct {
				profile string
				raw     bool
				request *inferRequest
			}{profile, raw, r}
		}
	}
	return all
}

// As over HTTP: wherever the stream is cut, the client has what it would have had.
func TestInferenceCutAnywhere(t *testing.T) {
	for name, c := range inferRequests() {
		t.Run(name, func(t *testing.T) {
			p := pod{profile: c.profile}
			before := c.request.String()
			want := p.responses(t, c.request, c.raw)
			wantText, wantNames, wantTokens, wantFinish, wantMarks := heardFrom(t, want)
			for cut := range len(want) + 2 {
				i := resume.OpenInference(profile(t, c.profile), resume.DefaultLimits(), c.request)
				if i.Refusal() != "" {
					t.Fatalf("refused: %s %s", i.Refusal(), i.Detail())
				}
				first := p.responses(t, i.Request(), c.raw)
				have := relayed(t, i, first[:min(cut, len(first))])
				if !i.Done() {
					next, err := i.Continue(start)
					if err == nil {
						have = append(have, relayed(t, i, p.responses(t, next, c.raw))...)
					} else if !errors.Is(err, resume.ErrComplete) {
						t.Fatal(err)
					}
				}
				rest, err := i.Finish()
				if err != nil {
					t.Fatal(err)
				}
				text, names, tokens, finish, marks := heardFrom(t, append(have, rest...))
				if text != wantText || tokens != wantTokens || finish != wantFinish || marks != wantMarks || !slices.Equal(names, wantNames) {
					t.Fatalf("cut after %d: %q %v, %d tokens, %q, %d marks; uncut %q %v, %d, %q, %d",
						cut, text, names, tokens, finish, marks, wantText, wantNames, wantTokens, wantFinish, wantMarks)
				}
			}
			if after := c.request.String(); after != before {
				t.Errorf("the client's request was changed to %s", after)
			}
		})
	}
}

func relayed(t *testing.T, i *resume.Inference, list []*streamResponse) (out []*streamResponse) {
	t.Helper()
	for _, r := range list {
		before := r.String()
		told, err := i.Response(r)
		if err != nil {
			t.Fatal(err)
		}
		if r.String() != before {
			t.Fatalf("the pod's response was changed: %s", r)
		}
		if told != nil {
			out = append(out, told)
		}
	}
	return out
}

func TestInferenceRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*inferRequest)
		want   resume.Reason
	}{
		{"nothing", func(*inferRequest) {}, ""},
		{"a seed", func(r *inferRequest) { r.Parameters["seed"] = whole(1) }, resume.ReasonSeed},
		{"no parameters", func(r *inferRequest) { r.Parameters = nil }, ""},
		{"a list of prompts", func(r *inferRequest) {
			r.Inputs[0].Shape, r.Inputs[0].Contents.BytesContents = []int64{2}, [][]byte{[]byte("a"), []byte("b")}
		}, resume.ReasonPrompt},
		{"no stream", func(r *inferRequest) { r.Inputs = r.Inputs[:1] }, resume.ReasonUnary},
		{"not UTF-8", func(r *inferRequest) { r.Inputs[0].Contents.BytesContents[0] = []byte{0xff} }, resume.ReasonBody},
		{"another type", func(r *inferRequest) { r.Inputs[0].Datatype = "FP64" }, resume.ReasonBody},
		{"shape", func(r *inferRequest) { r.Inputs[0].Shape = []int64{1 << 40, 1 << 40} }, resume.ReasonBody},
		{"shared memory", func(r *inferRequest) { r.Inputs[0].Parameters = map[string]*inferParameter{"x": flag(true)} }, resume.ReasonBody},
		{"fewer elements than its shape", func(r *inferRequest) { r.Inputs[1].Shape = []int64{2} }, resume.ReasonBody},
		{"a shape that overflows", func(r *inferRequest) {
			r.Inputs[0].Shape, r.Inputs[0].Contents.BytesContents = []int64{3, 6148914691236517206}, [][]byte{[]byte("a"), []byte("b")}
		}, resume.ReasonBody},
		{"raw and not", func(r *inferRequest) { r.RawInputContents = [][]byte{lengthed("p"), {1}} }, resume.ReasonBody},
		{"raw for some", func(r *inferRequest) { r.RawInputContents = [][]byte{lengthed("p")} }, resume.ReasonBody},
		{"a length beyond", func(r *inferRequest) {
			r.Inputs[0].Contents, r.Inputs[1].Contents = nil, nil
			r.RawInputContents = [][]byte{{255, 255, 255, 255, 'a'}, {1}}
		}, resume.ReasonBody},
		{"other outputs only", func(r *inferRequest) {
			r.Outputs = []*inferWanted{{Name: "x"}}
		}, resume.ReasonBody},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &inferRequest{Parameters: map[string]*inferParameter{"max_tokens": whole(9)}}
			addInput(r, false, "text_input", "p")
			addInput(r, false, "stream", true)
			c.change(r)
			i := resume.OpenInference(profile(t, "vllm"), resume.DefaultLimits(), r)
			if i.Refusal() != c.want {
				t.Fatalf("%q, want %q", i.Refusal(), c.want)
			}
			if sent := i.Request(); c.want != "" && !onlyWishes(sent, r) {
				t.Errorf("the request became %v", sent)
			}
			m := &streamResponse{InferResponse: &inferResponse{Outputs: []*inferOutput{{Name: "any"}}}}
			if out, err := i.Response(m); c.want != "" && out != m || err != nil {
				t.Errorf("a response became %v, %v", out, err)
			}
			// The client did not ask for a mark beside the last response.
			last := &streamResponse{InferResponse: &inferResponse{Parameters: map[string]*inferParameter{"triton_final_response": flag(true)}}}
			if out, err := i.Response(last); out != nil || err != nil || !i.Done() {
				t.Errorf("the mark became %v, %v", out, err)
			}
		})
	}
	if i := resume.OpenInference(profile(t, "openai"), resume.DefaultLimits(), &inferRequest{}); i.Refusal() != resume.ReasonOff {
		t.Errorf("openai: %q", i.Refusal())
	}
}

// The pod's in-band error, its end without the mark, and ours.
func TestInferenceEnds(t *testing.T) {
	c := inferRequests()["trtllm raw false"]
	i := resume.OpenInference(profile(t, "trtllm"), resume.DefaultLimits(), c.request)
	relayed(t, i, pod{profile: "trtllm"}.responses(t, i.Request(), false)[:3])
	failed := &streamResponse{ErrorMessage: "GRPC server is shutting down and has stopped accepting new requests."}
	var podError *resume.PodError
	if out, err := i.Response(failed); out != failed || !errors.As(err, &podError) || !podError.Retryable {
		t.Errorf("%v, %v", out, err)
	}
	if _, err := i.Finish(); !errors.Is(err, resume.ErrCut) {
		t.Errorf("without the mark: %v", err)
	}
	if m := i.Terminal("the pod was lost"); m.InferResponse.Id != "7" || !strings.Contains(m.ErrorMessage, "stream_interrupted") {
		t.Errorf("terminal: %v", m)
	}
}

// last is a response whose mark comes with text.
func last(text string, marked bool) *streamResponse {
	r := &inferResponse{Id: "7", Parameters: map[string]*inferParameter{"triton_final_response": flag(marked)}}
	addOutput(r, false, "text_output", "BYTES", nil, &inferContents{BytesContents: [][]byte{[]byte(text)}})
	return &streamResponse{InferResponse: r}
}

// A mark that comes with text: what is held at the seam comes with it, and the
// client has the mark once.
func TestInferenceMarkWithText(t *testing.T) {
	r := &inferRequest{Id: "7", Parameters: map[string]*inferParameter{"triton_enable_empty_final_response": flag(true)}}
	addInput(r, false, "text_input", "p")
	addInput(r, false, "stream", true)
	addInput(r, false, "max_tokens", 9)
	addInput(r, false, "stop_words", "</a>")
	i := resume.OpenInference(profile(t, "trtllm"), resume.DefaultLimits(), r)
	have := relayed(t, i, []*streamResponse{last("x<", false)})
	if _, err := i.Continue(start); err != nil {
		t.Fatal(err)
	}
	have = append(have, relayed(t, i, []*streamResponse{last("/", true)})...)
	for range 2 {
		rest, err := i.Finish()
		if err != nil || len(rest) > 0 {
			t.Fatalf("%v, %v", rest, err)
		}
	}
	if text, _, _, _, marks := heardFrom(t, have); text != "x</" || marks != 1 || !i.Done() {
		t.Errorf("%q, %d marks", text, marks)
	}
}

// A mark without the reason that was asked for is a cut.
func TestInferenceMarkTooEarly(t *testing.T) {
	c := inferRequests()["vllm asks raw true"]
	p := pod{profile: "vllm"}
	i := resume.OpenInference(profile(t, "vllm"), resume.DefaultLimits(), c.request)
	first := p.responses(t, i.Request(), true)
	have := relayed(t, i, append(slices.Clone(first[:3]), first[len(first)-1]))
	if _, err := i.Finish(); !errors.Is(err, resume.ErrCut) || !i.Done() {
		t.Fatalf("done %v, %v", i.Done(), err)
	}
	next, err := i.Continue(start)
	if err != nil || i.Done() {
		t.Fatalf("done %v, %v", i.Done(), err)
	}
	have = append(have, relayed(t, i, p.responses(t, next, true))...)
	for n := range 2 {
		rest, err := i.Finish()
		if err != nil || len(rest) != 1-n {
			t.Fatalf("%v, %v", rest, err)
		}
		have = append(have, rest...)
	}
	if _, _, tokens, finish, marks := heardFrom(t, have); tokens != 9 || finish != "length" || marks != 1 {
		t.Errorf("%d tokens, %q, %d marks", tokens, finish, marks)
	}
}

// onlyWishes reports that a pod is sent what the client sent, but for the wish to be told
// of the last response.
func onlyWishes(sent, client *inferRequest) bool {
	const wish = "triton_enable_empty_final_response"
	if !sent.GetParameters()[wish].GetBoolParam() {
		return false
	}
	params := maps.Clone(sent.GetParameters())
	delete(params, wish)
	return maps.Equal(params, client.GetParameters()) && slices.Equal(sent.GetInputs(), client.GetInputs()) &&
		slices.Equal(sent.GetOutputs(), client.GetOutputs()) && sent.GetModelName() == client.GetModelName() && sent.GetId() == client.GetId() &&
		slices.EqualFunc(sent.GetRawInputContents(), client.GetRawInputContents(), bytes.Equal)
}

// FuzzInference reads any tensors: nothing panics, and what is resumed is asked for
// with the same prompt.
func FuzzInference(f *testing.F) {
	f.Add(lengthed("p"), "BYTES", int64(1), []byte{1}, "BOOL", []byte(`{"max_tokens":3}`))
	f.Add([]byte{255, 255, 255, 255}, "BYTES", int64(1), []byte{}, "FP32", []byte("{"))
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8}, "INT64", int64(-1), []byte{1, 0}, "BOOL", []byte{0xff})
	f.Fuzz(func(t *testing.T, prompt []byte, kind string, size int64, stream []byte, second string, sampling []byte) {
		r := &inferRequest{
			Inputs: []*inferInput{
				{Name: "text_input", Datatype: kind, Shape: []int64{size}},
				{Name: "stream", Datatype: second, Shape: []int64{1}},
				{Name: "sampling_parameters", Datatype: "BYTES", Shape: []int64{1}},
			},
			RawInputContents: [][]byte{prompt, stream, lengthed(string(sampling))},
		}
		i := resume.OpenInference(profile(t, "vllm"), resume.DefaultLimits(), r)
		if i.Refusal() != "" {
			if !onlyWishes(i.Request(), r) {
				t.Fatal("a refused request is changed")
			}
			return
		}
		out := &inferResponse{Outputs: []*inferOutput{{Name: "text_output", Datatype: kind, Shape: []int64{1}}}, RawOutputContents: [][]byte{prompt}}
		if _, err := i.Response(&streamResponse{InferResponse: out}); err != nil {
			t.Fatal(err)
		}
		if next, err := i.Continue(start); err == nil && string(next.RawInputContents[0]) != string(lengthed(string(prompt[4:])+string(prompt[4:]))) {
			t.Fatalf("%q became %q", prompt, next.RawInputContents[0])
		}
	})
}
