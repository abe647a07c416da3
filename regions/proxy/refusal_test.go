package proxy_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// TestCallsThatPodsRefuse: what a pod refuses with a status alone before it began is
// asked of another one, if the words say so and the request is still here; one that shuts
// down is seen to. Other words may come after the model ran.
func TestCallsThatPodsRefuse(t *testing.T) {
	const full = "[request id: 1] Exceeds maximum queue size"
	const going = "GRPC server is shutting down and has stopped accepting new requests."
	for _, c := range []struct {
		name, code, words string
		profile, streams  bool
		calls             int32
		sight             string // of each pod that was asked, as they are all alike
	}{
		{"infer, shutting down", "14", going, false, false, 2, "closed"},
		{"infer, queue full", "14", full, false, false, 1, ""}, // it may be an ensemble's second step
		{"text, queue full", "14", full, true, true, 2, ""},
		{"infer, other words", "14", "the backend is not well", false, false, 1, ""},
		{"infer, other code", "13", going, false, false, 1, ""},
		{"text, shutting down", "14", going, true, true, 2, "closed"},
		{"a stream that is not kept", "14", going, false, true, 1, "closed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var calls atomic.Int32
			refuse := func(w http.ResponseWriter, r *http.Request) {
				// With the request's first message, if more may come.
				if _, err := io.ReadFull(r.Body, make([]byte, 5)); err != nil {
					t.Error(err)
				}
				calls.Add(1)
				h := w.Header()
				h.Set("Content-Type", "application/grpc")
				h.Set("Grpc-Status", c.code)
				h.Set("Grpc-Message", c.words)
			}
			var tune func(*proxy.Options)
			if c.profile {
				tune = resuming(t)
			}
			g := newRig(t, func(o *proxy.Options) {
				wait := o.Admit.MaxWait
				if tune != nil {
					tune(o)
				}
				o.Admit.MaxWait = wait
			}, startH2(t, refuse), startH2(t, refuse))
			client := g.caller(t)
			var err error
			if c.streams {
				x, opened := client.ModelStreamInfer(t.Context())
				if err := errors.Join(opened, x.Send(asking("1", "hi", 1))); err != nil {
					t.Fatal(err)
				}
				_, err = x.Recv()
			} else {
				_, err = client.ModelInfer(t.Context(), asking("1", "hi", 1))
			}
			if want := map[string]codes.Code{"13": codes.Internal, "14": codes.Unavailable}[c.code]; status.Code(err) != want {
				t.Errorf("the client is told %v, want %v", err, want)
			}
			if n := calls.Load(); n != c.calls {
				t.Errorf("%d pods were asked, want %d", n, c.calls)
			}
			saw := g.saw()
			if c.sight == "" && len(saw) > 0 || c.sight != "" && len(saw) != int(c.calls) {
				t.Errorf("seen %v", saw)
			}
			for _, s := range saw {
				if !strings.HasSuffix(s, ":"+c.sight) {
					t.Errorf("seen %v, want %s", saw, c.sight)
				}
			}
			if c.calls == 1 {
				end := map[string]regions.End{"13": regions.EndFailed, "14": regions.EndPodError}[c.code]
				if c.words == full {
					end = regions.EndNotStarted
				}
				g.ended(end, 1)
			}
		})
	}
}
