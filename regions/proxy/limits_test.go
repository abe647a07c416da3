package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

func limits(change func(*proxy.Limits)) func(*proxy.Options) {
	return func(o *proxy.Options) { change(&o.Limits) }
}

func TestPodThatStallsBeforeItsAnswer(t *testing.T) {
	gone := make(chan struct{})
	g := newRig(t, limits(func(l *proxy.Limits) { l.FirstByte = 30 * time.Millisecond }),
		startPod(t, stepPod(nil, gone)), startPod(t, echo("b")))
	res, text, err := g.post("/v2/models/llama/generate_stream", "{}")
	if err != nil {
		t.Fatal(err)
	}
	// Never replayed: the pod may still be at it.
	if res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("status %d %s, want 504", res.StatusCode, text)
	}
	<-gone
	g.ended(regions.EndTimeout, 1)
	if got := g.saw(); len(got) != 0 { // some requests are slow
		t.Errorf("saw %v", got)
	}
}

func TestPodThatStallsInItsAnswer(t *testing.T) {
	t.Parallel()
	words, gone := make(chan string, 1), make(chan struct{})
	words <- "one"
	g := newRig(t, limits(func(l *proxy.Limits) { l.Token = time.Second }), startPod(t, stepPod(words, gone)))
	_, text, err := g.post("/v2/models/llama/generate_stream", "{}")
	wantTerminal(t, text, err)
	<-gone
	g.ended(regions.EndTimeout, 1)
}

func TestStreamMayTakeLongerThanAnyOneWait(t *testing.T) {
	t.Parallel()
	const events, limit = 30, 1500 * time.Millisecond
	g := newRig(t, limits(func(l *proxy.Limits) { l.FirstByte, l.Token, l.ClientStall, l.BodyStall = limit, limit, limit, limit }),
		startPod(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			tick := time.NewTicker(limit / 20)
			defer tick.Stop()
			for i := range events {
				<-tick.C
				fmt.Fprintf(w, "data: %d\n\n", i)
				_ = http.NewResponseController(w).Flush()
			}
		}))
	begun := time.Now()
	_, text, err := g.post("/v2/models/llama/generate_stream", "{}")
	if err != nil || strings.Count(text, "data: ") != events {
		t.Fatalf("%d events, %v", strings.Count(text, "data: "), err)
	}
	if took := time.Since(begun); took < limit {
		t.Errorf("the stream took %v, too little to show anything", took)
	}
	g.ended(regions.EndServed, 1)
}

func TestClientThatDoesNotRead(t *testing.T) {
	gone := make(chan struct{})
	g := newRig(t, limits(func(l *proxy.Limits) { l.ClientStall = 50 * time.Millisecond }),
		startPod(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			defer close(gone)
			block := make([]byte, 64<<10)
			for r.Context().Err() == nil {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}))
	c := g.dial()
	_, err := io.WriteString(c, "POST /v2/models/llama/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-time.After(patience):
		t.Fatal("the pod still writes to a client that does not read")
	}
	g.ended(regions.EndClientGone, 1)
}

func TestBodiesThatAreTheClientsFault(t *testing.T) {
	const head = "POST /v2/models/llama/generate HTTP/1.1\r\nHost: x\r\n"
	small := limits(func(l *proxy.Limits) { l.Body, l.Buffer, l.BodyStall = 1000, 100, 300*time.Millisecond })
	chunk := func(n int) string { return fmt.Sprintf("%x\r\n%s\r\n", n, strings.Repeat("x", n)) }
	tests := []struct {
		name, payload string
		want          int
	}{
		{"longer than allowed, announced", head + "Content-Length: 1001\r\n\r\n", 413},
		{"longer than allowed, found out", head + "Transfer-Encoding: chunked\r\n\r\n" + chunk(1001) + "0\r\n\r\n", 413},
		{"longer than allowed, asked first", head + "Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n", 413},
		{"stalls before it is read", head + "Content-Length: 50\r\n\r\n{", 408},
		{"stalls while it streams", head + "Content-Length: 500\r\n\r\n{", 408},
		{"chunk size is not hex", head + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400},
		{"chunk size is negative", head + "Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400},
		{"chunk size has 0x", head + "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400},
		{"chunk size overflows", head + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n", 400},
		{"chunk without its end", head + "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", 400},
		{"bad chunk after the buffer", head + "Transfer-Encoding: chunked\r\n\r\n" + chunk(200) + "xyz\r\n", 400},
		{"Connection names Authorization", head + "Connection: close, Authorization\r\nContent-Length: 2\r\n\r\n{}", 400},
		{"Connection names X-Forwarded-For", head + "Connection: X-Forwarded-For\r\nContent-Length: 2\r\n\r\n{}", 400},
		{"expects something else as well", head + "Expect: y 100-continue\r\nContent-Length: 2\r\n\r\n{}", 417},
		{"expects twice", head + "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", 417},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, small, startPod(t, echo("a")))
			res, text, err := g.raw(tt.payload)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != tt.want || !res.Close {
				t.Errorf("status %d %s, close %v; want %d and a closed connection", res.StatusCode, text, res.Close, tt.want)
			}
			if !strings.HasPrefix(text, `{"error":"`) {
				t.Errorf("body %q is not Triton's shape", text)
			}
			if len(g.saw()) != 0 {
				t.Errorf("saw %v: a client must not be able to speak against a pod", g.saw())
			}
			for _, n := range g.metric("rhumb_proxy_replays_total") {
				t.Errorf("%v replays of a client's mistake", n)
			}
		})
	}
}

func TestContinueIsSentWhenTheBodyIsWanted(t *testing.T) {
	g := newRig(t, nil, startPod(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Expect") != "" {
			t.Error("the expectation went on to the pod")
		}
		echo("a")(w, r)
	}))
	c := g.dial()
	if _, err := io.WriteString(c, "POST /v2/models/llama/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("got %q, %v; want a 100", line, err)
	}
	_, _ = in.ReadString('\n')
	if _, err := io.WriteString(c, "{}"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); string(text) != "a:2" {
		t.Errorf("got %q", text)
	}
}

func TestBigBodyStreamsThrough(t *testing.T) {
	half := make(chan struct{})
	g := newRig(t, nil, startPod(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 2<<20)
		close(half)
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, 2<<20+n)
	}))
	in, out := io.Pipe()
	go func() {
		block := make([]byte, 1<<20)
		for i := range 5 {
			if i == 3 {
				<-half // the pod reads what the client has not finished
			}
			_, _ = out.Write(block)
		}
		out.Close()
	}()
	res, text, err := g.do(newRequest(t, http.MethodPost, g.url+"/v2/models/llama/infer", in))
	if err != nil || res.StatusCode != http.StatusOK || text != "5242880" {
		t.Errorf("got %v %q %v", res, text, err)
	}
	g.ended(regions.EndServed, 1)
}

func TestPodAnswersBeforeABigBodyIsThere(t *testing.T) {
	g := newRig(t, limits(func(l *proxy.Limits) { l.Buffer, l.BodyStall = 100, time.Second }), rawPod(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
		_, _ = io.Copy(io.Discard, c)
	}))
	res, text, err := g.raw("POST /v2/models/llama/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nonly this")
	if err != nil || res.StatusCode != http.StatusBadRequest || text != "no" {
		t.Errorf("got %v %q %v; want the pod's own 400", res, text, err)
	}
	g.ended(regions.EndServed, 1)
}
