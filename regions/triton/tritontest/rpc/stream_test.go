package rpc_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

type bidi = grpc.BidiStreamingClient[pb.ModelInferRequest, pb.ModelStreamInferResponse]

func open(ctx context.Context, t testing.TB, p *tritontest.Pod, requests ...*pb.ModelInferRequest) bidi {
	t.Helper()
	stream, err := client(t, p).ModelStreamInfer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	return stream
}

// final is the response's triton_final_response, which every one must have.
func final(t testing.TB, r *pb.ModelStreamInferResponse) bool {
	t.Helper()
	p, ok := r.InferResponse.GetParameters()["triton_final_response"]
	if !ok {
		t.Errorf("no final flag in %v", r)
	}
	return p.GetBoolParam()
}

func flag(on bool) *pb.InferParameter {
	return &pb.InferParameter{ParameterChoice: &pb.InferParameter_BoolParam{BoolParam: on}}
}

// TestStreamSharesRequests sends several requests on one stream; their responses
// come side by side and belong together by their ids.
func TestStreamSharesRequests(t *testing.T) {
	p := newPod(t, nil, fast("llama"))
	stream := open(t.Context(), t, p)
	for i := range 3 {
		if err := stream.Send(ask("llama", fmt.Sprint(i), fmt.Sprintf("prompt %d", i), 20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	all, err := drained(stream)
	if err != nil || len(all) != 60 {
		t.Fatalf("%d responses, %v", len(all), err)
	}
	texts, count := make(map[string]string), make(map[string]int)
	for _, r := range all {
		in := r.InferResponse
		count[in.Id]++
		texts[in.Id] += text(t, in)
		if r.ErrorMessage != "" || in.ModelName != "llama" || in.ModelVersion != "1" || final(t, r) != (count[in.Id] == 20) {
			t.Errorf("response %d: %v", count[in.Id], r)
		}
	}
	for i := range 3 {
		if want := strings.Join(tritontest.Tokens("llama", fmt.Sprintf("prompt %d", i), 20), ""); texts[fmt.Sprint(i)] != want {
			t.Errorf("%d: %q, want %q", i, texts[fmt.Sprint(i)], want)
		}
	}
	if s := p.Stats("llama"); s.Completed != 3 || s.Tokens != 60 || s.InFlight != 0 {
		t.Errorf("stats: %+v", s)
	}
	if r := p.Requests(); r[0].Frontend != "grpc" || !r[0].Stream || r[0].Bytes == 0 {
		t.Errorf("requests: %+v", r)
	}
}

// TestEmptyFinalResponse: vLLM's last response says so itself, an ensemble's end
// is seen only by who asked for it.
func TestEmptyFinalResponse(t *testing.T) {
	p := newPod(t, nil, fast("llama"), ensemble("trt"))
	for _, c := range []struct {
		model  string
		enable bool
		finals string
	}{
		{"llama", false, "--F"}, {"llama", true, "--F"}, {"trt", false, "---"}, {"trt", true, "---F"},
	} {
		r := ask(c.model, "1", "hi", 3)
		if c.model == "trt" {
			r = askEnsemble(c.model, "1", "hi", 3)
		}
		if c.enable {
			if r.Parameters == nil {
				r.Parameters = make(map[string]*pb.InferParameter)
			}
			r.Parameters["triton_enable_empty_final_response"] = flag(true)
		}
		stream := open(t.Context(), t, p, r)
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		all, err := drained(stream)
		got := ""
		for _, r := range all {
			got += map[bool]string{false: "-", true: "F"}[final(t, r)]
		}
		if err != nil || got != c.finals {
			t.Errorf("%s, enabled %v: %s, %v; want %s", c.model, c.enable, got, err, c.finals)
		}
		if last := all[len(all)-1].InferResponse; c.finals == "---F" && (len(last.Outputs) != 0 || last.Id != "1" || last.ModelName != "trt") {
			t.Errorf("empty final response: %v", last)
		}
	}
}

// TestErrorsInBand keeps the stream open after each error.
func TestErrorsInBand(t *testing.T) {
	p := newPod(t, nil, fast("llama"))
	p.FailInBand(1, 2)
	stream := open(t.Context(), t, p, ask("none", "a", "hi", 3))
	r, err := stream.Recv()
	if err != nil || r.ErrorMessage != "Request for unknown model: 'none' is not found" || r.InferResponse.Id != "a" || r.InferResponse.ModelName != "" {
		t.Errorf("%v, %v", r, err)
	}
	bad := ask("llama", "b", "hi", 0)
	if err := stream.Send(bad); err != nil {
		t.Fatal(err)
	}
	if r, err = stream.Recv(); err != nil || !strings.Contains(r.ErrorMessage, "max_tokens must be at least 1") ||
		r.InferResponse.Id != "b" || r.InferResponse.ModelName != "llama" || !final(t, r) {
		t.Errorf("%v, %v", r, err)
	}
	if err := stream.Send(ask("llama", "c", "hi", 5)); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if r, err = stream.Recv(); err != nil || (r.ErrorMessage != "") != (i == 2) || final(t, r) != (i == 2) {
			t.Errorf("%d: %v, %v", i, r, err)
		}
	}
	if err := stream.Send(ask("llama", "d", "hi", 2)); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if all, err := drained(stream); err != nil || len(all) != 2 {
		t.Errorf("after the errors: %v, %v", all, err)
	}
	if s := p.Stats("llama"); s.Failed != 2 || s.Completed != 1 {
		t.Errorf("stats: %+v", s)
	}
}

// TestErrorsAsStatus closes the stream at the first failed response, but not at
// a request that was never given to a model.
func TestErrorsAsStatus(t *testing.T) {
	p := newPod(t, nil, fast("llama"), stalled("slow"))
	p.FailInBand(1, 2)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "triton_grpc_error", "true")
	stream := open(ctx, t, p, ask("none", "a", "hi", 3), ask("slow", "b", "hi", 3))
	got := ""
	for range 2 {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got += r.InferResponse.Id + r.ErrorMessage + ";"
	}
	if !strings.Contains(got, "aRequest for unknown model") || !strings.Contains(got, "b;") {
		t.Error(got)
	}
	if err := stream.Send(ask("llama", "c", "hi", 5)); err != nil {
		t.Fatal(err)
	}
	all, err := drained(stream)
	wantCode(t, err, codes.Internal, "simulated failure")
	if len(all) != 2 {
		t.Errorf("%v", all)
	}
	eventually(t, "the other request canceled", func() bool { return p.Stats("slow").Canceled == 1 })
}

func TestCoupledModelsAnswerInOrder(t *testing.T) {
	slow, quick := coupled("slow"), coupled("quick")
	slow.InterToken = 20 * time.Millisecond
	p := newPod(t, nil, slow, quick)
	stream := open(t.Context(), t, p, askEnsemble("slow", "1", "hi", 3), askEnsemble("quick", "2", "hi", 1), askEnsemble("quick", "3", "hi", 1))
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	all, err := drained(stream)
	ids := ""
	for _, r := range all {
		ids += r.InferResponse.Id
	}
	if err != nil || ids != "123" {
		t.Errorf("%s, %v", ids, err)
	}
}

func TestClientLeavesAStream(t *testing.T) {
	p := newPod(t, nil, stalled("llama"))
	ctx, cancel := context.WithCancel(t.Context())
	stream := open(ctx, t, p, ask("llama", "1", "hi", 3))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	eventually(t, "canceled", func() bool { return p.Stats("llama").Canceled == 1 })
}

func TestTokensInOutputs(t *testing.T) {
	p := newPod(t, nil, fast("llama"))
	r := ask("llama", "1", "two words", 2)
	for _, name := range []string{"return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"} {
		r.Inputs = append(r.Inputs, &pb.ModelInferRequest_InferInputTensor{Name: name, Datatype: "BOOL", Shape: []int64{1}})
		r.RawInputContents = append(r.RawInputContents, []byte{1})
	}
	stream := open(t.Context(), t, p, r)
	for i, want := range []string{"None", "length"} {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		outputs := make(map[string]string)
		for k, o := range r.InferResponse.Outputs {
			outputs[o.Name] = string(r.InferResponse.RawOutputContents[k])
		}
		if outputs["finish_reason"] != string(raw(want)) || outputs["num_input_tokens"] != "\x02\x00\x00\x00" || outputs["num_output_tokens"] != "\x01\x00\x00\x00" {
			t.Errorf("response %d: %q", i, outputs)
		}
	}
}
