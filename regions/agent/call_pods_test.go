package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// crowd is streams of calls that last until they are told to end.
type crowd struct {
	site    *site
	tokens  int
	all     sync.WaitGroup
	begun   atomic.Int64
	resumed atomic.Int64
}

// ask opens streams, each with one request, and checks what becomes of them.
func (c *crowd) ask(streams int) {
	t := c.site.t
	client := c.site.caller(nil)
	for i := range streams {
		text := fmt.Sprint("number ", i)
		c.all.Go(func() {
			x, err := client.ModelStreamInfer(t.Context())
			if err == nil {
				err = errors.Join(x.Send(asking("llama", "1", text, int64(c.tokens))), x.CloseSend())
			}
			if err != nil {
				t.Error(err)
				return
			}
			first, err := x.Recv()
			if err != nil {
				t.Error(err)
				return
			}
			c.begun.Add(1)
			rest, told, err := whole(x)
			if got := textOf(first) + rest; got != written("llama", text, c.tokens) || told != "" || !errors.Is(err, io.EOF) {
				t.Errorf("%d: %q %s %v", i, got, told, err)
			}
			if len(x.Trailer().Get(proxy.ResumedHeader)) > 0 {
				c.resumed.Add(1)
			}
		})
	}
	regionstest.Eventually(t, patience, func() bool { return int(c.begun.Load()) == streams }, "all streams have begun")
}

// on is how many requests a pod has.
func on(p *tritontest.Pod) int { return int(p.Stats("llama").InFlight) }

// TestPodsGoUnderCalls: a pod that shuts down has its streams end on it, those of one that
// crashes or is a black hole go on at another, and no client sees it.
func TestPodsGoUnderCalls(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		goes func(*testing.T, *site) // the first pod goes
		move bool                    // its streams do, too
	}{
		"crash": {func(_ *testing.T, s *site) { s.pods[0].Crash() }, true},
		"hang": {func(t *testing.T, s *site) {
			s.pods[0].Hang(true)
			regionstest.Eventually(t, patience, func() bool { return on(s.pods[1])+on(s.pods[2]) == 24 }, "its streams have left")
		}, true},
		"drain": {func(t *testing.T, s *site) {
			ended := make(chan error, 1)
			go func() { ended <- s.pods[0].Shutdown(context.WithoutCancel(t.Context())) }()
			t.Cleanup(func() {
				if err := <-ended; err != nil {
					t.Errorf("the pod's shutdown: %v", err)
				}
			})
			regionstest.Eventually(t, patience, func() bool { return refused(s.pods[0].GRPCAddr()) }, "it takes no more calls")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMembers(t)
			m.slots = 16
			o, pods := m.options("eu-west", "llama")
			o.resumes(t)
			s := m.start(o, pods)
			all := &crowd{site: s, tokens: 60}
			s.slow(true)
			all.ask(24)
			had := on(pods[0])
			c.goes(t, s)
			// What comes meanwhile finds a pod that is there.
			x := s.converse()
			if err := errors.Join(x.Send(asking("llama", "new", "new", 2)), x.CloseSend()); err != nil {
				t.Fatal(err)
			}
			s.slow(false)
			if got, told, err := whole(x); got != written("llama", "new", 2) || told != "" || !errors.Is(err, io.EOF) {
				t.Errorf("a new call: %q %s %v", got, told, err)
			}
			all.all.Wait()
			if n := int(all.resumed.Load()); had == 0 || c.move && n != had || !c.move && n > 0 {
				t.Errorf("%d streams were on the pod that went, and %d have moved", had, n)
			}
			if name == "hang" {
				pods[0].Hang(false)
			}
		})
	}
}

// TestCallsGoToAnotherRegion: by HTTP/2, with and without TLS, and never by HTTP/1.1,
// which has no calls.
func TestCallsGoToAnotherRegion(t *testing.T) {
	t.Parallel()
	pair, trust := webPair(t)
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			m := newMembers(t)
			o, pods := m.options("eu-west", "llama")
			if o.Endpoints[0].Scheme = scheme; scheme == "https" {
				o.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
			}
			eu := m.start(o, pods)
			o, pods = m.options("us-east", "mistral")
			o.SpillTLS = trust.Clone()
			o.resumes(t)
			us := m.start(o, pods)
			row := rowFrom("us-east", "llama", eu.target(8))
			row.Table = 1
			m.sends(us, row)
			x := us.converse()
			for i := range 3 {
				text := fmt.Sprint("turn ", i)
				if err := x.Send(asking("llama", "1", text, 4)); err != nil {
					t.Fatal(err)
				}
				var got strings.Builder
				for range 4 {
					r, err := x.Recv()
					if err != nil {
						t.Fatal(err)
					}
					got.WriteString(textOf(r))
				}
				if got.String() != written("llama", text, 4) {
					t.Errorf("turn %d: %q", i, got.String())
				}
			}
			if h, err := x.Header(); err != nil || !slices.Equal(h.Get(proxy.RegionHeader), []string{"eu-west"}) {
				t.Errorf("it was answered by %v, %v", h, err)
			}
			if err := x.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if r, err := x.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("it ended with %v, %v", r, err)
			}
		})
	}
}

// TestCallsDoNotGoToOldPeers: who speaks HTTP/1.1 only is sent no call.
func TestCallsDoNotGoToOldPeers(t *testing.T) {
	t.Parallel()
	pair, trust := webPair(t)
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			var posted atomic.Int64
			old := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					posted.Add(1)
				}
				w.WriteHeader(http.StatusHTTPVersionNotSupported)
			}))
			old.Config.Protocols = new(http.Protocols)
			old.Config.Protocols.SetHTTP1(true)
			if scheme == "https" {
				old.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
				old.StartTLS()
			} else {
				old.Start()
			}
			t.Cleanup(old.Close)
			m := newMembers(t)
			o, pods := m.options("us-east", "mistral")
			o.SpillTLS = trust.Clone()
			us := m.start(o, pods)
			at := netip.MustParseAddrPort(old.Listener.Addr().String())
			row := rowFrom("us-east", "llama", regions.SpillTarget{
				Region: "eu-west", Endpoint: regions.Endpoint{Scheme: scheme, Host: at.Addr().String(), Port: at.Port()}, Budget: regions.Slots(8),
			})
			row.Table = 1
			m.sends(us, row)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "rhumb-max-wait", "0.3")
			if _, err := us.caller(nil).ModelInfer(ctx, asking("llama", "1", "hi", 1)); status.Code(err) != codes.Unavailable {
				t.Errorf("the client is told %v", err)
			}
			if n := posted.Load(); n > 0 {
				t.Errorf("it was sent by HTTP/1.1 %d times", n)
			}
		})
	}
}
