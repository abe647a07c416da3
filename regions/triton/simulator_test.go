package triton_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// TestLifeOfAPod follows a simulated Triton from its loading to its crash.
func TestLifeOfAPod(t *testing.T) {
	o := tritontest.DefaultOptions()
	unloaded := tritontest.DefaultModel("mistral")
	unloaded.Unloaded = true
	o.Models = []tritontest.Model{tritontest.DefaultModel("llama"), unloaded}
	pod := tritontest.New(o)
	if err := pod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pod.Close)
	at := netip.MustParseAddrPort(pod.Addr())
	c := triton.New(triton.DefaultOptions())
	// sees waits for a sight: the pod takes a moment to load, and a server to end.
	sees := func(model regions.ModelName, want regions.Sight, within time.Duration) {
		t.Helper()
		regionstest.Eventually(t, patience, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			got, _, _ := c.ModelReady(ctx, at, model)
			return got == want
		}, string(model)+" to be seen "+want.String())
	}
	sees("llama", regions.SawReady, patience)
	sees("mistral", regions.SawNotReady, patience)
	sees("stranger", regions.SawNotReady, patience)
	if got, _, err := c.ServerReady(t.Context(), at); got != regions.SawReady {
		t.Errorf("server: %v, %v", got, err)
	}
	wantIndex(t, c, at)

	pod.NotReady("llama", true)
	sees("llama", regions.SawNotReady, patience)
	pod.NotReady("llama", false)
	pod.Exiting(true)
	sees("llama", regions.SawNotReady, patience)
	pod.Exiting(false)
	pod.Hang(true)
	sees("llama", regions.SawTimeout, 30*time.Millisecond)
	pod.Hang(false)
	sees("llama", regions.SawReady, patience)

	drain(t, pod, at, func() { sees("llama", regions.SawClosed, patience) })
	sees("llama", regions.SawRefused, patience)
	if err := pod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	sees("llama", regions.SawReady, patience)
	pod.Crash()
	sees("llama", regions.SawRefused, patience)
}

func wantIndex(t *testing.T, c *triton.Client, at netip.AddrPort) {
	t.Helper()
	entries, err := c.Index(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	ready := map[regions.ModelName]bool{}
	for _, e := range entries {
		ready[e.Name] = e.State == triton.StateReady
	}
	if len(ready) != 2 || !ready["llama"] || ready["mistral"] {
		t.Errorf("index %v", entries)
	}
}

// drain shuts the pod down while a connection holds it open, and looks at it
// meanwhile.
func drain(t *testing.T, pod *tritontest.Pod, at netip.AddrPort, look func()) {
	t.Helper()
	idle, err := new(net.Dialer).DialContext(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	ready := func() {
		t.Helper()
		if _, err := io.WriteString(idle, "GET /v2/models/llama/ready HTTP/1.1\r\nHost: pod\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(idle), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("on the kept connection: %s", resp.Status)
		}
	}
	ready()
	ended := make(chan error, 1)
	go func() { ended <- pod.Shutdown(context.WithoutCancel(t.Context())) }()
	look()
	ready() // a kept connection knows nothing of the drain
	if err := idle.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil && !errors.Is(err, tritontest.ErrExitTimeout) {
		t.Fatal(err)
	}
}
