package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// stepPod streams an event for each word that comes over the channel, and ends
// well when it is closed or cuts when it gets "cut".
func stepPod(words <-chan string, gone chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		for {
			select {
			case word, ok := <-words:
				if !ok {
					return
				}
				if word == "cut" {
					panic(http.ErrAbortHandler)
				}
				fmt.Fprintf(w, "data: {\"text_output\":%q}\n\n", word)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				if gone != nil {
					close(gone)
				}
				return
			}
		}
	}
}

func TestEveryEventArrivesBeforeTheNextIsMade(t *testing.T) {
	words := make(chan string)
	g := newRig(t, nil, startPod(t, stepPod(words, nil)))
	got := make(chan *http.Response, 1)
	go func() {
		res, err := g.client.Do(newRequest(t, http.MethodPost, g.url+"/v2/models/llama/generate_stream", strings.NewReader("{}")))
		if err != nil {
			t.Error(err)
			close(got)
			return
		}
		got <- res
	}()
	words <- "w0"
	res, ok := <-got
	if !ok {
		t.FailNow()
	}
	defer res.Body.Close()
	in := bufio.NewReader(res.Body)
	for i := range 8 {
		// The pod makes word i+1 only after word i was read here.
		want := fmt.Sprintf("data: {\"text_output\":\"w%d\"}\n", i)
		line, err := in.ReadString('\n')
		if err != nil || line != want {
			t.Fatalf("event %d: got %q, %v; want %q", i, line, err, want)
		}
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if i < 7 {
			words <- fmt.Sprintf("w%d", i+1)
		}
	}
	close(words)
	if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
		t.Errorf("end of the stream: %q, %v; want a clean end", rest, err)
	}
	if got := res.Header.Get("X-Accel-Buffering"); got != "no" {
		t.Errorf("X-Accel-Buffering is %q, want no", got)
	}
	if got := res.Header.Get(proxy.RegionHeader); got != "here" {
		t.Errorf("%s is %q", proxy.RegionHeader, got)
	}
	g.ended(regions.EndServed, 1)
}

func TestClientThatLeavesStopsThePod(t *testing.T) {
	for _, started := range []bool{false, true} {
		t.Run(fmt.Sprintf("after the first byte %v", started), func(t *testing.T) {
			words, gone := make(chan string), make(chan struct{})
			arrived := make(chan struct{})
			step := stepPod(words, gone)
			g := newRig(t, nil, startPod(t, func(w http.ResponseWriter, r *http.Request) {
				close(arrived)
				step(w, r)
			}))
			ctx, leave := context.WithCancel(context.Background())
			defer leave()
			req := newRequest(t, http.MethodPost, g.url+"/v2/models/llama/generate_stream", strings.NewReader("{}")).WithContext(ctx)
			var all sync.WaitGroup
			read := make(chan struct{})
			all.Go(func() {
				res, err := g.client.Do(req)
				if err != nil {
					return
				}
				defer res.Body.Close()
				buf := make([]byte, 1)
				_, _ = res.Body.Read(buf)
				close(read)
				_, _ = io.Copy(io.Discard, res.Body)
			})
			<-arrived
			if started {
				words <- "one"
				<-read
			}
			left := time.Now()
			leave()
			select {
			case <-gone:
				t.Logf("the pod was told after %v", time.Since(left))
			case <-time.After(patience):
				t.Fatal("the pod still works for a client that left")
			}
			all.Wait()
			g.ended(regions.EndClientGone, 1)
			for _, s := range g.saw() {
				if s != "a:served" {
					t.Errorf("saw %s of a pod that did nothing wrong", s)
				}
			}
		})
	}
}

// wantTerminal checks that a stream ended with the event that says that it was cut.
func wantTerminal(t *testing.T, text string, err error) {
	t.Helper()
	last := text[strings.LastIndex(strings.TrimSuffix(text, "\n\n"), "\n\n")+1:]
	if err != nil || !strings.Contains(last, `"error":`) || !strings.Contains(last, `"code":"stream_interrupted"`) {
		t.Errorf("the client got %q and %v, want an event that says that the stream was cut", text, err)
	}
}

func TestCutStreamNeverLooksComplete(t *testing.T) {
	words := make(chan string)
	g := newRig(t, nil, startPod(t, stepPod(words, nil)))
	go func() { words <- "one"; words <- "cut" }()
	_, text, err := g.post("/v2/models/llama/generate_stream", "{}")
	wantTerminal(t, text, err)
	if !strings.Contains(text, "one") {
		t.Errorf("the event before the cut is missing: %q", text)
	}
	g.ended(regions.EndPodLost, 1)
	if got := strings.Join(g.saw(), " "); got != "a:lost a:served" {
		t.Errorf("saw %q", got)
	}
}

func TestCutAnswerOfKnownLengthIsCut(t *testing.T) {
	g := newRig(t, nil, startPod(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	if _, text, err := g.post("/v2/models/llama/generate", "{}"); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the client got %q and %v, want an unexpected end", text, err)
	}
	g.ended(regions.EndPodLost, 1)
}

// TestCutAnswerOverHTTP10IsReset: an answer without events has no place for an error.
func TestCutAnswerOverHTTP10IsReset(t *testing.T) {
	g := newRig(t, nil, startPod(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	_, text, err := g.raw("POST /v2/models/llama/infer HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %q and %v, want a reset: HTTP/1.0 has no other sign", text, err)
	}
	g.ended(regions.EndPodLost, 1)
}

// startTritons starts simulated pods that are busy for long enough to be caught
// in the act, and waits until they serve.
func startTritons(t *testing.T, n int) (pods []*tritontest.Pod, addrs []string) {
	t.Helper()
	model := tritontest.DefaultModel("llama")
	model.Slots, model.InterToken, model.BatchPenalty, model.StopEvery = 12, 5*time.Millisecond, 0, 0
	for range n {
		o := tritontest.DefaultOptions()
		o.Models, o.MetricsAddr = []tritontest.Model{model}, ""
		pod := tritontest.New(o)
		if err := pod.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pod.Close)
		pods, addrs = append(pods, pod), append(addrs, pod.Addr())
		regionstest.Eventually(t, patience, func() bool {
			res, err := http.DefaultClient.Do(newRequest(t, http.MethodGet, "http://"+pod.Addr()+"/v2/models/llama/ready", nil))
			if err != nil {
				return false
			}
			defer res.Body.Close()
			return res.StatusCode == http.StatusOK
		}, "the model is loaded")
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return pods, addrs
}

func TestCrashUnderStreams(t *testing.T) {
	pods, addrs := startTritons(t, 3)
	g := newRig(t, func(o *proxy.Options) { o.ExposePod, o.Admit.MaxWait = true, patience }, addrs...)
	const each, tokens = 50, 60
	var failed, begun atomic.Int64
	var all sync.WaitGroup
	for i := range 2 * each {
		verb, stream := "generate", i%2 == 0
		if stream {
			verb = "generate_stream"
		}
		body := fmt.Sprintf(`{"text_input":"number %d","parameters":{"stream":%v,"max_tokens":%d}}`, i, stream, tokens)
		all.Go(func() {
			res, err := g.client.Do(newRequest(t, http.MethodPost, g.url+"/v2/models/llama/"+verb, strings.NewReader(body)))
			if err != nil {
				t.Errorf("%s without an answer's head: %v", verb, err)
				return
			}
			defer res.Body.Close()
			// At once, while almost all are under way: what may be sent again is a share of
			// those.
			if res.Header.Get(proxy.PodHeader) == "a" && stream && begun.Add(1) == 3 {
				pods[0].Crash()
			}
			text, err := io.ReadAll(res.Body)
			switch {
			case err != nil:
				failed.Add(1)
			case res.StatusCode != http.StatusOK:
				t.Errorf("%s: status %d: %s", verb, res.StatusCode, text)
			case stream && strings.Contains(string(text), `"code":"stream_interrupted"`):
				failed.Add(1)
			case stream && strings.Count(string(text), "data: ") != tokens:
				t.Errorf("a stream that ended well has %d events, want %d", strings.Count(string(text), "data: "), tokens)
			}
		})
	}
	all.Wait()

	died := pods[0].Stats("llama")
	want := died.Cut - died.CutUnseen
	t.Logf("of pod a's requests %d were cut, %d of them without a byte sent; %d clients saw an error", died.Cut, died.CutUnseen, failed.Load())
	if want == 0 || died.CutUnseen == 0 {
		t.Error("the crash must hit requests with and without bytes to show anything")
	}
	if failed.Load() != want {
		t.Errorf("%d clients saw an error, want exactly the %d whose answer had begun", failed.Load(), want)
	}
	g.ended(regions.EndPodLost, int(want))
	g.ended(regions.EndServed, int(2*each-want))
}
