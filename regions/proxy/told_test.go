package proxy_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// TestErrorsInAStreamOfCalls are counted, and held against nobody as long as no other pod
// does better: a client's words are among the pod's.
func TestErrorsInAStreamOfCalls(t *testing.T) {
	for _, known := range []bool{false, true} {
		for _, name := range []string{"the request's", "the pod's", "the client's words"} {
			t.Run(fmt.Sprintf("%s, known %v", name, known), func(t *testing.T) {
				pods, addrs := callPods(t, 1)
				var tune func(*proxy.Options)
				if known {
					tune = resuming(t)
				}
				g := newRig(t, tune, addrs...)
				c := g.converse(t)
				id := "bad"
				if name == "the client's words" {
					id = "unavailable, shutting down"
				}
				r := asking(id, "hi", 3)
				if name == "the pod's" {
					pods[0].Zombie("llama", tritontest.Failing)
				} else {
					r.Inputs = r.Inputs[1:] // without the text
				}
				if err := c.Send(r); err != nil {
					t.Fatal(err)
				}
				if heard, err := hear(c, id); err != nil || heard[id].err == "" {
					t.Fatalf("%+v, %v", heard[id], err)
				}
				if err := c.CloseSend(); err != nil {
					t.Fatal(err)
				}
				for err := error(nil); err == nil; {
					_, err = c.Recv()
				}
				g.ended(regions.EndFailed, 1)
				if n := g.blamed(); n > 0 {
					t.Errorf("blamed %d times", n)
				}
				if n := g.metric("rhumb_proxy_told_errors_total"); !slices.Equal(n, []float64{1}) {
					t.Errorf("counted %v, want 1", n)
				}
			})
		}
	}
}
