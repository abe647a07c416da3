package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto" //nolint:depguard // a pod's answers, made by hand

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
	"github.com/rhumb-lb/rhumb/regions/rpc"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// speaker is a forwarder that answers each message of a call with one that has the
// request's id, as a pod does.
type speaker struct{ echo }

func (s *speaker) Forward(w http.ResponseWriter, r *http.Request, req regions.Request) {
	s.mu.Lock()
	s.reqs = append(s.reqs, req)
	s.mu.Unlock()
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Trailer", "Grpc-Status, Grpc-Message")
	ctl := http.NewResponseController(w)
	_ = ctl.Flush()
	in := bufio.NewReader(r.Body)
	for {
		var prefix [5]byte
		_, err := io.ReadFull(in, prefix[:])
		if err == io.EOF {
			h.Set("Grpc-Status", "0")
			return
		}
		message := make([]byte, binary.BigEndian.Uint32(prefix[1:]))
		if err == nil {
			_, err = io.ReadFull(in, message)
		}
		if err != nil {
			h.Set("Grpc-Status", "3")
			h.Set("Grpc-Message", err.Error())
			return
		}
		var asked inferencepb.ModelInferRequest
		_ = proto.Unmarshal(message, &asked)
		infer := &inferencepb.ModelInferResponse{ModelName: asked.GetModelName(), Id: asked.GetId()}
		var answer proto.Message = &inferencepb.ServerLiveResponse{} // empty, as any may be
		switch {
		case strings.HasSuffix(r.URL.Path, "/ModelInfer"):
			answer = infer
		case strings.HasSuffix(r.URL.Path, "/ModelStreamInfer"):
			answer = &inferencepb.ModelStreamInferResponse{InferResponse: infer}
		case strings.HasSuffix(r.URL.Path, "/ModelReady"):
			answer = &inferencepb.ModelReadyResponse{Ready: true}
		}
		b, _ := proto.Marshal(answer)
		_, _ = w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...))
		_ = ctl.Flush()
	}
}

// caller is a client of Triton's by grpc-go.
func (d *door) caller(options ...grpc.DialOption) *grpc.ClientConn {
	d.tb.Helper()
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	c, err := grpc.NewClient(d.server.Listener.Addr().String(), options...)
	if err != nil {
		d.tb.Fatal(err)
	}
	d.tb.Cleanup(func() { _ = c.Close() })
	return c
}

func TestCalls(t *testing.T) {
	pods := &speaker{}
	ready := true
	d := open(t, func(o *gateway.Options) {
		o.Forward, o.Ready = pods, func() bool { return ready }
		o.Generates = func(m regions.ModelName) bool { return m == "llama" }
		o.Affinity = func(regions.ModelName) regions.Affinity { return regions.Affinity{By: "header", Name: "X-Session"} }
	})
	conn := d.caller()
	triton, ctx := inferencepb.NewGRPCInferenceServiceClient(conn), t.Context()

	// What goes to a pod.
	raw := bytes.Repeat([]byte("x"), 2<<20)
	for _, id := range []string{"small", "large"} {
		in := &inferencepb.ModelInferRequest{ModelName: "mistral", Id: id}
		if id == "large" {
			in.RawInputContents = [][]byte{raw}
		}
		out, err := triton.ModelInfer(metadata.AppendToOutgoingContext(ctx, "x-session", "s1", "rhumb-priority", "low"), in)
		if err != nil || out.GetId() != id {
			t.Errorf("%s: %v, %v", id, out, err)
		}
		want := regions.Request{Model: "mistral", URI: "/inference.GRPCInferenceService/ModelInfer", Frontend: regions.GRPC, Affinity: "s1", Class: regions.ClassLow}
		got := pods.last()
		want.Client = got.Client
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	timed, cancel := context.WithTimeout(ctx, time.Minute)
	if _, err := triton.ModelReady(timed, &inferencepb.ModelReadyRequest{Name: "llama", Version: "1"}); err != nil {
		t.Error(err)
	}
	cancel()
	if got := pods.last(); !got.Aside || got.Model != "llama" || got.MaxWait <= 50*time.Second || got.MaxWait > time.Minute {
		t.Errorf("ModelReady within a minute: %+v", got)
	}
	for name, call := range map[string]func() error{
		"ModelMetadata": func() error {
			_, err := triton.ModelMetadata(ctx, &inferencepb.ModelMetadataRequest{Name: "llama"})
			return err
		},
		"ModelConfig": func() error {
			_, err := triton.ModelConfig(ctx, &inferencepb.ModelConfigRequest{Name: "llama"})
			return err
		},
		"ModelStatistics": func() error {
			_, err := triton.ModelStatistics(ctx, &inferencepb.ModelStatisticsRequest{Name: "llama"})
			return err
		},
	} {
		if err := call(); err != nil || !pods.last().Aside || !strings.HasSuffix(pods.last().URI, name) {
			t.Errorf("%s: %v, %+v", name, err, pods.last())
		}
	}

	// The agent's own.
	for _, want := range []bool{true, false} {
		ready = want
		live, err := triton.ServerLive(ctx, &inferencepb.ServerLiveRequest{})
		if err != nil || !live.GetLive() {
			t.Errorf("ServerLive: %v, %v", live, err)
		}
		is, err := triton.ServerReady(ctx, &inferencepb.ServerReadyRequest{})
		if err != nil || is.GetReady() != want {
			t.Errorf("ServerReady: %v, %v", is, err)
		}
		check, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "any"})
		if err != nil || (check.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING) != want {
			t.Errorf("Check: %v, %v", check, err)
		}
	}
	meta, err := triton.ServerMetadata(ctx, &inferencepb.ServerMetadataRequest{})
	if err != nil || meta.GetName() != "rhumb" || meta.GetVersion() != "1.2.3" || len(meta.GetExtensions()) != 5 {
		t.Errorf("ServerMetadata: %v, %v", meta, err)
	}
}

func TestStreamOfCalls(t *testing.T) {
	pods := &speaker{}
	d := open(t, func(o *gateway.Options) {
		o.Forward, o.Generates = pods, func(m regions.ModelName) bool { return m == "llama" }
	})
	triton := inferencepb.NewGRPCInferenceServiceClient(d.caller())
	stream, err := triton.ModelStreamInfer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Each answer comes before the next question is asked.
	for i := range 20 {
		id := fmt.Sprint(i)
		if err := stream.Send(&inferencepb.ModelInferRequest{ModelName: "llama", Id: id}); err != nil {
			t.Fatal(err)
		}
		out, err := stream.Recv()
		if err != nil || out.GetInferResponse().GetId() != id {
			t.Fatalf("%s: %v, %v", id, out, err)
		}
	}
	if got := pods.last(); got.Model != "llama" || !got.Streams || !got.Replayable || got.Frontend != regions.GRPC {
		t.Errorf("%+v", got)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF { //nolint:errorlint // as it is
		t.Errorf("the end: %v", err)
	}

	// A later message for another model goes no further.
	stream, err = triton.ModelStreamInfer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&inferencepb.ModelInferRequest{ModelName: "mistral"}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&inferencepb.ModelInferRequest{ModelName: "llama"}); err != nil {
		t.Fatal(err)
	}
	if out, err := stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "the model that its first message names") {
		t.Errorf("another model: %v, %v", out, err)
	}
	if pods.last().Replayable {
		t.Error("a model that does not generate is replayable")
	}
}

func TestCallsRefused(t *testing.T) {
	pods := &speaker{}
	d := open(t, func(o *gateway.Options) { o.Forward = pods })
	conn := d.caller()
	triton, ctx := inferencepb.NewGRPCInferenceServiceClient(conn), t.Context()
	infer := func(ctx context.Context, in *inferencepb.ModelInferRequest, options ...grpc.CallOption) error {
		_, err := triton.ModelInfer(ctx, in, options...)
		return err
	}
	long := strings.Repeat("m", 70<<10)
	for name, tt := range map[string]struct {
		err  error
		code codes.Code
		want string
	}{
		"no model":   {infer(ctx, &inferencepb.ModelInferRequest{Id: "1"}), codes.InvalidArgument, "names no model"},
		"long":       {infer(ctx, &inferencepb.ModelInferRequest{ModelName: long}), codes.InvalidArgument, "at most 255 bytes"},
		"compressed": {infer(ctx, &inferencepb.ModelInferRequest{ModelName: "llama"}, grpc.UseCompressor(gzip.Name)), codes.Unimplemented, "without grpc-encoding"},
		"class":      {infer(metadata.AppendToOutgoingContext(ctx, "rhumb-priority", "urgent"), &inferencepb.ModelInferRequest{ModelName: "llama"}), codes.InvalidArgument, "Rhumb-Priority"},
		"all models": {func() error {
			_, err := triton.ModelStatistics(ctx, &inferencepb.ModelStatisticsRequest{})
			return err
		}(), codes.InvalidArgument, "names no model"},
		"load": {func() error {
			_, err := triton.RepositoryModelLoad(ctx, &inferencepb.RepositoryModelLoadRequest{ModelName: "llama"})
			return err
		}(), codes.Unimplemented, "unknown method"},
		"memory": {func() error {
			_, err := triton.SystemSharedMemoryStatus(ctx, &inferencepb.SystemSharedMemoryStatusRequest{})
			return err
		}(), codes.Unimplemented, "unknown method"},
		"HTTP's path": {conn.Invoke(ctx, "/v2/models/llama/generate", &inferencepb.ModelInferRequest{}, &inferencepb.ModelInferResponse{}), codes.Unimplemented, "unknown method"},
		"OpenAI's":    {conn.Invoke(ctx, "/v1/completions", &inferencepb.ModelInferRequest{}, &inferencepb.ModelInferResponse{}), codes.Unimplemented, "unknown method"},
		"odd path":    {conn.Invoke(ctx, "/a/../b", &inferencepb.ModelInferRequest{}, &inferencepb.ModelInferResponse{}), codes.InvalidArgument, "simplest form"},
	} {
		if status.Code(tt.err) != tt.code || !strings.Contains(fmt.Sprint(tt.err), tt.want) {
			t.Errorf("%s: %v, want %v, %s", name, tt.err, tt.code, tt.want)
		}
	}
	if n := len(pods.reqs); n != 0 {
		t.Errorf("%d were forwarded", n)
	}
}

// TestSilentCalls: a call that does not say for whom it is ends, a stream later than
// others, and when its client says that it would no longer wait.
func TestSilentCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		door := listenInMemory()
		way := &http.Transport{DialContext: door.dial, Protocols: new(http.Protocols)}
		way.Protocols.SetUnencryptedHTTP2(true)
		server := gateway.NewServer(gateway.New(gateway.DefaultOptions(&speaker{})), gateway.DefaultHeadLimits(), slog.New(slog.DiscardHandler))
		var g sync.WaitGroup
		g.Go(func() { _ = server.Serve(door) })
		for _, tt := range []struct {
			method, timeout string
			want            time.Duration
		}{
			{"ModelInfer", "", 30 * time.Second}, {"ModelInfer", "5S", 5 * time.Second}, {"ModelInfer", "1H", 30 * time.Second},
			{"ModelStreamInfer", "", 10 * time.Minute}, {"ModelStreamInfer", "90S", 90 * time.Second},
		} {
			in, out := io.Pipe()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gateway/inference.GRPCInferenceService/"+tt.method, in)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/grpc")
			if tt.timeout != "" {
				r.Header.Set("Grpc-Timeout", tt.timeout)
			}
			began := time.Now()
			res, err := way.RoundTrip(r)
			if err != nil || res.Header.Get("Grpc-Status") != "4" || time.Since(began) != tt.want {
				t.Errorf("%s %s: %+v, %v after %v, want grpc-status 4 after %v", tt.method, tt.timeout, res, err, time.Since(began), tt.want)
			}
			if err == nil {
				_ = res.Body.Close()
			}
			_ = out.Close()
		}
		way.CloseIdleConnections()
		_ = server.Close()
		g.Wait()
		wait(time.Second)
	})
}

// TestCallsByHand: what no library would send, and what it would not show.
func TestCallsByHand(t *testing.T) {
	d := open(t, func(o *gateway.Options) { o.Forward = &speaker{} })
	way := &http.Transport{Protocols: new(http.Protocols)}
	way.Protocols.SetUnencryptedHTTP2(true)
	defer way.CloseIdleConnections()
	const infer = "/inference.GRPCInferenceService/ModelInfer"
	named := []byte{0, 0, 0, 0, 7, 1<<3 | 2, 5, 'l', 'l', 'a', 'm', 'a'}
	behind := append([]byte{0, 0, 1, 0x11, 0x77, 2<<3 | 2, 0xf0, 0xa2, 4}, bytes.Repeat([]byte("x"), 70000)...)
	for name, tt := range map[string]struct {
		path, kind, timeout string
		body                []byte
		http                int
		grpc, text          string
	}{
		"fine":             {infer, "application/grpc+proto", "1S", named, 200, "0", ""},
		"no message":       {infer, "application/grpc", "", nil, 200, "3", "ends before its first message"},
		"half a message":   {infer, "application/grpc", "", named[:8], 200, "3", "ends before its first message"},
		"an empty message": {infer, "application/grpc", "", named[:5:5], 200, "3", ""},
		"odd timeout":      {infer, "application/grpc", "5s", named, 200, "3", "grpc-timeout"},
		"far behind":       {infer, "application/grpc", "", behind, 200, "3", "64 KiB"},
		"web":              {infer, "application/grpc-web", "", named, 415, "", ""},
		"JSON":             {infer, "application/json", "", named, 415, "", ""},
		"no such service":  {"/x.Y/Z", "application/grpc", "", named, 200, "12", "unknown method"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.server.URL+tt.path, bytes.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", tt.kind)
		if tt.timeout != "" {
			r.Header.Set("Grpc-Timeout", tt.timeout)
		}
		res, err := way.RoundTrip(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		// A refusal has all in its head.
		code, message := res.Header.Get("Grpc-Status"), res.Header.Get("Grpc-Message")
		if tt.grpc == "0" {
			code = res.Trailer.Get("Grpc-Status")
		}
		if err != nil || res.StatusCode != tt.http || code != tt.grpc || !strings.Contains(message, tt.text) || tt.grpc > "0" && len(text) > 0 {
			t.Errorf("%s: %d %q, grpc-status %q %q, %v", name, res.StatusCode, text, code, message, err)
		}
	}
}

// TestKeysOfCalls: who has no key is told one thing, whatever it calls, but for health.
func TestKeysOfCalls(t *testing.T) {
	r, tokens := ring(t, keyring.Key{ID: "one", Models: []regions.ModelName{"llama"}}, keyring.Key{ID: "slow", Rate: 0.001, Burst: 1, Class: regions.ClassHigh})
	pods := &speaker{}
	d := open(t, func(o *gateway.Options) { o.Forward, o.Policy.Keys = pods, r })
	conn := d.caller()
	triton := inferencepb.NewGRPCInferenceServiceClient(conn)
	infer := func(model string, fields ...string) (codes.Code, metadata.MD, string) {
		var head, trailer metadata.MD
		_, err := triton.ModelInfer(metadata.AppendToOutgoingContext(t.Context(), fields...), &inferencepb.ModelInferRequest{ModelName: model}, grpc.Header(&head), grpc.Trailer(&trailer))
		said := metadata.Join(head, trailer)
		said.Delete("date")
		return status.Code(err), said, fmt.Sprint(err)
	}
	var first string
	for _, key := range [][]string{nil, {"authorization", "Bearer rhumb_one_x"}, {"x-api-key", "rhumb_two_x"}, {"authorization", "Basic x"}, {"authorization", "Bearer " + tokens[0], "x-api-key", tokens[1]}} {
		for _, model := range []string{"llama", "nobodys", ""} {
			code, said, text := infer(model, key...)
			if all := fmt.Sprint(said, text); first == "" {
				first = all
			} else if code != codes.Unauthenticated || all != first {
				t.Errorf("%v, %q: %v %s, elsewhere %s", key, model, code, all, first)
			}
		}
	}
	for _, method := range []string{"/inference.GRPCInferenceService/RepositoryIndex", "/inference.GRPCInferenceService/ServerMetadata", "/x.Y/Z"} {
		if err := conn.Invoke(t.Context(), method, &inferencepb.ServerLiveRequest{}, &inferencepb.ServerLiveResponse{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s without a key: %v", method, err)
		}
	}
	if _, err := triton.ServerReady(t.Context(), &inferencepb.ServerReadyRequest{}); err != nil {
		t.Errorf("health needs a key: %v", err)
	}
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("health needs a key: %v", err)
	}
	for _, tt := range []struct {
		model, field, token string
		want                codes.Code
	}{
		{"llama", "authorization", "Bearer " + tokens[0], codes.OK}, {"llama", "x-api-key", tokens[0], codes.OK},
		{"mistral", "x-api-key", tokens[0], codes.PermissionDenied}, {"nobodys", "x-api-key", tokens[0], codes.PermissionDenied},
		{"mistral", "x-api-key", tokens[1], codes.OK}, {"mistral", "x-api-key", tokens[1], codes.ResourceExhausted},
	} {
		if code, said, text := infer(tt.model, tt.field, tt.token); code != tt.want {
			t.Errorf("%s: %v %s %v, want %v", tt.model, code, text, said, tt.want)
		}
	}
	if got := pods.last(); got.Class != regions.ClassHigh || got.Key == "" {
		t.Errorf("%+v", got)
	}
	d.server.Close()
	for _, token := range tokens {
		if strings.Contains(d.log.String(), token[8:]) {
			t.Error("a secret is in the log")
		}
	}
}

func TestCallsAreCounted(t *testing.T) {
	d := open(t, func(o *gateway.Options) { o.Forward = &speaker{} })
	triton := inferencepb.NewGRPCInferenceServiceClient(d.caller())
	for _, model := range []string{"llama", "llama", "made-up", ""} {
		_, _ = triton.ModelInfer(t.Context(), &inferencepb.ModelInferRequest{ModelName: model})
	}
	_, _ = triton.ServerLive(t.Context(), &inferencepb.ServerLiveRequest{})
	_, _ = triton.LogSettings(t.Context(), &inferencepb.LogSettingsRequest{})
	d.server.Close()
	want := `
# HELP rhumb_gateway_grpc_calls_total Calls of gRPC by route, model and status, which is none for those that were cut; all of them are in rhumb_gateway_requests_total, too.
# TYPE rhumb_gateway_grpc_calls_total counter
rhumb_gateway_grpc_calls_total{code="INVALID_ARGUMENT",model="",route="model_infer"} 1
rhumb_gateway_grpc_calls_total{code="OK",model="",route="health"} 1
rhumb_gateway_grpc_calls_total{code="OK",model="_other",route="model_infer"} 1
rhumb_gateway_grpc_calls_total{code="OK",model="llama",route="model_infer"} 2
rhumb_gateway_grpc_calls_total{code="UNIMPLEMENTED",model="",route="none"} 1
`
	if err := testutil.GatherAndCompare(d.reg, strings.NewReader(want), "rhumb_gateway_grpc_calls_total"); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"route=model_infer model=llama status=200", "grpc_status=OK", "grpc_status=UNIMPLEMENTED"} {
		if !strings.Contains(d.log.String(), want) {
			t.Errorf("%s is missing in %s", want, d.log)
		}
	}
	if rpc.Code(99).String() != "other" {
		t.Error("a pod can make labels")
	}
}
