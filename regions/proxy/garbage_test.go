package proxy_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"

	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// talker is a pod that answers each request at once, and notes them.
type talker struct {
	inferencepb.UnimplementedGRPCInferenceServiceServer
	refuses  atomic.Bool
	requests atomic.Int32
	// hears answers a request instead, unless it gives nil; it is called beside others.
	hears func(*inferencepb.ModelInferRequest) *inferencepb.ModelStreamInferResponse
}

func (p *talker) ModelStreamInfer(s grpc.BidiStreamingServer[inferencepb.ModelInferRequest, inferencepb.ModelStreamInferResponse]) error {
	var answers sync.WaitGroup
	defer answers.Wait()
	var mu sync.Mutex
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p.requests.Add(1)
		if p.refuses.Load() {
			return status.Error(codes.Unavailable, "not now")
		}
		answers.Go(func() {
			m := reply(r.GetId())
			if p.hears != nil {
				if own := p.hears(r); own != nil {
					m = own
				}
			}
			mu.Lock()
			defer mu.Unlock()
			_ = s.Send(m) // who does not get it says so
		})
	}
}

// reply is a whole answer.
func reply(id string) *inferencepb.ModelStreamInferResponse {
	text := func(name, value string) *inferencepb.ModelInferResponse_InferOutputTensor {
		return &inferencepb.ModelInferResponse_InferOutputTensor{
			Name: name, Datatype: "BYTES", Shape: []int64{1}, Contents: &inferencepb.InferTensorContents{BytesContents: [][]byte{[]byte(value)}},
		}
	}
	return &inferencepb.ModelStreamInferResponse{InferResponse: &inferencepb.ModelInferResponse{
		ModelName: "llama", Id: id, Outputs: []*inferencepb.ModelInferResponse_InferOutputTensor{text("text_output", "so"), text("finish_reason", "stop")},
		Parameters: map[string]*inferencepb.InferParameter{"triton_final_response": {ParameterChoice: &inferencepb.InferParameter_BoolParam{BoolParam: true}}},
	}}
}

// start serves it until the test ends.
func (p *talker) start(t *testing.T) string {
	t.Helper()
	l := listen(t)
	server := grpc.NewServer()
	inferencepb.RegisterGRPCInferenceServiceServer(server, p)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return l.Addr().String()
}

func marshal(m *inferencepb.ModelInferRequest) ([]byte, error) {
	b, err := encoding.GetCodecV2("proto").Marshal(m)
	return b.Materialize(), err
}

// TestGarbageIsTheClients: a pod ends a stream on which something comes that is no message,
// and is not blamed.
func TestGarbageIsTheClients(t *testing.T) {
	for _, c := range []struct {
		name   string
		tokens int64 // of a request before
		rests  bool
	}{{"at first", 0, false}, {"beside another", 1000, false}, {"after a rest", 1, true}} {
		t.Run(c.name, func(t *testing.T) {
			pods, addrs := callPods(t, 2)
			g := newRig(t, resuming(t), addrs...)
			g.learn(len(pods))
			for range 6 {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				s, err := g.conn(t).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
					inferencepb.GRPCInferenceService_ModelStreamInfer_FullMethodName, grpc.ForceCodec(regionstest.BytesCodec{}))
				if err != nil {
					t.Fatal(err)
				}
				var m []byte
				if c.tokens > 0 {
					first, err := marshal(asking("x", "hi", c.tokens))
					if err := errors.Join(err, s.SendMsg(&first), s.RecvMsg(&m)); err != nil {
						t.Fatal(err)
					}
				}
				if c.rests {
					regionstest.Eventually(t, patience, func() bool { return len(g.pool.Loads()) == 0 }, "the stream rests")
				}
				bad := []byte("\xff\xff\xff\xffgarbage")
				for err = s.SendMsg(&bad); err == nil; {
					err = s.RecvMsg(&m)
				}
				if code := status.Code(err); code != codes.Internal {
					t.Errorf("it ends with %v", err)
				}
				cancel()
			}
			for _, saw := range g.saw() {
				if !strings.HasSuffix(saw, ":served") {
					t.Errorf("seen of a pod: %s", saw)
				}
			}
			if n := g.blamed(); n > 0 {
				t.Errorf("blamed %d times", n)
			}
		})
	}
}
