package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// TestOpenAIThroughARegion: chat and completions come as events to their mark, and when
// the pod crashes completions go on, while chat ends with an error and no mark.
func TestOpenAIThroughARegion(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, ask, prompt string
		profile, resumed  bool
	}{
		"completions":                   {"/v1/completions", `"prompt":"hi"`, "hi", true, true},
		"completions without a profile": {"/v1/completions", `"prompt":"hi"`, "hi", false, false},
		"chat":                          {"/v1/chat/completions", `"messages":[{"role":"user","content":"hi"}]`, "<|user|> hi\n<|assistant|>", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMembers(t)
			o, pods := m.options("eu-west", "llama")
			if c.profile {
				o.resumes(t)
			}
			s := m.start(o, pods)
			const tokens = 40
			body, want := `{"model":"llama",`+c.ask+`,"stream":true,"max_tokens":40}`, written("llama", c.prompt, tokens)
			if got := s.complete(c.path, body, nil); got.text != want || got.failed || !got.done || got.err != nil {
				t.Errorf("%+v, want %q", got, want)
			}
			s.slow(true)
			got := s.complete(c.path, body, func() {
				for _, p := range pods {
					if on(p) > 0 {
						p.Crash()
					}
				}
				s.slow(false)
			})
			switch {
			case got.err != nil, !strings.HasPrefix(want, got.text), got.done != c.resumed, got.failed == c.resumed:
				t.Errorf("with a crash: %+v", got)
			case c.resumed && got.text != want:
				t.Errorf("with a crash it is %q, want %q", got.text, want)
			case got.failed && !got.shaped:
				t.Errorf("its error is not OpenAI's: %+v", got)
			}
		})
	}
}

// completion is what came of a request to OpenAI's frontend.
type completion struct {
	text   string
	failed bool // with an event that says so
	shaped bool // it is OpenAI's
	done   bool // the mark of the end came
	err    error
}

// complete asks for a stream, and calls then after the first text.
func (s *site) complete(path, body string, then func()) (c completion) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.url(path), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !ok:
			continue
		case data == "[DONE]":
			c.done = true
			continue
		}
		var e struct {
			Choices []struct {
				Text  string
				Delta struct{ Content string }
			}
			Error json.RawMessage
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			s.t.Errorf("%q: %v", data, err)
		}
		if e.Error != nil {
			var shape struct{ Message, Type, Code string }
			c.failed, c.shaped = true, json.Unmarshal(e.Error, &shape) == nil && shape.Code == "stream_interrupted"
		}
		for _, choice := range e.Choices {
			c.text += choice.Text + choice.Delta.Content
		}
		if c.text != "" && then != nil {
			then()
			then = nil
		}
	}
	c.err = lines.Err()
	return c
}
