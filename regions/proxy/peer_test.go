package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// peer is another region's gateway as far as protocols go.
type peer struct {
	*httptest.Server
	conns    atomic.Int32
	mu       sync.Mutex
	versions map[string]int // requests by protocol
}

func newPeer(t *testing.T, choose func(*http.Protocols), h http.HandlerFunc) *peer {
	t.Helper()
	p := &peer{versions: map[string]int{}}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.versions[r.Proto]++
		p.mu.Unlock()
		if r.Method == "PRI" { // what a server of HTTP/1.1 makes of the preface
			http.Error(w, "no such version", http.StatusHTTPVersionNotSupported)
			return
		}
		h(w, r)
	}))
	p.Config.Protocols = new(http.Protocols)
	choose(p.Config.Protocols)
	p.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			p.conns.Add(1)
		}
	}
	p.Start()
	t.Cleanup(p.Close)
	return p
}

func both(p *http.Protocols) {
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
}

func (p *peer) served(proto string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.versions[proto]
}

// TestSpillSharesAConnection: requests that go to another region at the same time
// share a connection, each with its own end: one is cut there, one is left by its
// client, the others are whole.
func TestSpillSharesAConnection(t *testing.T) {
	const n = 20
	var here sync.WaitGroup
	here.Add(n)
	left := make(chan struct{})
	there := newPeer(t, both, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if string(body) == `"connect"` {
			return
		}
		_, _ = fmt.Fprintf(w, "%s begins\n", body)
		_ = http.NewResponseController(w).Flush()
		here.Done()
		here.Wait() // all are here at once
		switch string(body) {
		case "0":
			panic(http.ErrAbortHandler)
		case "1":
			<-r.Context().Done()
			close(left)
		default:
			_, _ = fmt.Fprintf(w, "%s ends\n", body)
		}
	})
	g := newRig(t, with(&elsewhere{urls: []string{there.URL}}))
	// Requests that come before the first connection is there would open others.
	if _, _, err := g.post("/v2/models/llama/generate", `"connect"`); err != nil {
		t.Fatal(err)
	}
	var asked sync.WaitGroup
	for i := range n {
		asked.Go(func() {
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			r := newRequest(t, http.MethodPost, g.url+"/v2/models/llama/generate_stream", strings.NewReader(fmt.Sprint(i))).WithContext(ctx)
			res, err := g.client.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			in := bufio.NewReader(res.Body)
			if line, err := in.ReadString('\n'); err != nil || line != fmt.Sprintf("%d begins\n", i) {
				t.Errorf("%d got %q, %v", i, line, err)
			}
			if i == 1 {
				leave()
				<-left
				return
			}
			rest, err := io.ReadAll(in)
			switch {
			case i == 0 && !errors.Is(err, io.ErrUnexpectedEOF):
				t.Errorf("a stream that was cut there ended with %v", err)
			case i > 1 && (err != nil || string(rest) != fmt.Sprintf("%d ends\n", i)):
				t.Errorf("%d got %q, %v", i, rest, err)
			}
		})
	}
	asked.Wait()
	if c := there.conns.Load(); there.served("HTTP/2.0") != n+1 || c != 1 {
		t.Errorf("%d of %d requests came by HTTP/2, over %d connections, want 1", there.served("HTTP/2.0"), n+1, c)
	}
	g.ended(regions.EndPodLost, 1)
	g.ended(regions.EndClientGone, 1)
	g.ended(regions.EndServed, n-1)
}

// TestSpillToOldPeers: something on the way that speaks HTTP/1.1 only gets whole
// requests by it, is asked for better only once, and is not blamed.
func TestSpillToOldPeers(t *testing.T) {
	for name, there := range map[string]func(*testing.T) (url string, greeted func() int){
		"answers the preface": func(t *testing.T) (string, func() int) {
			p := newPeer(t, func(p *http.Protocols) { p.SetHTTP1(true) }, echo("there"))
			return p.URL, func() int { return p.served("HTTP/2.0") }
		},
		"hangs up": func(t *testing.T) (string, func() int) {
			var greeted atomic.Int32
			at := rawPod(t, func(c net.Conn) {
				in := bufio.NewReader(c)
				if start, err := in.Peek(3); err != nil || string(start) == "PRI" {
					greeted.Add(1)
					return
				}
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				n, _ := io.Copy(io.Discard, r.Body)
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nthere:%d", n)
			})
			return "http://" + at, func() int { return int(greeted.Load()) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, greeted := there(t)
			to := &elsewhere{urls: []string{url}}
			g := newRig(t, with(to))
			for range 3 {
				// infer must not run twice: it goes on only as nothing of it was sent.
				if res, text, err := g.post("/v2/models/llama/infer", "body"); err != nil || text != "there:4" {
					t.Fatalf("%v %q %v", res, text, err)
				}
			}
			to.check(t, regions.EndServed, regions.EndServed, regions.EndServed)
			if n := greeted(); n != 1 {
				t.Errorf("greeted %d times with HTTP/2's preface, want once", n)
			}
			for _, n := range g.metric("rhumb_proxy_replays_total") {
				t.Errorf("%v replays", n)
			}
		})
	}
}

// TestSpillPassesOverAHungPeer: who takes connections and says nothing, as a
// process that is stopped does, is found out before a request is risked there.
func TestSpillPassesOverAHungPeer(t *testing.T) {
	done := make(chan struct{})
	hung := rawPod(t, func(net.Conn) { <-done })
	t.Cleanup(func() { close(done) }) // before the listener is waited for
	there := newPeer(t, both, echo("there"))
	to := &elsewhere{urls: []string{"http://" + hung, there.URL}}
	g := newRig(t, func(o *proxy.Options) {
		o.Spill, o.Limits = to, proxy.DefaultLimits()
		o.Limits.Dial = 200 * time.Millisecond
	})
	if res, text, err := g.post("/v2/models/llama/infer", "body"); err != nil || text != "there:4" {
		t.Fatalf("%v %q %v", res, text, err)
	}
	to.check(t, regions.EndPodLost, regions.EndServed)
	if n := there.served("HTTP/2.0"); n != 1 {
		t.Errorf("%d requests by HTTP/2, want 1", n)
	}
}
