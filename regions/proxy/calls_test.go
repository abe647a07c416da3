package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

type conversation = grpc.BidiStreamingClient[inferencepb.ModelInferRequest, inferencepb.ModelStreamInferResponse]

// converse opens a stream of calls.
func (g *rig) converse(t *testing.T) conversation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	c, err := g.caller(t).ModelStreamInfer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// told is what one request of a stream was answered.
type told struct {
	text  strings.Builder
	parts int
	ended bool
	err   string
}

// hear reads responses until each of the requests has ended, and gives them by id.
func hear(c conversation, ids ...string) (map[string]*told, error) {
	all := map[string]*told{}
	for _, id := range ids {
		all[id] = &told{}
	}
	for left := len(ids); left > 0; {
		m, err := c.Recv()
		if err != nil {
			return all, err
		}
		one := all[m.GetInferResponse().GetId()]
		if one == nil || one.ended {
			return all, fmt.Errorf("a response out of turn: %v", m)
		}
		one.add(m)
		if one.ended {
			left--
		}
	}
	return all, nil
}

func (o *told) add(m *inferencepb.ModelStreamInferResponse) {
	o.parts++
	r := m.GetInferResponse()
	for i, out := range r.GetOutputs() {
		if out.GetName() != "text_output" {
			continue
		}
		if raw := r.GetRawOutputContents(); len(raw) > 0 {
			o.text.Write(raw[i][4:])
		} else {
			o.text.Write(out.GetContents().GetBytesContents()[0])
		}
	}
	o.err = m.GetErrorMessage()
	o.ended = o.err != "" || r.GetParameters()["triton_final_response"].GetBoolParam()
}

// asking is a generation with a prompt of its own.
func asking(id, prompt string, tokens int64) *inferencepb.ModelInferRequest {
	r := generation(id, tokens)
	r.Inputs[0].Contents.BytesContents[0] = []byte(prompt)
	return r
}

// written is what a pod writes without a crash.
func written(prompt string, tokens int) string {
	return strings.Join(tritontest.Tokens("llama", prompt, tokens), "")
}

// TestCrashesAreNotSeenByCalls: pods crash under streams of gRPC, some with two requests at
// once, and every client gets the text that no crash would have changed.
func TestCrashesAreNotSeenByCalls(t *testing.T) {
	pods, addrs := callPods(t, 4)
	g := newRig(t, resuming(t), addrs...)
	g.learn(len(pods))
	const streams, tokens = 24, 80
	var resumed, begun, exposed atomic.Int64
	var all sync.WaitGroup
	for i := range streams {
		c := g.converse(t)
		all.Go(func() {
			prompt, ids := fmt.Sprintf("number %d", i), []string{"one", "two"}[:1+i%2]
			for _, id := range ids {
				if err := c.Send(asking(id, prompt+id, tokens)); err != nil {
					t.Error(err)
				}
			}
			if i%3 == 0 {
				_ = c.CloseSend()
			}
			if h, err := c.Header(); err == nil && slices.ContainsFunc(h.Get(proxy.PodHeader), func(pod string) bool { return pod < "c" }) {
				exposed.Add(1)
			}
			begun.Add(1)
			heard, err := hear(c, ids...)
			if err != nil {
				t.Error(err)
			}
			for id, got := range heard {
				if want := written(prompt+id, tokens); got.text.String() != want || got.err != "" {
					t.Errorf("%d %s: got\n%q %s, want\n%q", i, id, got.text.String(), got.err, want)
				}
			}
			_ = c.CloseSend()
			if m, err := c.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last response: %v, %v", m, err)
			}
			if len(c.Trailer().Get(proxy.ResumedHeader)) > 0 {
				resumed.Add(1)
			}
		})
	}
	regionstest.Eventually(t, patience, func() bool { return exposed.Load() >= 6 }, "the first pods stream")
	pods[0].Crash()
	regionstest.Eventually(t, patience, func() bool {
		n := g.metric("rhumb_proxy_resumes_total")
		return len(n) > 0 && n[0] >= 3 && begun.Load() == streams // what is lost twice before it begins is given up
	}, "some go on, and others are about to")
	pods[1].Crash()
	all.Wait()
	t.Logf("%d of %d streams went on at another pod", resumed.Load(), streams)
	if resumed.Load() == 0 {
		t.Error("nothing was resumed, so that nothing is shown")
	}
	g.ended(regions.EndServed, streams)
}

// TestAnIdleStreamMoves: a pod that is lost between two requests of a stream is not seen.
func TestAnIdleStreamMoves(t *testing.T) {
	pods, addrs := callPods(t, 2)
	g := newRig(t, resuming(t), addrs...)
	g.learn(len(pods))
	c := g.converse(t)
	for i := range 2 {
		prompt := fmt.Sprint("turn ", i)
		if err := c.Send(asking("same", prompt, 5)); err != nil {
			t.Fatal(err)
		}
		heard, err := hear(c, "same")
		if err != nil || heard["same"].text.String() != written(prompt, 5) {
			t.Fatalf("turn %d: %q, %v", i, heard["same"].text.String(), err)
		}
		if i == 0 {
			h, _ := c.Header()
			pods[h.Get(proxy.PodHeader)[0][0]-'a'].Crash()
		}
	}
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	g.ended(regions.EndServed, 1)
}

// TestACallThatCannotGoOn: it is told in-band which requests have failed, and why the
// stream ends.
func TestACallThatCannotGoOn(t *testing.T) {
	pods, addrs := callPods(t, 2)
	g := newRig(t, resuming(t), addrs...)
	g.learn(len(pods))
	c := g.converse(t)
	r := generation("seeded", 10_000)
	r.Parameters["seed"] = &inferencepb.InferParameter{ParameterChoice: &inferencepb.InferParameter_Int64Param{Int64Param: 7}}
	if err := c.Send(r); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Recv(); err != nil {
		t.Fatal(err)
	}
	h, _ := c.Header()
	pods[h.Get(proxy.PodHeader)[0][0]-'a'].Crash()
	heard, err := hear(c, "seeded")
	if err != nil || !strings.Contains(heard["seeded"].err, "stream_interrupted") {
		t.Errorf("it ended with %+v, %v", heard["seeded"], err)
	}
	if _, err := c.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stream_interrupted") {
		t.Errorf("the stream ended with %v", err)
	}
	g.ended(regions.EndPodLost, 1)
}

// TestAStreamTakesTheSlotsOfItsRequests: whatever a client asks for at once, a pod has no
// more of it than it has slots.
func TestAStreamTakesTheSlotsOfItsRequests(t *testing.T) {
	pods, addrs := callPods(t, 1)
	g := newRig(t, resuming(t), addrs...) // 8 slots
	g.learn(1)
	c := g.converse(t)
	var ids []string
	for i := range 40 {
		ids = append(ids, fmt.Sprint(i))
	}
	var sends sync.WaitGroup
	sends.Go(func() {
		for _, id := range ids {
			if err := c.Send(asking(id, "p"+id, 10)); err != nil {
				t.Error(err)
			}
		}
		_ = c.CloseSend()
	})
	most, heard := 0, map[string]*told{}
	for _, id := range ids {
		heard[id] = &told{}
	}
	for left := len(ids); left > 0; {
		m, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, load := range g.pool.Loads() {
			most = max(most, int(load.InFlight))
		}
		one := heard[m.GetInferResponse().GetId()]
		if one.add(m); one.ended {
			left--
		}
	}
	sends.Wait()
	for id, got := range heard {
		if want := written("p"+id, 10); got.text.String() != want {
			t.Errorf("%s: got %q, want %q", id, got.text.String(), want)
		}
	}
	// The pod counts one to its end a little longer than who has read its last response.
	if peak := pods[0].Stats("llama").Peak; most > 8 || most < 2 || peak > 16 {
		t.Errorf("%d at once on a pod of 8 slots, of which the pod says %d", most, peak)
	}
	if _, err := c.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	g.ended(regions.EndServed, 1)
	regionstest.Eventually(t, patience, func() bool { return len(g.pool.Loads()) == 0 }, "all slots are given back")
}
