package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// remote is a client of a server's gRPC port.
type remote struct {
	t    *testing.T
	ctx  func() context.Context // of all that it asks
	conn *grpc.ClientConn
	pb.GRPCInferenceServiceClient
	said strings.Builder
}

// rpc is a case that calls a server by gRPC.
func rpc(name string, run func(r *remote)) testcase {
	return testcase{"grpc: " + name, func(t *testing.T, tg target) string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		conn, err := grpc.NewClient("passthrough:///"+tg.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		r := &remote{t: t, ctx: func() context.Context { return ctx }, conn: conn, GRPCInferenceServiceClient: pb.NewGRPCInferenceServiceClient(conn)}
		run(r)
		return r.said.String()
	}}
}

// call is a case of one unary call.
func call[Q, A proto.Message](name string, method func(*remote) func(context.Context, Q, ...grpc.CallOption) (A, error), ask Q) testcase {
	return rpc(name, func(r *remote) {
		var fields metadata.MD
		answer, err := method(r)(r.ctx(), ask, grpc.Header(&fields))
		r.note(answer, err)
	})
}

// note writes down an answer or an error.
func (r *remote) note(answer proto.Message, err error) {
	if err != nil {
		s := status.Convert(err)
		fmt.Fprintf(&r.said, "%s: %s\n", s.Code(), s.Message())
		return
	}
	text, err := protojson.Marshal(answer)
	if err != nil {
		r.t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		r.t.Fatal(err)
	}
	fmt.Fprintf(&r.said, "%s\n", &compact)
	if infer, ok := answer.(*pb.ModelInferResponse); ok {
		r.raw(infer)
	}
}

// raw shows the bytes of outputs.
func (r *remote) raw(m *pb.ModelInferResponse) {
	for i, data := range m.GetRawOutputContents() {
		fmt.Fprintf(&r.said, "  output %d: %q\n", i, data)
	}
}

func text(s string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(s))), s...)
}

func tensor(name, datatype string, shape ...int64) *pb.ModelInferRequest_InferInputTensor {
	return &pb.ModelInferRequest_InferInputTensor{Name: name, Datatype: datatype, Shape: shape}
}

// asking makes a request with raw inputs: a prompt, and what more is given.
func asking(model, prompt string, stream bool, tokens int64) *pb.ModelInferRequest {
	q := &pb.ModelInferRequest{
		ModelName: model, Id: "42",
		Inputs:           []*pb.ModelInferRequest_InferInputTensor{tensor("text_input", "BYTES", 1)},
		RawInputContents: [][]byte{text(prompt)},
	}
	if model == "trt" || model == "counted" {
		q.Inputs = append(q.Inputs, tensor("max_tokens", "INT32", 1))
		q.RawInputContents = append(q.RawInputContents, binary.LittleEndian.AppendUint32(nil, uint32(tokens)))
		q.Outputs = []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "text_output"}}
		return q
	}
	q.Parameters = map[string]*pb.InferParameter{"max_tokens": {ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: tokens}}}
	if stream {
		q.Inputs = append(q.Inputs, tensor("stream", "BOOL", 1))
		q.RawInputContents = append(q.RawInputContents, []byte{1})
	}
	return q
}

// with changes a request.
func with(q *pb.ModelInferRequest, change func(*pb.ModelInferRequest)) *pb.ModelInferRequest {
	change(q)
	return q
}

func parameter(name string, value any) func(*pb.ModelInferRequest) {
	return func(q *pb.ModelInferRequest) {
		p := new(pb.InferParameter)
		switch v := value.(type) {
		case bool:
			p.ParameterChoice = &pb.InferParameter_BoolParam{BoolParam: v}
		case int:
			p.ParameterChoice = &pb.InferParameter_Int64Param{Int64Param: int64(v)}
		}
		if q.Parameters == nil {
			q.Parameters = make(map[string]*pb.InferParameter)
		}
		q.Parameters[name] = p
	}
}

func byContents(q *pb.ModelInferRequest) {
	q.RawInputContents = nil
	q.Inputs[0].Contents = &pb.InferTensorContents{BytesContents: [][]byte{[]byte("Hello")}}
	q.Inputs[1].Contents = &pb.InferTensorContents{IntContents: []int32{3}}
}

func infers(r *remote) func(context.Context, *pb.ModelInferRequest, ...grpc.CallOption) (*pb.ModelInferResponse, error) {
	return r.ModelInfer
}

func readies(r *remote) func(context.Context, *pb.ModelReadyRequest, ...grpc.CallOption) (*pb.ModelReadyResponse, error) {
	return r.ModelReady
}

func tells(r *remote) func(context.Context, *pb.ModelMetadataRequest, ...grpc.CallOption) (*pb.ModelMetadataResponse, error) {
	return r.ModelMetadata
}

var grpcCases = []testcase{
	rpc("ServerLive", func(r *remote) { r.note(r.ServerLive(r.ctx(), &pb.ServerLiveRequest{})) }),
	rpc("ServerReady", func(r *remote) { r.note(r.ServerReady(r.ctx(), &pb.ServerReadyRequest{})) }),
	rpc("ServerMetadata", func(r *remote) { r.note(r.ServerMetadata(r.ctx(), &pb.ServerMetadataRequest{})) }),
	call("ModelReady", readies, &pb.ModelReadyRequest{Name: "llama"}),
	call("ModelReady, version", readies, &pb.ModelReadyRequest{Name: "llama", Version: "1"}),
	call("ModelReady, unknown version", readies, &pb.ModelReadyRequest{Name: "llama", Version: "3"}),
	call("ModelReady, version is no number", readies, &pb.ModelReadyRequest{Name: "llama", Version: "x"}),
	call("ModelReady, unknown model", readies, &pb.ModelReadyRequest{Name: "nope"}),
	call("ModelReady, never loaded", readies, &pb.ModelReadyRequest{Name: "spare"}),
	call("ModelMetadata", tells, &pb.ModelMetadataRequest{Name: "llama"}),
	call("ModelMetadata, unknown model", tells, &pb.ModelMetadataRequest{Name: "nope"}),
	call("ModelMetadata, unknown version", tells, &pb.ModelMetadataRequest{Name: "llama", Version: "3"}),
	rpc("ModelConfig", func(r *remote) {
		answer, err := r.ModelConfig(r.ctx(), &pb.ModelConfigRequest{Name: "llama"})
		if err != nil {
			r.note(nil, err)
			return
		}
		c := answer.GetConfig()
		fmt.Fprintln(&r.said, c.GetName(), c.GetMaxBatchSize(), len(c.GetInput()), len(c.GetOutput()), c.GetModelTransactionPolicy().GetDecoupled())
	}),
	rpc("ModelConfig, unknown model", func(r *remote) { r.note(r.ModelConfig(r.ctx(), &pb.ModelConfigRequest{Name: "nope"})) }),
	rpc("ModelStatistics, unknown model", func(r *remote) { r.note(r.ModelStatistics(r.ctx(), &pb.ModelStatisticsRequest{Name: "nope"})) }),
	rpc("RepositoryIndex", func(r *remote) { r.note(r.RepositoryIndex(r.ctx(), &pb.RepositoryIndexRequest{})) }),
	rpc("RepositoryModelLoad, unknown model", func(r *remote) {
		r.note(r.RepositoryModelLoad(r.ctx(), &pb.RepositoryModelLoadRequest{ModelName: "nope"}))
	}),
	rpc("health: Check", func(r *remote) {
		r.note(grpc_health_v1.NewHealthClient(r.conn).Check(r.ctx(), &grpc_health_v1.HealthCheckRequest{}))
	}),
	rpc("health: Check of any service", func(r *remote) {
		r.note(grpc_health_v1.NewHealthClient(r.conn).Check(r.ctx(), &grpc_health_v1.HealthCheckRequest{Service: "nope"}))
	}),
	rpc("health: Watch", func(r *remote) {
		s, err := grpc_health_v1.NewHealthClient(r.conn).Watch(r.ctx(), &grpc_health_v1.HealthCheckRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		r.note(nil, err)
	}),
	rpc("unknown method", func(r *remote) {
		err := r.conn.Invoke(r.ctx(), "/inference.GRPCInferenceService/Nope", &pb.ServerLiveRequest{}, &pb.ServerLiveResponse{})
		r.note(nil, err)
	}),

	call("ModelInfer", infers, asking("trt", "Hello", false, 3)),
	call("ModelInfer, without an id", infers, with(asking("trt", "Hello", false, 3), func(q *pb.ModelInferRequest) { q.Id = "" })),
	call("ModelInfer, typed contents", infers, with(asking("trt", "Hello", false, 3), byContents)),
	call("ModelInfer, unknown model", infers, asking("nope", "Hello", false, 3)),
	call("ModelInfer, unknown version", infers, with(asking("trt", "Hello", false, 3), func(q *pb.ModelInferRequest) { q.ModelVersion = "3" })),
	call("ModelInfer, decoupled model", infers, asking("llama", "Hello", false, 3)),
	call("ModelInfer, model refuses", infers, asking("trt", "Hello", false, 0)),
	call("ModelInfer, missing input", infers, with(asking("trt", "Hello", false, 3), func(q *pb.ModelInferRequest) {
		q.Inputs, q.RawInputContents = q.Inputs[:1], q.RawInputContents[:1]
	})),
	call("ModelInfer, unknown input", infers, with(asking("trt", "Hello", false, 3), func(q *pb.ModelInferRequest) {
		q.Inputs = append(q.Inputs, tensor("nope", "BOOL", 1))
		q.RawInputContents = append(q.RawInputContents, []byte{1})
	})),
	call("ModelInfer, other type", infers, with(asking("trt", "Hello", false, 3), func(q *pb.ModelInferRequest) { q.Inputs[1].Datatype = "FP32" })),
	call("ModelInfer, other shape", infers, with(asking("trt", "Hello", false, 3), func(q *pb.ModelInferRequest) { q.Inputs[0].Shape = []int64{1, 1} })),
	call("ModelInfer, fewer raw contents than inputs", infers, with(asking("trt", "Hello", false, 3), func(q *pb.ModelInferRequest) {
		q.RawInputContents = q.RawInputContents[:1]
	})),
	call("ModelInfer, raw contents too short", infers, with(asking("trt", "Hello", false, 3), func(q *pb.ModelInferRequest) {
		q.RawInputContents[0] = q.RawInputContents[0][:6]
	})),
	call("ModelInfer, raw and typed contents", infers, with(asking("trt", "Hello", false, 3), func(q *pb.ModelInferRequest) {
		q.Inputs[0].Contents = &pb.InferTensorContents{BytesContents: [][]byte{[]byte("Hello")}}
	})),
	call("ModelInfer, unknown output", infers, with(asking("trt", "Hello", false, 3), func(q *pb.ModelInferRequest) { q.Outputs[0].Name = "nope" })),

	streaming("one request", nil, asking("llama", "Hello", true, 3)),
	streaming("model answers once", nil, asking("llama", "Hello", false, 3)),
	streaming("coupled model", nil, asking("trt", "Hello", false, 3)),
	streaming("empty final response", nil, with(asking("llama", "Hello", true, 2), parameter("triton_enable_empty_final_response", true))),
	streaming("empty final response of a coupled model", nil, with(asking("trt", "Hello", false, 2), parameter("triton_enable_empty_final_response", true))),
	streaming("three requests", nil, asking("llama", "Hello", true, 2), asking("llama", "Hello", false, 2), asking("llama", "a", true, 2)),
	streaming("unknown model, then another", nil, asking("nope", "Hello", true, 2), asking("llama", "Hello", true, 2)),
	streaming("model refuses, then another", nil, asking("llama", "Hello", true, 0), asking("llama", "Hello", true, 2)),
	streaming("missing input", nil, with(asking("llama", "Hello", true, 2), func(q *pb.ModelInferRequest) { q.Inputs, q.RawInputContents = nil, nil })),
	streaming("unknown model, strict", metadata.Pairs("triton_grpc_error", "true"), asking("nope", "Hello", true, 2)),
	streaming("model refuses, strict", metadata.Pairs("triton_grpc_error", "true"), asking("llama", "Hello", true, 0)),
	streaming("ok, strict", metadata.Pairs("triton_grpc_error", "true"), asking("llama", "Hello", true, 2)),
	{"grpc: ModelStreamInfer, fails after two responses", func(t *testing.T, tg target) string {
		defer tg.failInBand(2)()
		return streaming("", nil, with(asking("llama", "Hello", true, 5), parameter("fail_after", 2))).run(t, tg)
	}},
	{"grpc: ModelStreamInfer, fails after two responses, strict", func(t *testing.T, tg target) string {
		defer tg.failInBand(2)()
		return streaming("", metadata.Pairs("triton_grpc_error", "true"), with(asking("llama", "Hello", true, 5), parameter("fail_after", 2))).run(t, tg)
	}},
	{"grpc: pings without a call", pings},
}

// streaming is a case of one bidirectional stream. Each request waits for the end
// of the one before: the order of answers to several at once is nobody's promise.
// No case mixes coupled and decoupled models, on which a real 2.51 now and then
// fails an assertion of its own and aborts.
func streaming(name string, fields metadata.MD, asks ...*pb.ModelInferRequest) testcase {
	return rpc("ModelStreamInfer, "+name, func(r *remote) {
		stream, err := r.ModelStreamInfer(metadata.NewOutgoingContext(r.ctx(), fields))
		if err != nil {
			r.t.Fatal(err)
		}
		for _, ask := range asks {
			if err := stream.Send(ask); err != nil && !errors.Is(err, io.EOF) {
				r.t.Fatal(err)
			}
			if len(asks) > 1 {
				r.final(stream)
			}
		}
		_ = stream.CloseSend()
		for r.receive(stream) {
		}
	})
}

// final receives up to a response that is final, or an error in-band.
func (r *remote) final(stream grpc.BidiStreamingClient[pb.ModelInferRequest, pb.ModelStreamInferResponse]) {
	for {
		from := r.said.Len()
		if !r.receive(stream) {
			return
		}
		said := r.said.String()[from:]
		if strings.Contains(said, `"triton_final_response":{"boolParam":true}`) || strings.Contains(said, "errorMessage") {
			return
		}
	}
}

func (r *remote) receive(stream grpc.BidiStreamingClient[pb.ModelInferRequest, pb.ModelStreamInferResponse]) bool {
	answer, err := stream.Recv()
	switch {
	case errors.Is(err, io.EOF):
		fmt.Fprintln(&r.said, "(end of the stream)")
	case err != nil:
		r.note(nil, err)
	default:
		r.note(answer, nil)
		r.raw(answer.GetInferResponse())
	}
	return err == nil
}

// pings sends HTTP/2 pings faster than a server wants them, without any call, and
// tells what the server does about it. Frames: RFC 9113, section 6.
func pings(t *testing.T, tg target) string {
	conn, err := net.DialTimeout("tcp", tg.grpc, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	const ping, goaway = 6, 7
	out := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	if _, err := conn.Write(out); err != nil {
		t.Fatal(err)
	}
	answered, sent := 0, 0
	send := func() {
		_, _ = conn.Write([]byte{0, 0, 8, ping, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
		sent++
	}
	send()
	for {
		head := make([]byte, 9)
		if _, err := io.ReadFull(conn, head); err != nil {
			return fmt.Sprintf("closed after %d pings of %d were answered\n", answered, sent)
		}
		body := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(conn, body); err != nil {
			return "closed in a frame\n"
		}
		switch {
		case head[3] == goaway:
			return fmt.Sprintf("GOAWAY %d %q after %d pings were answered\n", binary.BigEndian.Uint32(body[4:8]), body[8:], answered)
		case head[3] == ping && head[4]&1 == 1:
			if answered++; answered == 20 {
				return "20 pings were answered\n"
			}
			send()
		}
	}
}
