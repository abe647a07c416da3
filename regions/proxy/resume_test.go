package proxy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// loaded is the fingerprint of the pods' model, as far as nothing else is said.
var loaded = regions.Fingerprint{Version: 1, ConfigHash: 7}

// resuming makes a rig resume llama's streams.
func resuming(tb testing.TB) func(*proxy.Options) {
	profile, err := resume.NewProfile("vllm")
	if err != nil {
		tb.Fatal(err)
	}
	return func(o *proxy.Options) {
		o.ExposePod, o.Admit.MaxWait = true, patience
		o.Routes = map[regions.ModelName]proxy.Route{llama: {Profile: profile}}
	}
}

// learn tells the rig's pool the fingerprints of its pods.
func (g *rig) learn(pods int) {
	for i := range pods {
		g.pool.Learn(time.Now(), regions.PodID(rune('a'+i)), llama, regions.Facts{Fingerprint: loaded})
	}
}

// textOf joins a stream's text.
func textOf(t *testing.T, events string) string {
	t.Helper()
	var text strings.Builder
	for event := range strings.SplitSeq(events, "\n\n") {
		data, ok := strings.CutPrefix(event, "data: ")
		if !ok {
			continue
		}
		var e struct {
			Text  string `json:"text_output"`
			Error string `json:"error"`
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Error != "" {
			t.Errorf("event %q: %v", data, err)
		}
		text.WriteString(e.Text)
	}
	return text.String()
}

// TestCrashesAreNotSeen: pods crash under streams and answers in one piece, and every
// client gets the text that no crash would have changed.
func TestCrashesAreNotSeen(t *testing.T) {
	pods, addrs := startTritons(t, 4)
	g := newRig(t, resuming(t), addrs...)
	g.learn(len(pods))
	const each, tokens = 40, 80
	var resumed, begun atomic.Int64
	var all sync.WaitGroup
	for i := range 2 * each {
		verb, stream, prompt := "generate", i%2 == 0, fmt.Sprintf("number %d", i)
		if stream {
			verb = "generate_stream"
		}
		body := fmt.Sprintf(`{"text_input":%q,"parameters":{"stream":%v,"max_tokens":%d}}`, prompt, stream, tokens)
		want := strings.Join(tritontest.Tokens("llama", prompt, tokens), "")
		all.Go(func() {
			res, err := g.client.Do(newRequest(t, http.MethodPost, g.url+"/v2/models/llama/"+verb, strings.NewReader(body)))
			if err != nil {
				t.Errorf("%s: %v", verb, err)
				return
			}
			defer res.Body.Close()
			if stream && res.Header.Get(proxy.PodHeader) < "c" {
				begun.Add(1)
			}
			text, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Errorf("%s: %v, status %d: %s", verb, err, res.StatusCode, text)
				return
			}
			if res.Trailer.Get(proxy.ResumedHeader)+res.Header.Get(proxy.ResumedHeader) != "" {
				resumed.Add(1)
			}
			got := ""
			if stream {
				got = textOf(t, string(text))
			} else if err := json.Unmarshal(text, &struct {
				Text *string `json:"text_output"`
			}{&got}); err != nil {
				t.Errorf("%s: %v", text, err)
			} else {
				want = prompt + want
			}
			if got != want {
				t.Errorf("%s %d: got\n%q, want\n%q", verb, i, got, want)
			}
		})
	}
	regionstest.Eventually(t, patience, func() bool { return begun.Load() >= 6 }, "the first pods stream")
	pods[0].Crash()
	regionstest.Eventually(t, patience, func() bool {
		n := g.metric("rhumb_proxy_resumes_total")
		return len(n) > 0 && n[0] >= 3
	}, "some go on, and others are about to")
	pods[1].Crash()
	all.Wait()
	t.Logf("%d of %d answers went on at another pod", resumed.Load(), 2*each)
	if resumed.Load() == 0 {
		t.Error("nothing was resumed, so that nothing is shown")
	}
	g.ended(regions.EndServed, 2*each)
}

// TestAnswersInOnePieceStartOver: of those the client has nothing yet, so that without a
// resume they are asked for anew, once.
func TestAnswersInOnePieceStartOver(t *testing.T) {
	pods, addrs := startTritons(t, 3)
	g := newRig(t, func(o *proxy.Options) {
		resuming(t)(o)
		route := o.Routes[llama]
		route.NoResume = true
		o.Routes[llama] = route
	}, addrs...)
	cut := int64(0)
	lose := func() bool {
		return slices.ContainsFunc(pods, func(p *tritontest.Pod) bool { return p.CutStreams() > 0 })
	}
	lost := func() bool {
		n := int64(0)
		for _, p := range pods {
			n += p.Stats("llama").CutStreams
		}
		return n == cut
	}
	const body = `{"text_input":"start","parameters":{"max_tokens":100}}`
	want := "start" + strings.Join(tritontest.Tokens("llama", "start", 100), "")
	for _, losses := range []int{1, 2} {
		var all sync.WaitGroup
		all.Go(func() {
			res, text, err := g.post("/v2/models/llama/generate", body)
			switch {
			case err != nil:
				t.Error(err)
			case losses == 1 && (res.StatusCode != http.StatusOK || !strings.Contains(text, want)):
				t.Errorf("status %d: %s", res.StatusCode, text)
			case losses == 2 && res.StatusCode != http.StatusBadGateway:
				t.Errorf("lost twice: status %d: %s", res.StatusCode, text)
			}
		})
		for range losses {
			cut++
			regionstest.Eventually(t, patience, lose, "a pod answers")
			regionstest.Eventually(t, patience, lost, "it knows that it was cut")
		}
		all.Wait()
	}
}
