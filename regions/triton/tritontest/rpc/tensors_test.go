package rpc

import (
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// FuzzDecode checks that every message is either refused or gives a request that
// can be answered.
func FuzzDecode(f *testing.F) {
	text := &pb.ModelInferRequest_InferInputTensor{Name: "text_input", Datatype: "BYTES", Shape: []int64{1}}
	tokens := &pb.ModelInferRequest_InferInputTensor{Name: "max_tokens", Datatype: "INT32", Contents: &pb.InferTensorContents{IntContents: []int32{-1}}}
	for _, r := range []*pb.ModelInferRequest{
		{}, {Inputs: []*pb.ModelInferRequest_InferInputTensor{text}, RawInputContents: [][]byte{[]byte("\x02\x00\x00\x00hi")}},
		{Inputs: []*pb.ModelInferRequest_InferInputTensor{text, text}, RawInputContents: [][]byte{{}, []byte("\xff\xff\xff\xff")}},
		{Id: "7", Inputs: []*pb.ModelInferRequest_InferInputTensor{tokens}, Parameters: map[string]*pb.InferParameter{
			"timeout": {ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: -1}}, "stop": {ParameterChoice: &pb.InferParameter_DoubleParam{DoubleParam: 1}},
		}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	vllm := core.DefaultModel("llama")
	trt := vllm
	trt.Flavour, trt.Coupled = core.TRTLLM, true
	f.Fuzz(func(t *testing.T, b []byte) {
		r := new(pb.ModelInferRequest)
		if proto.Unmarshal(b, r) != nil {
			return
		}
		for _, m := range []core.Model{vllm, trt} {
			q, refused := decode(r, m)
			if refused != nil {
				if refused.Status < 400 || refused.Text == "" {
					t.Fatalf("refused with %d %q", refused.Status, refused.Text)
				}
				continue
			}
			if q.ID != r.Id || q.MaxTokens < 0 || q.Timeout < 0 || !utf8.ValidString(q.Prompt) || m.Coupled && q.Stream {
				t.Fatalf("decoded %+v", q)
			}
			if _, err := proto.Marshal(encode(m, q, core.Step{Text: " x", Tokens: 1, Finish: "stop"})); err != nil {
				t.Fatal(err)
			}
		}
	})
}
