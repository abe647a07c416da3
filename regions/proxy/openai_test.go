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
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// completion is what a stream of OpenAI's adds up to.
type completion struct {
	text   string
	ids    map[string]bool
	finish string
	usage  struct {
		Prompt int `json:"prompt_tokens"`
		Answer int `json:"completion_tokens"`
		Total  int `json:"total_tokens"`
	}
	done bool
}

func completionOf(events string) (c completion, err error) {
	c.ids = map[string]bool{}
	for event := range strings.SplitSeq(strings.TrimSpace(events), "\n\n") {
		data, ok := strings.CutPrefix(event, "data: ")
		if c.done || !ok {
			return c, fmt.Errorf("out of turn: %q", event)
		}
		if data == "[DONE]" {
			c.done = true
			continue
		}
		var e struct {
			ID      string `json:"id"`
			Choices []struct {
				Text   string  `json:"text"`
				Finish *string `json:"finish_reason"`
			} `json:"choices"`
			Usage json.RawMessage `json:"usage"`
			Error json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Error != nil {
			return c, fmt.Errorf("%q: %w", data, err)
		}
		c.ids[e.ID] = true
		for _, choice := range e.Choices {
			c.text += choice.Text
			if choice.Finish != nil {
				c.finish = *choice.Finish
			}
		}
		if len(e.Usage) > 0 && string(e.Usage) != "null" {
			if err := json.Unmarshal(e.Usage, &c.usage); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// TestCompletionsGoOn: pods crash under OpenAI's streams, and every client gets one
// completion: one id, the whole text, one end, and tokens that are counted once.
func TestCompletionsGoOn(t *testing.T) {
	model := tritontest.DefaultModel("llama")
	model.Slots, model.InterToken, model.BatchPenalty, model.StopEvery = 12, 5*time.Millisecond, 0, 0
	var pods []*tritontest.Pod
	var addrs []string
	for range 3 {
		o := tritontest.DefaultOptions()
		o.Models, o.MetricsAddr, o.OpenAIAddr = []tritontest.Model{model}, "", "127.0.0.1:0"
		pod := tritontest.New(o)
		if err := pod.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pod.Close)
		pods, addrs = append(pods, pod), append(addrs, pod.OpenAIAddr())
	}
	g := newRig(t, resuming(t), addrs...)
	g.learn(len(pods))
	const streams, tokens = 15, 80
	var begun atomic.Int64 // at the first pod
	ask := func(i int) (string, error) {
		body := fmt.Sprintf(`{"model":"llama","prompt":"number %d","stream":true,"max_tokens":%d,"stream_options":{"include_usage":true}}`, i, tokens)
		res, err := g.client.Do(newRequest(t, http.MethodPost, g.url+"/v1/completions", strings.NewReader(body), "Content-Type", "application/json"))
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		head := make([]byte, 400) // some of the events
		if _, err := io.ReadFull(res.Body, head); err == nil && res.Header.Get(proxy.PodHeader) == "a" {
			begun.Add(1)
		}
		text, err := io.ReadAll(res.Body)
		text = slices.Concat(head, text)
		if res.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d: %s", res.StatusCode, text)
		}
		return string(text) + "\n", err
	}
	var want [streams]completion
	regionstest.Eventually(t, patience, func() bool { _, err := ask(0); return err == nil }, "the models are loaded")
	var all sync.WaitGroup
	for i := range want {
		all.Go(func() {
			text, err := ask(i)
			if err == nil {
				want[i], err = completionOf(text)
			}
			if err != nil || !want[i].done || want[i].usage.Answer != tokens {
				t.Errorf("without a crash: %+v, %v", want[i], err)
			}
		})
	}
	all.Wait()
	before := begun.Load()
	for i := range streams {
		all.Go(func() {
			text, err := ask(i)
			if err != nil {
				t.Error(err)
				return
			}
			got, err := completionOf(text)
			if err != nil || got.text != want[i].text || got.finish != want[i].finish || got.usage != want[i].usage || !got.done || len(got.ids) != 1 {
				t.Errorf("%v, got\n%+v, want\n%+v", err, got, want[i])
			}
		})
	}
	regionstest.Eventually(t, patience, func() bool { return begun.Load() > before }, "the first pod streams")
	pods[0].CutStreams()
	all.Wait()
	if n := g.metric("rhumb_proxy_resumes_total"); len(n) == 0 || n[0] == 0 {
		t.Error("nothing was resumed, so that nothing is shown")
	}
	g.ended(regions.EndServed, 2*streams+1)
}

// TestSeveralChoices: one of them ends, and the pod is lost. Only the pod's own mark says
// that all are whole.
func TestSeveralChoices(t *testing.T) {
	say := func(i int, text, finish string) string {
		return fmt.Sprintf(`data: {"id":"c","choices":[{"index":%d,"text":%q,"finish_reason":%s}]}`+"\n\n", i, text, finish)
	}
	var asked atomic.Int32
	pod := eventsPod(t, &asked, func(int32) ([]string, bool) {
		return []string{say(0, " a", "null"), say(1, " b", "null"), say(0, " a", `"stop"`), say(1, " b", "null")}, true
	})
	for _, tune := range []func(*proxy.Options){nil, resuming(t)} {
		g := newRig(t, tune, pod)
		g.learn(1)
		for _, body := range []string{`{"prompt":"x","n":2,"stream":true,"max_tokens":99}`, `{"prompt":["x","y"],"stream":true,"max_tokens":99}`, `{"prompt":"x","strange":2,"stream":true}`} {
			_, text, err := g.post("/v1/completions", body)
			if err != nil || strings.Contains(text, "[DONE]") || !strings.Contains(text, `"code":"stream_interrupted"`) {
				t.Errorf("%s: %v, %s", body, err, text)
			}
		}
	}
}
