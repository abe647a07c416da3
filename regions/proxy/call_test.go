package proxy_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// callPods starts simulated pods that speak gRPC.
func callPods(t *testing.T, n int) (pods []*tritontest.Pod, addrs []string) {
	t.Helper()
	model := tritontest.DefaultModel("llama")
	model.InterToken, model.BatchPenalty = 5*time.Millisecond, 0
	for range n {
		o := tritontest.DefaultOptions()
		o.Models, o.MetricsAddr, o.GRPCAddr = []tritontest.Model{model}, "", "127.0.0.1:0"
		pod := tritontest.New(o)
		if err := pod.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pod.Close)
		pods, addrs = append(pods, pod), append(addrs, pod.GRPCAddr())
	}
	return pods, addrs
}

// caller is a client of the rig's gateway.
func (g *rig) caller(t *testing.T) inferencepb.GRPCInferenceServiceClient {
	t.Helper()
	return inferencepb.NewGRPCInferenceServiceClient(g.conn(t))
}

func (g *rig) conn(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(g.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// generation asks for tokens.
func generation(id string, tokens int64) *inferencepb.ModelInferRequest {
	return &inferencepb.ModelInferRequest{
		ModelName: "llama", Id: id,
		Inputs: []*inferencepb.ModelInferRequest_InferInputTensor{
			{Name: "text_input", Datatype: "BYTES", Shape: []int64{1}, Contents: &inferencepb.InferTensorContents{BytesContents: [][]byte{[]byte("hi")}}},
			{Name: "stream", Datatype: "BOOL", Shape: []int64{1}, Contents: &inferencepb.InferTensorContents{BoolContents: []bool{true}}},
		},
		Parameters: map[string]*inferencepb.InferParameter{
			"max_tokens": {ParameterChoice: &inferencepb.InferParameter_Int64Param{Int64Param: tokens}},
		},
	}
}

// TestCalls: what a client asks for and is told goes through unchanged.
func TestCalls(t *testing.T) {
	_, addrs := callPods(t, 1)
	g := newRig(t, nil, addrs...)
	client := g.caller(t)
	regionstest.Eventually(t, patience, func() bool {
		ready, err := client.ModelReady(t.Context(), &inferencepb.ModelReadyRequest{Name: "llama"})
		return err == nil && ready.GetReady()
	}, "the model is ready")
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-two", "1", "x-two", "2", "x-bin-bin", string([]byte{0, 255, 7}))
	if m, err := client.ModelMetadata(ctx, &inferencepb.ModelMetadataRequest{Name: "llama"}); err != nil || m.GetName() != "llama" {
		t.Errorf("%v, %v", m, err)
	}
	// A decoupled model does not take a single answer.
	if _, err := client.ModelInfer(ctx, generation("1", 3)); status.Code(err) != codes.Unimplemented {
		t.Errorf("ModelInfer: %v, want UNIMPLEMENTED", err)
	}
	stream, err := client.ModelStreamInfer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"one", "two"} { // the second after the first's answers
		if err := stream.Send(generation(id, 3)); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			res, err := stream.Recv()
			if err != nil || res.GetErrorMessage() != "" || res.GetInferResponse().GetId() != id {
				t.Fatalf("%v, %v", res, err)
			}
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if res, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the half-close: %v, %v", res, err)
	}
	g.ended(regions.EndServed, 4)
}

// TestACutCallSaysSo: a stream whose pod is lost ends with a status, and never well.
func TestACutCallSaysSo(t *testing.T) {
	pods, addrs := callPods(t, 1)
	g := newRig(t, nil, addrs...)
	stream, err := g.caller(t).ModelStreamInfer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(generation("1", 10_000)); err != nil {
		t.Fatal(err)
	}
	if res, err := stream.Recv(); err != nil || res.GetErrorMessage() != "" {
		t.Fatalf("%v, %v", res, err)
	}
	pods[0].Crash()
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stream_interrupted") {
		t.Errorf("it ended with %v, want UNAVAILABLE and stream_interrupted", err)
	}
	g.ended(regions.EndPodLost, 1)
}

// TestACallToALostPod: nobody is there, and the client is told in its own way.
func TestACallToALostPod(t *testing.T) {
	g := newRig(t, nil, nobody(t), nobody(t))
	_, err := g.caller(t).ModelInfer(t.Context(), generation("1", 1))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("%v, want UNAVAILABLE", err)
	}
}

// TestACancelledCallStopsThePod tells how soon.
func TestACancelledCallStopsThePod(t *testing.T) {
	pods, addrs := callPods(t, 1)
	g := newRig(t, nil, addrs...)
	ctx, leave := context.WithCancel(t.Context())
	stream, err := g.caller(t).ModelStreamInfer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(generation("1", 100_000)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	left := time.Now()
	leave()
	regionstest.Eventually(t, patience, func() bool {
		for _, r := range pods[0].Requests() {
			if r.End == tritontest.Canceled {
				return true
			}
		}
		return false
	}, "the pod has stopped")
	t.Logf("the pod was told after %v at most", time.Since(left))
	g.ended(regions.EndClientGone, 1)
}
