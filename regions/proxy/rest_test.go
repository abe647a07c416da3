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
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
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

// TestAPodThatTakesNoMore finishes what it has; what it refuses beside that goes elsewhere.
func TestAPodThatTakesNoMore(t *testing.T) {
	for _, closes := range []bool{false, true} {
		t.Run(fmt.Sprintf("half closed %v", closes), func(t *testing.T) { takesNoMore(t, closes) })
	}
}

func takesNoMore(t *testing.T, closes bool) {
	var last atomic.Pointer[talker]
	finish := make(chan struct{})
	all := []*talker{{}, {}}
	var addrs []string
	for _, p := range all {
		p.hears = func(r *inferencepb.ModelInferRequest) *inferencepb.ModelStreamInferResponse {
			switch {
			case r.GetId() == "long":
				last.Store(p)
				<-finish
			case r.GetId() == "late" && last.Load() == p:
				return &inferencepb.ModelStreamInferResponse{
					ErrorMessage: "GRPC server is shutting down and has stopped accepting new requests.", InferResponse: &inferencepb.ModelInferResponse{Id: "late"},
				}
			}
			return nil
		}
		addrs = append(addrs, p.start(t))
	}
	g := newRig(t, resuming(t), addrs...)
	c := g.converse(t)
	for _, id := range []string{"long", "late"} {
		if err := c.Send(asking(id, "hi", 3)); err != nil {
			t.Fatal(err)
		}
		regionstest.Eventually(t, patience, func() bool { return last.Load() != nil }, "a pod has the first")
	}
	regionstest.Eventually(t, patience, func() bool { return len(g.metric("rhumb_proxy_told_errors_total")) > 0 }, "it refuses the second")
	if closes {
		if err := c.CloseSend(); err != nil {
			t.Fatal(err)
		}
	}
	close(finish)
	for _, id := range []string{"long", "late"} {
		if m, err := c.Recv(); err != nil || m.GetErrorMessage() != "" || m.GetInferResponse().GetId() != id {
			t.Fatalf("%s: %v, %v", id, m, err)
		}
	}
	if closes {
		if _, err := c.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	if a, b := all[0].requests.Load(), all[1].requests.Load(); a+b != 3 || a == 0 || b == 0 {
		t.Errorf("the pods were asked %d and %d times", a, b)
	}
	regionstest.Eventually(t, patience, func() bool { return len(g.pool.Loads()) == 0 }, "all slots are given back")
}

// TestAStreamThatRestsEnds when its client has been silent for too long, and when the
// gateway stops.
func TestAStreamThatRestsEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		idle time.Duration
		code codes.Code
		says string
	}{
		{"silent", 200 * time.Millisecond, codes.DeadlineExceeded, "no request for too long"},
		{"stopping", patience, codes.Unavailable, "the gateway stops"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, func(o *proxy.Options) {
				resuming(t)(o)
				o.Limits.Idle = c.idle
			}, new(talker).start(t))
			x := g.converse(t)
			asks(t, x, asking("x", "hi", 3))
			if c.idle == patience {
				g.proxy.Dismiss()
			}
			if _, err := x.Recv(); status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Error(err)
			}
			g.ended(regions.EndServed, 1)
		})
	}
}

// TestADeadPodAtTheNextRequest: of the request nothing has begun, and of two pods the other
// answers it; of one it gets an error of its own.
func TestADeadPodAtTheNextRequest(t *testing.T) {
	for _, others := range []int{1, 0} {
		pods, addrs := callPods(t, 1+others)
		g := newRig(t, func(o *proxy.Options) { resuming(t)(o); o.Admit.MaxWait = 100 * time.Millisecond }, addrs...)
		g.learn(len(pods))
		c := g.converse(t)
		for turn := range 4 {
			if turn == 1 {
				pods[0].Crash()
			}
			if err := c.Send(asking("x", "hi", 3)); err != nil {
				t.Fatal(err)
			}
			heard, err := hear(c, "x")
			if err != nil {
				t.Fatalf("%d others, turn %d: %v", others, turn, err)
			}
			if got := heard["x"]; (got.err == "") != (turn == 0 || others > 0) || strings.Contains(got.err, "interrupted") {
				t.Errorf("%d others, turn %d: %q, %q", others, turn, got.text.String(), got.err)
			}
		}
	}
}
