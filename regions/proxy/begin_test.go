package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// lastEvent is a whole answer of one token.
const lastEvent = `data: {"text_output":" ok","finish_reason":"stop","num_output_tokens":1,"num_input_tokens":1}` + "\n\n"

// eventsPod answers with parts of an event stream, each as soon as it can be read. The
// connection is cut behind them if cut.
func eventsPod(t *testing.T, asked *atomic.Int32, parts func(n int32) (said []string, cut bool)) string {
	return startPod(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		said, cut := parts(asked.Add(1))
		w.Header().Set("Content-Type", "text/event-stream")
		for _, part := range said {
			_, _ = io.WriteString(w, part)
			_ = http.NewResponseController(w).Flush()
		}
		if cut {
			panic(http.ErrAbortHandler)
		}
	})
}

// TestAnswersBeginWithText: a pod that says nothing of the answer before it is lost, or
// before it says that it can't, has given nothing away. Another one is asked, if that is
// harmless.
func TestAnswersBeginWithText(t *testing.T) {
	const going = `data: {"error":"Server exiting: shutting down"}` + "\n\n"
	for _, c := range []struct {
		name   string
		first  []string
		cut    bool
		off    bool
		status int
		text   string
		asked  int32
	}{
		{"a comment, then lost", []string{": ping\n\n"}, true, false, 200, `{"text_output":" ok"`, 2},
		{"it can't", []string{going}, false, false, 200, `{"text_output":" ok"`, 2},
		{"a comment, then it can't", []string{": ping\n\n", going}, false, false, 200, `{"text_output":" ok"`, 2},
		{"it can't, and nobody else may be asked", []string{going}, false, true, 200, going, 1},
		{"the request is wrong", []string{`data: {"error":"no such parameter"}` + "\n\n"}, false, false, 200, "no such parameter", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int32
			parts := func(n int32) ([]string, bool) {
				if n == 1 {
					return c.first, c.cut
				}
				return []string{lastEvent}, false
			}
			g := newRig(t, func(o *proxy.Options) {
				resuming(t)(o)
				if c.off {
					r := o.Routes[llama]
					r.NoReplay, r.NoResume = true, true
					o.Routes[llama] = r
				}
			}, eventsPod(t, &asked, parts), eventsPod(t, &asked, parts))
			g.learn(2)
			// With a seed, so that it can't be resumed.
			res, text, err := g.post("/v2/models/llama/generate_stream", `{"text_input":"x","parameters":{"stream":true,"max_tokens":9,"seed":1}}`)
			if err != nil || res.StatusCode != c.status || !strings.Contains(text, c.text) || asked.Load() != c.asked {
				t.Errorf("%v, %s %q, asked %d times", err, res.Status, text, asked.Load())
			}
			if strings.Contains(text, "error") != strings.Contains(c.text, "such") && !c.off {
				t.Errorf("the client gets %q", text)
			}
		})
	}
}

// TestNobodyCanAnswer: what the last pod says is the client's, with a status that says
// the same.
func TestNobodyCanAnswer(t *testing.T) {
	var asked atomic.Int32
	parts := func(int32) ([]string, bool) { return []string{`data: {"error":"Server exiting"}` + "\n\n"}, false }
	g := newRig(t, resuming(t), eventsPod(t, &asked, parts), eventsPod(t, &asked, parts))
	g.learn(2)
	res, text, err := g.post("/v2/models/llama/generate_stream", `{"text_input":"x","parameters":{"stream":true,"seed":1}}`)
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "Server exiting") || res.Header.Get("Retry-After") == "" || asked.Load() < 2 {
		t.Errorf("%v, %s %q, asked %d times", err, res.Status, text, asked.Load())
	}
	g.ended(regions.EndFailed, 1)
}

// TestEventsOfKnownLength: a server that buffers says how long its events are. The
// client's are not of that length.
func TestEventsOfKnownLength(t *testing.T) {
	g := newRig(t, resuming(t), startPod(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Length", fmt.Sprint(len(lastEvent)))
		_, _ = io.WriteString(w, lastEvent)
	}))
	g.learn(1)
	res, text, err := g.post("/v2/models/llama/generate_stream", `{"text_input":"x","parameters":{"stream":true,"max_tokens":9}}`)
	if err != nil || text != `data: {"text_output":" ok"}`+"\n\n" || res.ContentLength >= 0 {
		t.Errorf("%v, %d %q", err, res.ContentLength, text)
	}
}

// TestSilenceInTheMiddle has a status and a reason of its own for an answer in one piece,
// of which the client has nothing yet.
func TestSilenceInTheMiddle(t *testing.T) {
	g := newRig(t, func(o *proxy.Options) {
		resuming(t)(o)
		o.Limits.Token = 200 * time.Millisecond
	}, startPod(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, `data: {"text_output":" a","finish_reason":"None","num_output_tokens":1,"num_input_tokens":1}`+"\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	g.learn(1)
	res, text, err := g.post("/v2/models/llama/generate", `{"text_input":"x","parameters":{"max_tokens":9}}`)
	if err != nil || res.StatusCode != http.StatusGatewayTimeout || res.Header.Get(proxy.ReasonHeader) != "token-timeout" {
		t.Errorf("%v, %s %q, %q", err, res.Status, res.Header.Get(proxy.ReasonHeader), text)
	}
	g.ended(regions.EndTimeout, 1)
}
