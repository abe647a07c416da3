package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// wire is a gateway with the real proxy, spoken to in raw bytes, in front of one
// pod that notes what reaches it.
type wire struct {
	tb     testing.TB
	addr   string
	mu     sync.Mutex
	heard  []string // by the pod: method, path and body
	sights []string
}

func newWire(tb testing.TB) *wire {
	tb.Helper()
	w := &wire{tb: tb}
	pod := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.mu.Lock()
		w.heard = append(w.heard, fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body))
		w.mu.Unlock()
		if err == nil {
			_, _ = io.WriteString(rw, "pod")
		}
	}))
	tb.Cleanup(pod.Close)
	pods := pool.New(pool.DefaultOptions())
	now := time.Now()
	pods.SetPods(now, []regions.Pod{{
		ID: "a", HTTP: netip.MustParseAddrPort(pod.Listener.Addr().String()),
		Models: []regions.PodModel{{Name: "llama", Slots: 8}},
	}})
	pods.SetState(now, "a", "llama", regions.PodReady)
	o := proxy.DefaultOptions("here", pods)
	o.Observe = func(seen regions.Observation) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if seen.Sight != regions.SawServed {
			w.sights = append(w.sights, seen.Sight.String())
		}
	}
	forward := proxy.New(o)
	tb.Cleanup(forward.CloseIdle)
	server := httptest.NewUnstartedServer(nil)
	server.Config = gateway.NewServer(gateway.New(gateway.DefaultOptions(forward)), gateway.DefaultHeadLimits(), slog.New(slog.DiscardHandler))
	server.Start()
	tb.Cleanup(server.Close)
	w.addr = server.Listener.Addr().String()
	return w
}

// exchange sends bytes, then reads answers until the gateway closes the
// connection or has answered want times.
func (w *wire) exchange(payload string, want int) (statuses []int, closed bool) {
	w.tb.Helper()
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", w.addr)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		w.tb.Fatal(err)
	}
	if _, err := io.WriteString(c, payload); err != nil {
		w.tb.Fatal(err)
	}
	in := bufio.NewReader(c)
	for len(statuses) < want {
		res, err := http.ReadResponse(in, nil)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return statuses, true
		}
		if err != nil {
			// A reset after the answer is a close, too.
			w.tb.Logf("after %v: %v", statuses, err)
			return statuses, true
		}
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil {
			w.tb.Errorf("body of answer %d: %v", len(statuses), err)
		}
		if res.StatusCode != http.StatusContinue {
			statuses = append(statuses, res.StatusCode)
		}
		if res.Close {
			closed = true
			want = len(statuses)
		}
	}
	return statuses, closed
}

const (
	post    = "POST /v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n"
	two     = "Content-Length: 2\r\n\r\n{}"
	chunked = "Transfer-Encoding: chunked\r\n"
	// smuggled is what a careless server takes for a second request.
	smuggled = "POST /v2/models/llama/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nX"
	heardOne = "POST /v2/models/llama/generate {}"
)

func TestRawPayloads(t *testing.T) {
	tests := []struct {
		name, payload string
		status        int
		heard         string // by the pod; "" is nothing
		closed        bool
	}{
		{"plain", post + two, 200, heardOne, false},
		{"plain chunked", post + chunked + "\r\n2\r\n{}\r\n0\r\n\r\n", 200, heardOne, true},
		{"bad chunk: not hex", post + chunked + "\r\nzz\r\n{}\r\n0\r\n\r\n", 400, "", true},
		{"bad chunk: 0x", post + chunked + "\r\n0x2\r\n{}\r\n0\r\n\r\n", 400, "", true},
		{"bad chunk: negative", post + chunked + "\r\n-2\r\n{}\r\n0\r\n\r\n", 400, "", true},
		{"bad chunk: overflow", post + chunked + "\r\n10000000000000002\r\n{}\r\n0\r\n\r\n", 400, "", true},
		{"bad chunk: longer than said", post + chunked + "\r\n1\r\n{}\r\n0\r\n\r\n", 400, "", true},
		{"TE identity", post + "Transfer-Encoding: identity\r\n" + two, 501, "", true},
		{"TE gzip, chunked", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "", true},
		{"TE twice", post + chunked + chunked + "\r\n0\r\n\r\n", 501, "", true},
		{"TE with a vertical tab", post + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", 400, "", true},
		{"space before the colon", post + "Content-Length : 2\r\n\r\n{}", 400, "", true},
		{"NUL in a value", post + "X: a\x00b\r\n" + two, 400, "", true},
		{"CR in a value", post + "X: a\rb\r\n" + two, 400, "", true},
		{"different lengths", post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", 400, "", true},
		{"length with a plus", post + "Content-Length: +2\r\n\r\n{}", 400, "", true},
		{"length with a minus", post + "Content-Length: -2\r\n\r\n{}", 400, "", true},
		{"no Host", "POST /v2/models/llama/generate HTTP/1.1\r\n" + two, 400, "", true},
		{"two Hosts", post + "Host: g\r\n" + two, 400, "", true},
		{"malformed Host", "POST /v2/models/llama/generate HTTP/1.1\r\nHost: a b\r\n" + two, 400, "", true},
		{"upgrade to h2c is not taken up", post + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + two, 200, heardOne, false},
		{"upgrade to websocket is not taken up", post + "Connection: Upgrade\r\nUpgrade: websocket\r\n" + two, 200, heardOne, false},
		{"upgrade to nonsense is not taken up", post + "Connection: Upgrade\r\nUpgrade: \x80\r\n" + two, 200, heardOne, false},
		{"Connection names end-to-end fields", post + "Connection: Authorization, X-Forwarded-For\r\nAuthorization: x\r\n" + two, 400, "", true},
		{"dots", "POST /v2/models/llama/../../admin HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"encoded dots", "POST /v2/models/llama/%2e%2e/llama/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"encoded slashes", "POST /v2/models%2fllama%2fgenerate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"double slash", "POST //v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"parameter", "POST /v2/models/llama;x/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"NUL in the path", "POST /v2/models/llama%00/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"absolute form with another host", "POST http://evil/v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"absolute form", "POST http://h/v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"authority form", "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 400, "", true},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400, "", true},
		{"encoded letters are one path", "POST /v2/models/%6Clama/generate HTTP/1.1\r\nHost: h\r\n" + two, 200, heardOne, false},
		{"expects more than 100-continue", post + "Expect: y 100-continue\r\n" + two, 417, "", true},
		{"expects something else", post + "Expect: x\r\n" + two, 417, "", true},
		{"unknown method", "XGET /v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n\r\n", 405, "", false},
		{"no method", " /v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n\r\n", 400, "", true},
		{"33 KiB of head", post + "X: " + strings.Repeat("x", 33<<10) + "\r\n" + two, 431, "", true},
		{"101 fields", post + strings.Repeat("X: x\r\n", 99) + two, 431, "", true},
		{"100 fields", post + strings.Repeat("X: x\r\n", 98) + two, 200, heardOne, false},
		{"101 MiB announced", post + fmt.Sprintf("Content-Length: %d\r\n\r\n", 101<<20), 413, "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t)
			statuses, closed := w.exchange(tt.payload, 1)
			if !slices.Equal(statuses, []int{tt.status}) || closed != tt.closed {
				t.Errorf("statuses %v, closed %v; want %d, closed %v", statuses, closed, tt.status, tt.closed)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if got := strings.Join(w.heard, "|"); got != tt.heard {
				t.Errorf("the pod heard %q, want %q", got, tt.heard)
			}
			if len(w.sights) != 0 {
				t.Errorf("saw %v of a pod that did nothing wrong", w.sights)
			}
		})
	}
}

// TestWhatTheServerHides notes what net/http reads leniently without a trace
// that a handler could see, and shows that it harms nobody: the pod hears one
// request in one form, and where the end of a request can be understood in two
// ways the connection ends with it.
func TestWhatTheServerHides(t *testing.T) {
	tests := []struct {
		name, payload string
		heard         string
		closed        bool
	}{
		// The length is dropped, the body is read as chunked.
		{"length and chunked", post + "Content-Length: 3\r\n" + chunked + "\r\n2\r\n{}\r\n0\r\n\r\n" + smuggled, heardOne, true},
		{"length of the whole and chunked", post + fmt.Sprintf("Content-Length: %d\r\n", 12+len(smuggled)) + chunked + "\r\n2\r\n{}\r\n0\r\n\r\n" + smuggled, heardOne, true},
		// The encoding is dropped, there is no body.
		{"chunked over HTTP/1.0", "POST /v2/models/llama/generate HTTP/1.0\r\nConnection: keep-alive\r\n" + chunked + "\r\n" + smuggled,
			"POST /v2/models/llama/generate ", true},
		// These have one meaning only, so the next request is understood.
		{"equal lengths", post + "Content-Length: 2\r\n" + two, heardOne, false},
		{"bare LF", strings.ReplaceAll(post+two, "\r\n", "\n"), heardOne, false},
		{"folded field", post + "X: a\r\n b\r\n" + two, heardOne, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t)
			want := 1
			if tt.closed {
				want = 2 // if it can be had
			}
			statuses, closed := w.exchange(tt.payload, want)
			if !slices.Equal(statuses, []int{200}) || closed != tt.closed {
				t.Errorf("statuses %v, closed %v; want one 200, closed %v", statuses, closed, tt.closed)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if got := strings.Join(w.heard, "|"); got != tt.heard {
				t.Errorf("the pod heard %q, want %q", got, tt.heard)
			}
		})
	}
}

func TestLongBodyThatNobodyWantsIsNotWaitedFor(t *testing.T) {
	w := newWire(t)
	statuses, closed := w.exchange("POST /nope HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n", 1)
	if !slices.Equal(statuses, []int{404}) || !closed {
		t.Errorf("statuses %v, closed %v; want 404 and a closed connection", statuses, closed)
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	w := newWire(t)
	get := "GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
	statuses, closed := w.exchange(post+two+get+"GET /nope HTTP/1.1\r\nHost: h\r\n\r\n"+post+two, 4)
	if !slices.Equal(statuses, []int{200, 200, 404, 200}) || closed {
		t.Errorf("statuses %v, closed %v", statuses, closed)
	}
}
