package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
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
