package inferencepb_test

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

func text(b []byte, number protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), s)
}

// TestNumbers builds messages by the numbers that Triton's clients and servers
// use, which no later edit may change.
func TestNumbers(t *testing.T) {
	flag := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	final := text(text(nil, 1, "triton_final_response"), 2, string(flag))
	input := text(text(nil, 1, "text_input"), 2, "BYTES")
	request := text(text(text(text(text(text(nil, 1, "llama"), 2, "1"), 3, "42"), 4, string(final)), 5, string(input)), 7, "raw")
	var r inferencepb.ModelInferRequest
	if err := proto.Unmarshal(request, &r); err != nil {
		t.Fatal(err)
	}
	if r.ModelName != "llama" || r.ModelVersion != "1" || r.Id != "42" || !r.Parameters["triton_final_response"].GetBoolParam() ||
		r.Inputs[0].Name != "text_input" || r.Inputs[0].Datatype != "BYTES" || string(r.RawInputContents[0]) != "raw" {
		t.Errorf("request read as %v", &r)
	}

	output := text(text(nil, 1, "text_output"), 2, "BYTES")
	response := text(text(text(text(text(text(nil, 1, "llama"), 2, "1"), 3, "42"), 4, string(final)), 5, string(output)), 6, "raw")
	var s inferencepb.ModelStreamInferResponse
	if err := proto.Unmarshal(text(text(nil, 1, "failed"), 2, string(response)), &s); err != nil {
		t.Fatal(err)
	}
	in := s.InferResponse
	if s.ErrorMessage != "failed" || in.ModelName != "llama" || in.Id != "42" || !in.Parameters["triton_final_response"].GetBoolParam() ||
		in.Outputs[0].Name != "text_output" || string(in.RawOutputContents[0]) != "raw" {
		t.Errorf("response read as %v", &s)
	}
}

// TestUnknownFields keeps what is not declared of a model's configuration.
func TestUnknownFields(t *testing.T) {
	sent := text(text(nil, 1, "llama"), 26, "model_metrics")
	var c inferencepb.ModelConfig
	if err := proto.Unmarshal(sent, &c); err != nil {
		t.Fatal(err)
	}
	again, err := proto.Marshal(&c)
	if err != nil || string(again) != string(sent) {
		t.Errorf("%q came back as %q, %v", sent, again, err)
	}
}
