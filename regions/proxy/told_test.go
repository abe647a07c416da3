package proxy_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// TestErrorsInAStreamOfCalls are counted, and are the pod's if its words say so, also of
// a model of which nothing is known.
func TestErrorsInAStreamOfCalls(t *testing.T) {
	for _, known := range []bool{false, true} {
		for name, want := range map[string]regions.End{"the request's": regions.EndFailed, "the pod's": regions.EndPodError} {
			t.Run(fmt.Sprintf("%s, known %v", name, known), func(t *testing.T) {
				pods, addrs := callPods(t, 1)
				var tune func(*proxy.Options)
				if known {
					tune = resuming(t)
				}
				g := newRig(t, tune, addrs...)
				c := g.converse(t)
				r := asking("bad", "hi", 3)
				if want == regions.EndFailed {
					r.Inputs = r.Inputs[1:] // without the text
				} else {
					pods[0].Zombie("llama", tritontest.Failing)
				}
				if err := c.Send(r); err != nil {
					t.Fatal(err)
				}
				if heard, err := hear(c, "bad"); err != nil || heard["bad"].err == "" {
					t.Fatalf("%+v, %v", heard["bad"], err)
				}
				if err := c.CloseSend(); err != nil {
					t.Fatal(err)
				}
				for err := error(nil); err == nil; {
					_, err = c.Recv()
				}
				g.ended(want, 1)
				if n := g.metric("rhumb_proxy_told_errors_total"); !slices.Equal(n, []float64{1}) {
					t.Errorf("counted %v, want 1", n)
				}
			})
		}
	}
}
