package rpc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/rhumb-lb/rhumb/regions/regionstest"
	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within bounds every wait for something that takes microseconds when idle.
const within = 20 * time.Second

// fast is a model that answers as soon as the scheduler lets it.
func fast(name string) tritontest.Model {
	m := tritontest.DefaultModel(name)
	m.PrefillPerToken, m.InterToken = 0, 50*time.Microsecond
	return m
}

// stalled is a model that sends a first token and then, in effect, no other.
func stalled(name string) tritontest.Model {
	m := fast(name)
	m.InterToken = time.Hour
	return m
}

// ensemble is a TensorRT-LLM model.
func ensemble(name string) tritontest.Model {
	m := fast(name)
	m.Flavour = tritontest.TRTLLM
	return m
}

// coupled is a model that answers once.
func coupled(name string) tritontest.Model {
	m := ensemble(name)
	m.Coupled = true
	return m
}

func newPod(t testing.TB, change func(*tritontest.Options), models ...tritontest.Model) *tritontest.Pod {
	t.Helper()
	opts := tritontest.DefaultOptions()
	opts.Models = models
	if change != nil {
		change(&opts)
	}
	p := tritontest.New(opts)
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t testing.TB, p *tritontest.Pod) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(p.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func client(t testing.TB, p *tritontest.Pod) pb.GRPCInferenceServiceClient {
	t.Helper()
	return pb.NewGRPCInferenceServiceClient(dial(t, p))
}

// raw is text as the one element of a tensor.
func raw(text string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// ask is a request for some tokens.
func ask(model, id, text string, tokens int32) *pb.ModelInferRequest {
	r := &pb.ModelInferRequest{
		ModelName: model, Id: id,
		Inputs: []*pb.ModelInferRequest_InferInputTensor{
			{Name: "text_input", Datatype: "BYTES", Shape: []int64{1}},
			{Name: "stream", Datatype: "BOOL", Shape: []int64{1}},
		},
		RawInputContents: [][]byte{raw(text), {1}},
	}
	r.Parameters = map[string]*pb.InferParameter{"max_tokens": {ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: int64(tokens)}}}
	return r
}

// askEnsemble has max_tokens as a tensor.
func askEnsemble(model, id, text string, tokens int32) *pb.ModelInferRequest {
	r := ask(model, id, text, tokens)
	r.Parameters = nil
	r.Inputs = append(r.Inputs, &pb.ModelInferRequest_InferInputTensor{Name: "max_tokens", Datatype: "INT32", Shape: []int64{1}})
	r.RawInputContents = append(r.RawInputContents, binary.LittleEndian.AppendUint32(nil, uint32(tokens)))
	return r
}

// text is the text_output of a response.
func text(t testing.TB, r *pb.ModelInferResponse) string {
	t.Helper()
	for i, out := range r.GetOutputs() {
		if b := r.RawOutputContents[i]; out.Name == "text_output" {
			if len(b) < 4 || int(binary.LittleEndian.Uint32(b)) != len(b)-4 {
				t.Fatalf("text is %q", b)
			}
			return string(b[4:])
		}
	}
	return ""
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	regionstest.Eventually(t, within, cond, what)
}

func wantCode(t testing.TB, err error, code codes.Code, says string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || !strings.Contains(s.Message(), says) {
		t.Errorf("%v %q, want %v %q", s.Code(), s.Message(), code, says)
	}
}

func TestHealth(t *testing.T) {
	unloaded := fast("mistral")
	unloaded.Unloaded = true
	p := newPod(t, nil, fast("llama"), unloaded)
	c, ctx := client(t, p), t.Context()
	health := grpc_health_v1.NewHealthClient(dial(t, p))
	check := func(live, ready, model bool, state grpc_health_v1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		l, errL := c.ServerLive(ctx, &pb.ServerLiveRequest{})
		r, errR := c.ServerReady(ctx, &pb.ServerReadyRequest{})
		m, errM := c.ModelReady(ctx, &pb.ModelReadyRequest{Name: "llama"})
		h, errH := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "whatever"})
		if errL != nil || errR != nil || errM != nil || errH != nil || l.Live != live || r.Ready != ready || m.Ready != model || h.Status != state {
			t.Errorf("live %v %v, ready %v %v, model %v %v, health %v %v", l, errL, r, errR, m, errM, h, errH)
		}
	}
	check(true, true, true, grpc_health_v1.HealthCheckResponse_SERVING)
	p.NotReady("llama", true)
	check(true, false, false, grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	p.Heal()
	check(true, true, true, grpc_health_v1.HealthCheckResponse_SERVING)

	_, err := c.ModelReady(ctx, &pb.ModelReadyRequest{Name: "mistral"})
	wantCode(t, err, codes.NotFound, "Request for unknown model: 'mistral' is not found")
	_, err = c.ModelReady(ctx, &pb.ModelReadyRequest{Name: "llama", Version: "3"})
	wantCode(t, err, codes.NotFound, "Request for unknown model: 'llama' version 3 is not found")
	_, err = c.ModelReady(ctx, &pb.ModelReadyRequest{Name: "llama", Version: "x"})
	wantCode(t, err, codes.InvalidArgument, "failed to get model version")
	watch, err := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	wantCode(t, err, codes.Unimplemented, "")

	p.Exiting(true)
	_, err = c.ServerLive(ctx, &pb.ServerLiveRequest{})
	wantCode(t, err, codes.Unavailable, "Server exiting")
	_, err = c.ServerReady(ctx, &pb.ServerReadyRequest{})
	wantCode(t, err, codes.Unavailable, "Server exiting")
	_, err = health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	wantCode(t, err, codes.Unavailable, "Server exiting")
	_, err = c.ModelReady(ctx, &pb.ModelReadyRequest{Name: "llama"})
	wantCode(t, err, codes.Unavailable, "Server not ready")
}

func TestDescriptions(t *testing.T) {
	queued := ensemble("trt")
	queued.QueueLimit, queued.QueueTimeout, queued.Checkpoint = 7, time.Second, "v2"
	p := newPod(t, nil, fast("llama"), queued)
	c, ctx := client(t, p), t.Context()
	server, err := c.ServerMetadata(ctx, &pb.ServerMetadataRequest{})
	if err != nil || server.Name != "triton" || server.Version != "2.73.0" || len(server.Extensions) != 13 {
		t.Errorf("%v, %v", server, err)
	}
	m, err := c.ModelMetadata(ctx, &pb.ModelMetadataRequest{Name: "llama"})
	if err != nil || m.Platform != "vllm" || m.Versions[0] != "1" || m.Inputs[0].Name != "text_input" || m.Inputs[0].Datatype != "BYTES" ||
		m.Inputs[0].Shape[0] != 1 || m.Outputs[0].Name != "text_output" || m.Outputs[0].Shape[0] != -1 {
		t.Errorf("%v, %v", m, err)
	}
	vllm, err := c.ModelConfig(ctx, &pb.ModelConfigRequest{Name: "llama"})
	if err != nil || vllm.Config.Backend != "vllm" || !vllm.Config.ModelTransactionPolicy.Decoupled || vllm.Config.GetDynamicBatching() != nil ||
		vllm.Config.Input[0].DataType != pb.DataType_TYPE_STRING || vllm.Config.Input[2].DataType != pb.DataType_TYPE_BOOL {
		t.Errorf("%v, %v", vllm, err)
	}
	trt, err := c.ModelConfig(ctx, &pb.ModelConfigRequest{Name: "trt", Version: "1"})
	if policy := trt.GetConfig().GetDynamicBatching().GetDefaultQueuePolicy(); err != nil || policy.GetMaxQueueSize() != 7 ||
		policy.GetDefaultTimeoutMicroseconds() != 1e6 || trt.Config.Parameters["model"].GetStringValue() != "v2" {
		t.Errorf("%v, %v", trt, err)
	}
	for _, name := range []string{"none", ""} {
		_, err = c.ModelMetadata(ctx, &pb.ModelMetadataRequest{Name: name})
		wantCode(t, err, codes.NotFound, "is not found")
		_, err = c.ModelConfig(ctx, &pb.ModelConfigRequest{Name: name})
		wantCode(t, err, codes.NotFound, "is not found")
	}
	if _, err := c.TraceSetting(ctx, &pb.TraceSettingRequest{}); err != nil {
		t.Error(err)
	}
	if s, err := c.LogSettings(ctx, &pb.LogSettingsRequest{}); err != nil || !s.Settings["log_info"].GetBoolParam() {
		t.Errorf("%v, %v", s, err)
	}
	if _, err := c.SystemSharedMemoryStatus(ctx, &pb.SystemSharedMemoryStatusRequest{}); err != nil {
		t.Error(err)
	}
	_, err = c.CudaSharedMemoryRegister(ctx, &pb.CudaSharedMemoryRegisterRequest{Name: "x"})
	wantCode(t, err, codes.Unimplemented, "--allow-client-shm=true")
}

func TestRepository(t *testing.T) {
	m := fast("llama")
	m.Unloaded = true
	p := newPod(t, nil, m, fast("mistral"))
	c, ctx := client(t, p), t.Context()
	index := func(ready bool) string {
		t.Helper()
		out, err := c.RepositoryIndex(ctx, &pb.RepositoryIndexRequest{Ready: ready})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, m := range out.Models {
			b.WriteString(strings.Join([]string{m.Name, m.Version, m.State, m.Reason}, ",") + ";")
		}
		return b.String()
	}
	if got := index(false); got != "llama,,,;mistral,1,READY,;" {
		t.Error(got)
	}
	if _, err := c.RepositoryModelLoad(ctx, &pb.RepositoryModelLoadRequest{ModelName: "llama"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.RepositoryModelUnload(ctx, &pb.RepositoryModelUnloadRequest{ModelName: "mistral"}); err != nil {
		t.Fatal(err)
	}
	if got := index(false); got != "llama,1,READY,;mistral,1,UNAVAILABLE,unloaded;" {
		t.Error(got)
	}
	if got := index(true); got != "llama,1,READY,;" {
		t.Error(got)
	}
	_, err := c.RepositoryModelLoad(ctx, &pb.RepositoryModelLoadRequest{ModelName: "none"})
	wantCode(t, err, codes.Internal, "failed to load 'none', failed to poll from model repository")
	_, err = c.RepositoryModelUnload(ctx, &pb.RepositoryModelUnloadRequest{RepositoryName: "x", ModelName: "llama"})
	wantCode(t, err, codes.Unimplemented, "'repository_name' specification is not supported")

	fixed := client(t, newPod(t, func(o *tritontest.Options) { o.Explicit = false }, fast("llama")))
	_, err = fixed.RepositoryModelUnload(ctx, &pb.RepositoryModelUnloadRequest{ModelName: "llama"})
	wantCode(t, err, codes.Unavailable, "explicit model load / unload is not allowed")
}

func TestModelInfer(t *testing.T) {
	p := newPod(t, nil, coupled("trt"), fast("llama"))
	c, ctx := client(t, p), t.Context()
	got, err := c.ModelInfer(ctx, askEnsemble("trt", "42", "say", 5))
	want := strings.Join(tritontest.Tokens("trt", "say", 5), "")
	if err != nil || text(t, got) != want || got.Id != "42" || got.ModelName != "trt" || got.ModelVersion != "1" {
		t.Errorf("%v, %v; want %q", got, err, want)
	}
	plain := askEnsemble("trt", "", "say", 5)
	plain.RawInputContents = nil
	plain.Inputs = plain.Inputs[:3]
	plain.Inputs[0].Contents = &pb.InferTensorContents{BytesContents: [][]byte{[]byte("say")}}
	plain.Inputs[1].Contents = &pb.InferTensorContents{BoolContents: []bool{true}}
	plain.Inputs[2].Contents = &pb.InferTensorContents{IntContents: []int32{5}}
	if got, err = c.ModelInfer(ctx, plain); err != nil || text(t, got) != want {
		t.Errorf("in contents: %v, %v; want %q", got, err, want)
	}
	if s := p.Stats("trt"); s.Completed != 2 || s.Tokens != 10 {
		t.Errorf("stats: %+v", s)
	}
	if r := p.Requests(); len(r) != 2 || r[0].Frontend != "grpc" || r[0].ID != "42" || r[0].Stream || r[0].Bytes == 0 || r[0].FirstByte.IsZero() {
		t.Errorf("requests: %+v", r)
	}
	stats, err := c.ModelStatistics(ctx, &pb.ModelStatisticsRequest{Name: "trt"})
	if err != nil || len(stats.ModelStats) != 1 || stats.ModelStats[0].InferenceCount != 2 || stats.ModelStats[0].InferenceStats.Success.Count != 2 {
		t.Errorf("statistics: %v, %v", stats, err)
	}
	_, err = c.ModelStatistics(ctx, &pb.ModelStatisticsRequest{Name: "none"})
	wantCode(t, err, codes.InvalidArgument, "requested model 'none' is not available")
}

func TestModelInferErrors(t *testing.T) {
	p := newPod(t, nil, coupled("trt"), fast("llama"))
	c, ctx := client(t, p), t.Context()
	for _, row := range []struct {
		change func(*pb.ModelInferRequest)
		code   codes.Code
		says   string
	}{
		{func(r *pb.ModelInferRequest) { r.ModelName = "llama" }, codes.Unimplemented, "ModelInfer RPC doesn't support models with decoupled transaction policy"},
		{func(r *pb.ModelInferRequest) { r.ModelName = "none" }, codes.NotFound, "Request for unknown model: 'none' is not found"},
		{func(r *pb.ModelInferRequest) { r.Inputs[0].Name = "x" }, codes.InvalidArgument, "unexpected inference input 'x' for model 'trt'"},
		{func(r *pb.ModelInferRequest) { r.Inputs[0].Datatype = "INT32" }, codes.InvalidArgument, "data-type is 'INT32', but model 'trt' expects 'BYTES'"},
		{func(r *pb.ModelInferRequest) { r.Inputs[1].Name, r.Inputs[1].Datatype = "text_input", "BYTES" }, codes.InvalidArgument, "input 'text_input' already exists"},
		{func(r *pb.ModelInferRequest) { r.Inputs = r.Inputs[:1] }, codes.InvalidArgument, "missing required input(s) ['max_tokens']"},
		{func(r *pb.ModelInferRequest) { r.RawInputContents[0] = []byte("hello") }, codes.InvalidArgument, "incomplete string data for inference input 'text_input'"},
		{func(r *pb.ModelInferRequest) { r.RawInputContents[2] = nil }, codes.InvalidArgument, "input byte size mismatch for input 'max_tokens' for model 'trt'. Expected 4, got 0"},
		{func(r *pb.ModelInferRequest) { r.RawInputContents = r.RawInputContents[:1] }, codes.InvalidArgument, "unable to find data for input tensor"},
		{func(r *pb.ModelInferRequest) { r.RawInputContents[0] = raw("\xff") }, codes.Internal, "utf-8"},
		{func(r *pb.ModelInferRequest) { r.Inputs[0].Contents = new(pb.InferTensorContents) }, codes.InvalidArgument, "must not be specified when using raw_input_contents"},
		{func(r *pb.ModelInferRequest) { r.RawInputContents[2] = make([]byte, 4) }, codes.Internal, "max_tokens must be at least 1"},
	} {
		r := askEnsemble("trt", "1", "hi", 3)
		row.change(r)
		_, err := c.ModelInfer(ctx, r)
		wantCode(t, err, row.code, row.says)
	}
	p.ErrorRate(1000)
	_, err := c.ModelInfer(ctx, askEnsemble("trt", "1", "hi", 3))
	wantCode(t, err, codes.Internal, "simulated failure")
}

func TestQueueOfACoupledModel(t *testing.T) {
	m := coupled("trt")
	m.Slots, m.QueueLimit, m.InterToken = 1, 1, time.Hour
	p := newPod(t, nil, m)
	c := client(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for i := range 2 {
		go func() {
			_, err := c.ModelInfer(ctx, askEnsemble("trt", "", "hi", 3))
			ended <- err
		}()
		eventually(t, "taken", func() bool { return p.Stats("trt").InFlight == int64(i+1) })
	}
	waits := func() bool {
		_, err := c.ModelInfer(t.Context(), askEnsemble("trt", "7", "hi", 3))
		return status.Convert(err).Message() == "[request id: 7] Exceeds maximum queue size" && status.Code(err) == codes.Unavailable
	}
	eventually(t, "refused", waits)
	cancel()
	for range 2 {
		wantCode(t, <-ended, codes.Canceled, "")
	}
	eventually(t, "canceled", func() bool { s := p.Stats("trt"); return s.InFlight == 0 && s.Undelivered == 2 })
}

// drained reads a stream to its end.
func drained(stream grpc.BidiStreamingClient[pb.ModelInferRequest, pb.ModelStreamInferResponse]) ([]*pb.ModelStreamInferResponse, error) {
	var all []*pb.ModelStreamInferResponse
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, r)
	}
}
