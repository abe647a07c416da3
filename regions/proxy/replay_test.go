package proxy_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// The faults of a pod, from the earliest to the latest.
func refuses(tb testing.TB) string { return nobody(tb) }

func closesUnread(tb testing.TB) string { return rawPod(tb, func(net.Conn) {}) }

func closesAfterReading(tb testing.TB) string {
	return rawPod(tb, func(c net.Conn) { _ = readRequest(c) })
}

func resetsAfterReading(tb testing.TB) string {
	return rawPod(tb, func(c net.Conn) {
		_ = readRequest(c)
		_ = c.(*net.TCPConn).SetLinger(0)
	})
}

func closesAfterOneByte(tb testing.TB) string {
	return rawPod(tb, func(c net.Conn) {
		_ = readRequest(c)
		_, _ = io.WriteString(c, "H")
	})
}

func answersGarbage(tb testing.TB) string {
	return rawPod(tb, func(c net.Conn) {
		_ = readRequest(c)
		_, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n")
	})
}

func TestReplayMatrix(t *testing.T) {
	const generate, infer = "/v2/models/llama/generate", "/v2/models/llama/infer"
	small, big := `{"text_input":"hi"}`, strings.Repeat("x", 1<<20+1)
	tests := []struct {
		name  string
		fault func(testing.TB) string
		path  string
		body  string
		want  int    // status
		saw   string // of pod a
	}{
		{"refused, generate", refuses, generate, small, 200, "refused"},
		{"refused, infer: nothing was written", refuses, infer, small, 200, "refused"},
		{"refused, infer with a big body: not yet read", refuses, infer, big, 200, "refused"},
		{"closed unread, generate", closesUnread, generate, small, 200, "closed"},
		{"closed after reading, generate", closesAfterReading, generate, small, 200, "closed"},
		{"closed after reading, infer: it may have run", closesAfterReading, infer, small, 502, "closed"},
		{"closed after reading, generate with a big body: gone", closesAfterReading, generate, big, 502, "closed"},
		{"reset after reading, generate", resetsAfterReading, generate, small, 200, "closed"},
		{"one byte, generate: an answer had begun", closesAfterOneByte, generate, small, 502, "lost"},
		{"one byte, infer", closesAfterOneByte, infer, small, 502, "lost"},
		{"not HTTP, generate", answersGarbage, generate, small, 502, "lost"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Of two idle pods the pool begins with the first.
			g := newRig(t, nil, tt.fault(t), startPod(t, echo("b")))
			res, text, err := g.post(tt.path, tt.body)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != tt.want {
				t.Fatalf("status %d %q, want %d", res.StatusCode, text, tt.want)
			}
			want := []string{"a:" + tt.saw}
			if tt.want == 200 {
				want = append(want, "b:served")
				g.ended(regions.EndServed, 1)
			} else {
				g.ended(regions.EndPodLost, 1)
				if !strings.HasPrefix(text, `{"error":"`) {
					t.Errorf("body %q is not Triton's shape", text)
				}
			}
			if got := g.saw(); !slices.Equal(got, want) {
				t.Errorf("saw %v, want %v", got, want)
			}
			if tt.want == 200 && text != "b:"+lengthOf(tt.body) {
				t.Errorf("pod b got another body: %s, want %d bytes", text, len(tt.body))
			}
		})
	}
}

func lengthOf(s string) string {
	if len(s) > 1<<20 {
		return "1048577"
	}
	return "19"
}

func TestAtMostOneReplay(t *testing.T) {
	var asked atomic.Int32
	dying := func() string {
		return rawPod(t, func(c net.Conn) {
			asked.Add(1)
			_ = readRequest(c)
		})
	}
	g := newRig(t, nil, dying(), dying(), dying(), startPod(t, echo("d")))
	res, _, err := g.post("/v2/models/llama/generate", "{}")
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusBadGateway || asked.Load() != 2 {
		t.Errorf("status %d after %d pods, want 502 after 2", res.StatusCode, asked.Load())
	}
	if got := g.metric("rhumb_proxy_replays_total"); !slices.Equal(got, []float64{1}) {
		t.Errorf("replays counted: %v, want 1", got)
	}
}

func TestNowhereLeftToReplay(t *testing.T) {
	g := newRig(t, nil, refuses(t), closesUnread(t))
	res, text, err := g.post("/v2/models/llama/generate", "{}")
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q, body %s; want 503 and a time to come back", res.StatusCode, res.Header.Get("Retry-After"), text)
	}
}

// hangUpPod answers the first request of a connection and closes it without a
// byte on the second, as a server does that gave up on an idle connection just
// as it was used.
func hangUpPod(tb testing.TB, requests *atomic.Int32) string {
	return rawPod(tb, func(c net.Conn) {
		if readRequest(c) != nil {
			return
		}
		requests.Add(1)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		if readRequest(c) == nil {
			requests.Add(1)
		}
	})
}

func TestKeptConnectionClosedInTheMeantime(t *testing.T) {
	tests := []struct {
		name, path string
		fields     []string
		body       string
		want       int
		requests   int32 // that reached the pod
	}{
		// The only pod is tried once more, on a fresh connection.
		{"generate is replayed", "/v2/models/llama/generate", nil, "{}", 200, 3},
		{"infer is not", "/v2/models/llama/infer", nil, "{}", 502, 2},
		{"nor by a key of the client's", "/v2/models/llama/infer", []string{"Idempotency-Key", "1", "X-Idempotency-Key", "1"}, "", 502, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int32
			g := newRig(t, nil, hangUpPod(t, &requests))
			for _, want := range []int{200, tt.want} {
				res, text, err := g.post(tt.path, tt.body, tt.fields...)
				if err != nil {
					t.Fatal(err)
				}
				if res.StatusCode != want {
					t.Fatalf("status %d %s, want %d", res.StatusCode, text, want)
				}
			}
			if requests.Load() != tt.requests {
				t.Errorf("the pod got %d requests, want %d", requests.Load(), tt.requests)
			}
			if !slices.Contains(g.saw(), "a:lost") {
				t.Errorf("saw %v, want the loss among it", g.saw())
			}
		})
	}
}

// deadConn is a connection whose peer is gone: reads wait, writes fail.
type deadConn struct {
	net.Conn
	dead atomic.Bool
}

func (c *deadConn) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

func TestNothingWrittenOnAKeptConnectionIsReplayedForInferToo(t *testing.T) {
	var last *deadConn
	g := newRig(t, func(o *proxy.Options) {
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			last = &deadConn{Conn: c}
			return last, err
		}
	}, startPod(t, echo("a")))
	for i := range 2 {
		res, text, err := g.post("/v2/models/llama/infer", "{}")
		if err != nil || res.StatusCode != http.StatusOK || text != "a:2" {
			t.Fatalf("request %d: %v, %q, %v", i, res, text, err)
		}
		last.dead.Store(true)
	}
}

func TestOwnTroubleIsNotThePods(t *testing.T) {
	g := newRig(t, func(o *proxy.Options) {
		o.Dial = func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: syscall.EMFILE}
		}
	}, startPod(t, echo("a")))
	res, _, err := g.post("/v2/models/llama/generate", "{}")
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusServiceUnavailable || len(g.saw()) != 0 {
		t.Errorf("status %d, saw %v; want 503 and nothing seen", res.StatusCode, g.saw())
	}
	g.ended(regions.EndNotStarted, 1)
}

func TestWhatCountsAsThePodsError(t *testing.T) {
	for status, want := range map[int]regions.End{
		200: regions.EndServed, 204: regions.EndServed, 400: regions.EndServed, 404: regions.EndServed,
		// Of this one can't tell.
		500: regions.EndFailed, 503: regions.EndPodError,
		// A request of the wrong kind for the model is the client's mistake.
		501: regions.EndServed,
		// Nobody asked for another protocol.
		101: regions.EndPodError,
	} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			g := newRig(t, nil, rawPod(t, func(c net.Conn) {
				_ = readRequest(c)
				_, _ = io.WriteString(c, "HTTP/1.1 "+itoa(status)+" X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			}))
			res, _, err := g.post("/v2/models/llama/infer", "{}")
			if err != nil {
				t.Fatal(err)
			}
			expect := status
			if status == 101 {
				expect = http.StatusBadGateway
			}
			if res.StatusCode != expect {
				t.Errorf("status %d, want %d", res.StatusCode, expect)
			}
			g.ended(want, 1)
		})
	}
}

func itoa(n int) string {
	return string([]byte{byte('0' + n/100), byte('0' + n/10%10), byte('0' + n%10)})
}
