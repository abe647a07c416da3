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
	"github.com/rhumb-lb/rhumb/regions/gateway/gatewaytest"
	"github.com/rhumb-lb/rhumb/regions/gateway/heads"
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
	server.Listener = heads.Listen(server.Listener)
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
)

// TestPayloads: each is answered as it should be, and the pod hears what it should.
func TestPayloads(t *testing.T) {
	for _, p := range gatewaytest.Payloads() {
		t.Run(p.Name, func(t *testing.T) {
			w := newWire(t)
			want := 1
			if p.Closed {
				want = 2 // if it can be had
			}
			statuses, closed := w.exchange(p.Text, want)
			if !slices.Equal(statuses, []int{p.Status}) || closed != p.Closed {
				t.Errorf("statuses %v, closed %v; want %d, closed %v", statuses, closed, p.Status, p.Closed)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if got := strings.Join(w.heard, "|"); got != p.Heard {
				t.Errorf("the pod heard %q, want %q", got, p.Heard)
			}
			if len(w.sights) != 0 {
				t.Errorf("saw %v of a pod that did nothing wrong", w.sights)
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
