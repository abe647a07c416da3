package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// TestAStreamThatRestsHasNoSlot: clients keep streams for hours on which they ask now and
// then. As many as the pods have slots are silent, and everybody is served; then they ask
// again.
func TestAStreamThatRestsHasNoSlot(t *testing.T) {
	pods, addrs := callPods(t, 2)
	g := newRig(t, resuming(t), addrs...) // 8 slots each
	g.learn(len(pods))
	var all []conversation
	for range 16 {
		all = append(all, g.converse(t))
	}
	for turn := range 3 {
		for i, c := range all {
			prompt := fmt.Sprint(i, " and ", turn)
			if err := c.Send(asking("", prompt, 5)); err != nil {
				t.Fatal(err)
			}
			heard, err := hear(c, "")
			if err != nil || heard[""].text.String() != written(prompt, 5) {
				t.Fatalf("%s: %q, %v", prompt, heard[""].text.String(), err)
			}
		}
		regionstest.Eventually(t, patience, func() bool { return len(g.pool.Loads()) == 0 }, "no pod has any of them")
		other := g.converse(t)
		if err := errors.Join(other.Send(asking("other", "x", 2)), other.CloseSend()); err != nil {
			t.Fatal(err)
		}
		if _, err := hear(other, "other"); err != nil {
			t.Error(err)
		}
		if _, err := other.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	for _, c := range all {
		if err := c.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	g.ended(regions.EndServed, 16+3)
}

// TestARequestWithoutAPod ends in-band, and the stream goes on.
func TestARequestWithoutAPod(t *testing.T) {
	pods, addrs := callPods(t, 1)
	g := newRig(t, func(o *proxy.Options) { resuming(t)(o); o.Admit.MaxWait = 100 * time.Millisecond }, addrs...)
	g.learn(len(pods))
	c := g.converse(t)
	for _, st := range []regions.PodState{regions.PodReady, regions.PodGone, regions.PodReady} {
		g.pool.SetState(time.Now(), "a", llama, st)
		if err := c.Send(asking("x", "hi", 3)); err != nil {
			t.Fatal(err)
		}
		heard, err := hear(c, "x")
		if err != nil {
			t.Fatalf("%v: %v", st, err)
		}
		if got := heard["x"]; st == regions.PodReady && (got.err != "" || got.text.String() != written("hi", 3)) ||
			st == regions.PodGone && !strings.Contains(got.err, "no pod can take a request") {
			t.Errorf("%v: %q, %q", st, got.text.String(), got.err)
		}
		regionstest.Eventually(t, patience, func() bool { return len(g.pool.Loads()) == 0 }, "the stream rests")
	}
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// talker is a pod that answers each request at once, and notes them.
type talker struct {
	inferencepb.UnimplementedGRPCInferenceServiceServer
	refuses  atomic.Bool
	requests atomic.Int32
}

func (p *talker) ModelStreamInfer(s grpc.BidiStreamingServer[inferencepb.ModelInferRequest, inferencepb.ModelStreamInferResponse]) error {
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
		text := func(name, value string) *inferencepb.ModelInferResponse_InferOutputTensor {
			return &inferencepb.ModelInferResponse_InferOutputTensor{
				Name: name, Datatype: "BYTES", Shape: []int64{1}, Contents: &inferencepb.InferTensorContents{BytesContents: [][]byte{[]byte(value)}},
			}
		}
		if err := s.Send(&inferencepb.ModelStreamInferResponse{InferResponse: &inferencepb.ModelInferResponse{
			ModelName: "llama", Id: r.GetId(), Outputs: []*inferencepb.ModelInferResponse_InferOutputTensor{text("text_output", "so"), text("finish_reason", "stop")},
			Parameters: map[string]*inferencepb.InferParameter{"triton_final_response": {ParameterChoice: &inferencepb.InferParameter_BoolParam{BoolParam: true}}},
		}}); err != nil {
			return err
		}
	}
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

// asks sends a request and receives its answer.
func asks(t *testing.T, c conversation, r *inferencepb.ModelInferRequest) {
	t.Helper()
	if err := c.Send(r); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Recv(); err != nil || m.GetErrorMessage() != "" {
		t.Fatalf("%v, %v", m, err)
	}
}

// TestALargeRequestAfterARest can't be followed, so that nobody but the stream itself can
// be told that no pod serves it.
func TestALargeRequestAfterARest(t *testing.T) {
	for _, bound := range []int{1024, 0} {
		for _, refuses := range []bool{false, true} {
			p := &talker{}
			g := newRig(t, func(o *proxy.Options) {
				resuming(t)(o)
				o.Admit.MaxWait, o.Admit.Bound = 100*time.Millisecond, bound
			}, p.start(t))
			c := g.converse(t)
			asks(t, c, asking("small", "hi", 3))
			regionstest.Eventually(t, patience, func() bool { return len(g.pool.Loads()) == 0 }, "the stream rests")
			if p.refuses.Store(refuses); !refuses {
				g.pool.SetState(time.Now(), "a", llama, regions.PodGone)
			}
			if err := c.Send(asking("large", strings.Repeat("x", 2<<20), 3)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Recv(); status.Code(err) != codes.Unavailable {
				t.Errorf("bound %d, refuses %v: %v", bound, refuses, err)
			}
		}
	}
}

// TestASequenceStaysOnItsPod between its requests.
func TestASequenceStaysOnItsPod(t *testing.T) {
	all := []*talker{{}, {}, {}}
	var addrs []string
	for _, p := range all {
		addrs = append(addrs, p.start(t))
	}
	g := newRig(t, resuming(t), addrs...)
	c := g.converse(t)
	for i := range 6 {
		r := asking(fmt.Sprint(i), "hi", 3)
		r.Parameters["sequence_id"] = &inferencepb.InferParameter{ParameterChoice: &inferencepb.InferParameter_Int64Param{Int64Param: 42}}
		asks(t, c, r)
		if n := len(g.pool.Loads()); n != 1 {
			t.Errorf("after request %d it is on %d pods", i, n)
		}
	}
	for _, p := range all {
		if n := p.requests.Load(); n != 0 && n != 6 {
			t.Errorf("a pod was asked %d of 6", n)
		}
	}
}

// TestAStreamMayEndAtItsRest: its time is over while its pod is let go.
func TestAStreamMayEndAtItsRest(t *testing.T) {
	g := newRig(t, func(o *proxy.Options) {
		resuming(t)(o)
		o.Limits.Total = 20 * time.Millisecond
	}, new(talker).start(t))
	var all sync.WaitGroup
	for range 8 {
		client := g.caller(t)
		all.Go(func() {
			for range 40 {
				c, err := client.ModelStreamInfer(t.Context())
				for err == nil {
					if err = c.Send(asking("x", "hi", 3)); err == nil {
						_, err = c.Recv()
					}
				}
				if errors.Is(err, io.EOF) { // of Send
					_, err = c.Recv()
				}
				if status.Code(err) != codes.DeadlineExceeded {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
