package resume_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

const llama = "llama"

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func profile(tb testing.TB, name string) resume.Profile {
	tb.Helper()
	p, err := resume.NewProfile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func session(tb testing.TB, name, body string) *resume.Session {
	tb.Helper()
	return resume.Open(profile(tb, name), resume.DefaultLimits(), []byte(body))
}

// pod is what a pod answers to a body: the tokens of the simulator, as events of
// its profile.
type pod struct {
	profile    string
	cumulative bool
}

// said is a body as a pod understands it.
type said struct {
	ID         string          `json:"id"`
	TextInput  string          `json:"text_input"`
	Prompt     string          `json:"prompt"`
	Stream     bool            `json:"stream"`
	Exclude    *bool           `json:"exclude_input_in_output"`
	MaxTokens  int             `json:"max_tokens"`
	Finish     bool            `json:"return_finish_reason"`
	NumInput   bool            `json:"return_num_input_tokens"`
	NumOutput  bool            `json:"return_num_output_tokens"`
	Sampling   string          `json:"sampling_parameters"`
	Parameters json.RawMessage `json:"parameters"`
	Options    struct {
		Usage bool `json:"include_usage"`
	} `json:"stream_options"`
}

func read(tb testing.TB, body []byte) said {
	tb.Helper()
	var q said
	if err := json.Unmarshal(body, &q); err != nil {
		tb.Fatalf("body %s: %v", body, err)
	}
	q.Prompt += q.TextInput
	if q.Parameters != nil {
		if err := json.Unmarshal(q.Parameters, &q); err != nil {
			tb.Fatalf("parameters %s: %v", q.Parameters, err)
		}
	}
	if q.Sampling != "" {
		if err := json.Unmarshal([]byte(q.Sampling), &q); err != nil {
			tb.Fatalf("sampling parameters %s: %v", q.Sampling, err)
		}
	}
	if q.MaxTokens == 0 {
		q.MaxTokens = 16
	}
	if !q.Stream || q.Exclude != nil && !*q.Exclude {
		tb.Fatalf("body %s does not ask for a stream of text without the prompt", body)
	}
	return q
}

// words is how many tokens a prompt of the tests has: their words are short.
func words(text string) int { return len(strings.Fields(text)) }

// events are the pod's answer.
func (p pod) events(tb testing.TB, body []byte) []string {
	tb.Helper()
	q := read(tb, body)
	tokens := tritontest.Tokens(llama, q.Prompt, q.MaxTokens)
	var list []string
	for i, token := range tokens {
		if p.cumulative {
			token = strings.Join(tokens[:i+1], "")
		}
		list = append(list, p.event(q, token, i == len(tokens)-1))
	}
	if p.profile == "openai" {
		if q.Options.Usage {
			list = append(list, fmt.Sprintf(`data: {"id":"cmpl-%d","choices":[],"created":%[1]d,"object":"text_completion",`+
				`"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}`+"\n\n",
				len(q.Prompt), words(q.Prompt), len(tokens), words(q.Prompt)+len(tokens)))
		}
		list = append(list, "data: [DONE]\n\n")
	}
	return list
}

// event is one token in Triton's form: keys in alphabetical order. OpenAI's IDs
// differ from pod to pod.
func (p pod) event(q said, token string, last bool) string {
	quoted, _ := json.Marshal(token)
	if p.profile == "openai" {
		finish := "null"
		if last {
			finish = `"length"`
		}
		return fmt.Sprintf(`data: {"id":"cmpl-%d","choices":[{"finish_reason":%s,"index":0,"logprobs":null,"text":%s}],"created":%[1]d,"object":"text_completion"}`+"\n\n",
			len(q.Prompt), finish, quoted)
	}
	var b strings.Builder
	b.WriteString("data: {")
	if q.Finish {
		finish := "None"
		if last {
			finish = "length"
		}
		fmt.Fprintf(&b, `"finish_reason":%q,`, finish)
	}
	if q.ID != "" {
		fmt.Fprintf(&b, `"id":%q,`, q.ID)
	}
	fmt.Fprintf(&b, `"model_name":%q,"model_version":"1",`, llama)
	if q.NumInput {
		fmt.Fprintf(&b, `"num_input_tokens":%d,`, words(q.Prompt))
	}
	if q.NumOutput {
		b.WriteString(`"num_output_tokens":1,`)
	}
	fmt.Fprintf(&b, `"text_output":%s}`+"\n\n", quoted)
	return b.String()
}

// got is what a client makes of its events.
type got struct {
	raw    string
	text   string
	events int
	tokens int // as told
	input  int
	finish string
	ids    map[string]bool
	done   bool
	failed string
}

func client(tb testing.TB, stream string, cumulative bool) got {
	tb.Helper()
	g := got{raw: stream, ids: make(map[string]bool)}
	split := sse.NewSplitter(1 << 20)
	split.Feed([]byte(stream))
	for {
		raw, err := split.Next()
		if err != nil || raw == nil {
			break
		}
		data := sse.Parse(raw).Data
		switch {
		case data == nil:
		case string(data) == "[DONE]":
			g.done = true
		default:
			g.take(tb, data, cumulative)
		}
	}
	if rest := split.Rest(); len(rest) > 0 {
		tb.Fatalf("the client has half an event: %q", rest)
	}
	return g
}

func (g *got) take(tb testing.TB, data []byte, cumulative bool) {
	tb.Helper()
	var e struct {
		ID      string          `json:"id"`
		Created int             `json:"created"`
		Text    string          `json:"text_output"`
		Finish  string          `json:"finish_reason"`
		Output  int             `json:"num_output_tokens"`
		Input   int             `json:"num_input_tokens"`
		Error   json.RawMessage `json:"error"`
		Choices []struct {
			Text   string `json:"text"`
			Finish string `json:"finish_reason"`
		} `json:"choices"`
		Usage *struct {
			Prompt     int `json:"prompt_tokens"`
			Completion int `json:"completion_tokens"`
		} `json:"usage"`
	}
	if err := json.Unmarshal(data, &e); err != nil {
		tb.Fatalf("the client was sent %s: %v", data, err)
	}
	if e.Error != nil {
		g.failed = string(e.Error)
		return
	}
	for _, c := range e.Choices {
		e.Text, e.Finish = e.Text+c.Text, c.Finish
	}
	if cumulative {
		g.text = ""
	}
	g.events++
	g.text += e.Text
	g.tokens += e.Output
	g.ids[e.ID+"/"+fmt.Sprint(e.Created)] = true
	if e.Input > 0 {
		g.input = e.Input
	}
	if e.Finish != "" && e.Finish != "None" {
		g.finish = e.Finish
	}
	if e.Usage != nil {
		g.input, g.tokens = e.Usage.Prompt, e.Usage.Completion
	}
}

// relay takes events to a client until they end or the session stops.
func relay(tb testing.TB, s *resume.Session, events []string) string {
	tb.Helper()
	var b strings.Builder
	for _, e := range events {
		if s.Stopped() {
			break
		}
		out, err := s.Event([]byte(e))
		if err != nil {
			tb.Fatalf("event %q: %v", e, err)
		}
		b.Write(out)
	}
	return b.String()
}

// finish ends a client's stream.
func finish(tb testing.TB, s *resume.Session) string {
	tb.Helper()
	out, err := s.Finish()
	if err != nil {
		tb.Fatalf("Finish: %v", err)
	}
	return string(out)
}
