package resume_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
)

const plain = `{"text_input":"p","stream":true,"max_tokens":5}`

// What the client did not ask for is taken out, and nothing else is touched.
func TestEventsAreKept(t *testing.T) {
	asks := strings.Replace(plain, "}", `,"return_finish_reason":true,"return_num_output_tokens":true,"return_num_input_tokens":true}`, 1)
	full := `data: { "finish_reason" : "None","id":"7" , "num_input_tokens":1,"num_output_tokens":1, "text_output":"\u00e9\/" }` + "\n\n"
	for _, c := range []struct {
		name, body, event, want string
	}{
		{"all stripped", plain, full, `data: { "id":"7", "text_output":"\u00e9\/" }` + "\n\n"},
		{"none stripped", asks, full, ""},
		{"at the ends", plain, `data: {"num_output_tokens":1,"text_output":"a","finish_reason":"stop"}` + "\n\n", `data: {"text_output":"a"}` + "\n\n"},
		{"CRLF and comments", plain, ": x\r\ndata:{\"text_output\":\"a\",\"finish_reason\":\"None\"}\r\n\r\n", ": x\r\ndata:{\"text_output\":\"a\"}\r\n\r\n"},
		{"two lines", plain, "data: {\"text_output\":\"a\",\ndata: \"num_output_tokens\":1}\n\n", "data: {\"text_output\":\"a\"}\n\n"},
		{
			"two lines that stay", plain, "data: {\"num_output_tokens\":1,\ndata: \"text_output\":\"a\",\ndata: \"x\":1}\n\n",
			"data: {\"text_output\":\"a\", \"x\":1}\n\n",
		},
		{"two lines, nothing to do", asks, "data: {\"text_output\":\"a\",\ndata: \"num_output_tokens\":1}\n\n", ""},
		{"comment", plain, ": x\n\n", ""},
		{"blank", plain, "\r\n", ""},
		{"not JSON", plain, "data: {\n\n", ""},
		{"a list", plain, `data: {"text_output":["a","b"],"num_output_tokens":[1,1]}` + "\n\n", ""},
		{"named", plain, "event: x\ndata: {\"text_output\":\"a\"}\n\n", ""},
		{"key twice", plain, `data: {"text_output":"a","text_output":"b"}` + "\n\n", ""},
		{"not UTF-8", plain, "data: {\"text_output\":\"\xff\"}\n\n", ""},
		{"negative count", plain, `data: {"text_output":"a","num_output_tokens":-1}` + "\n\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.want == "" {
				c.want = c.event
			}
			s := session(t, "vllm", c.body)
			if out, err := s.Event([]byte(c.event)); err != nil || string(out) != c.want {
				t.Errorf("%q gives %q, %v; want %q", c.event, out, err, c.want)
			}
		})
	}
}

// A session that has met an event which it does not understand goes on as a
// relay.
func TestEventNotUnderstood(t *testing.T) {
	for _, event := range []string{
		"data: {\n\n", "data: [1]\n\n", "event: x\ndata: {}\n\n", "id: 1\n\n", "\ufeffdata: {}\n\n",
		"data: {\"text_output\":[\"a\"]}\n\n", "data: {\"other\":1}\n\n",
		"event: x\ndata: {\"text_output\":\"a\"}\n\n", "data: {\"text_output\":\"a\",\"text_output\":\"a\"}\n\n",
	} {
		s := session(t, "vllm", plain)
		relay(t, s, []string{delta("a", "None"), ": fine\n\n", event})
		var refused *resume.RefusalError
		if _, err := s.Continue(start); !errors.As(err, &refused) || refused.Reason != resume.ReasonEvent || s.Refusal() != resume.ReasonEvent {
			t.Errorf("after %q: %v", event, err)
		}
		if out := relay(t, s, []string{delta("b", "stop")}); out != "data: {\"text_output\":\"b\"}\n\n" {
			t.Errorf("after %q: %q", event, out)
		}
	}
}

// A request that can't be resumed is not kept for the life of its stream.
func TestRefusedIsForgotten(t *testing.T) {
	s := session(t, "vllm", strings.Replace(plain, "}", `,"seed":1}`, 1))
	if relay(t, s, []string{delta("a", "None")}); len(s.Body()) != 0 {
		t.Errorf("%s", s.Body())
	}
}

// A backend that does not know the questions is asked none.
func TestUncounted(t *testing.T) {
	s := session(t, "vllm-uncounted", plain)
	if string(s.Body()) != plain {
		t.Errorf("the pod is sent %s", s.Body())
	}
	relay(t, s, []string{`data: {"text_output":"a"}` + "\n\n"})
	body, err := s.Continue(start)
	if q := read(t, body); err != nil || q.Prompt != "pa" || q.Finish || q.NumOutput || q.NumInput {
		t.Errorf("%s, %v", body, err)
	}
}

// Heartbeats mean nothing.
func TestComments(t *testing.T) {
	s := session(t, "vllm", plain)
	relay(t, s, []string{": x\n\n", delta("a", "None"), "\n", ": y\r\n\r\n"})
	if body, err := s.Continue(start); err != nil || read(t, body).Prompt != "pa" {
		t.Errorf("%s, %v", body, err)
	}
}

// A first event from which no other could be made for want of room.
func TestFrameIsBounded(t *testing.T) {
	s := session(t, "vllm", plain)
	event := `data: {"text_output":"a","x":"` + strings.Repeat("x", 16<<10) + `"}` + "\n\n"
	if out := relay(t, s, []string{event}); out != event || s.Refusal() != resume.ReasonEvent {
		t.Errorf("%q", s.Refusal())
	}
}

func TestCumulativeHeld(t *testing.T) {
	p := profile(t, "trtllm-cumulative")
	s := resume.Open(p, resume.DefaultLimits(), []byte(`{"text_input":"p","stream":true,"max_tokens":9,"stop_words":["</a>"]}`))
	event := func(text string) string { return `data: {"text_output":"` + text + `"}` + "\n\n" }
	stream := relay(t, s, []string{event("x<")})
	if _, err := s.Continue(start); err != nil {
		t.Fatal(err)
	}
	stream += relay(t, s, []string{event("/")})
	if have := client(t, stream, true); have.text != "x<" {
		t.Errorf("held: %+v", have)
	}
	if have := client(t, stream+finish(t, s), true); have.text != "x</" {
		t.Errorf("%+v", have)
	}
}

// Text so far: what a pod replaces of it is the end of a character, or not
// understood.
func TestCumulative(t *testing.T) {
	p := profile(t, "trtllm-cumulative")
	event := func(text string) string {
		return `data: {"text_output":"` + text + `"}` + "\n\n"
	}
	s := resume.Open(p, resume.DefaultLimits(), []byte(plain))
	events := []string{event("a"), event("a\ufffd"), event("a\ufffd\ufffd"), event("aé"), event("aé\ufffd")}
	if out := relay(t, s, events); out != strings.Join(events, "") {
		t.Errorf("the first pod's events are changed: %q", out)
	}
	body, err := s.Continue(start)
	if err != nil || read(t, body).Prompt != "paé" {
		t.Fatalf("%s, %v", body, err)
	}
	if out := relay(t, s, []string{event("b"), event("bc")}); out != event("aéb")+event("aébc") {
		t.Errorf("the second pod's: %q", out)
	}
	if out := relay(t, s, []string{event("x"), event("xy")}); s.Refusal() != resume.ReasonEvent || out != event("aéx")+event("aéxy") {
		t.Errorf("text taken back: %q, %q", s.Refusal(), out)
	}
}

func TestTextIsBounded(t *testing.T) {
	l := resume.DefaultLimits()
	l.Text = 10
	s := resume.Open(profile(t, "vllm"), l, []byte(plain))
	if relay(t, s, []string{delta("0123456789", "None")}); s.Refusal() != "" {
		t.Fatalf("at the limit: %q", s.Refusal())
	}
	if out := relay(t, s, []string{delta("0", "None")}); s.Refusal() != resume.ReasonText || out != "data: {\"text_output\":\"0\"}\n\n" {
		t.Fatalf("beyond the limit: %q, %q", s.Refusal(), out)
	}
	if _, err := s.Continue(start); err == nil {
		t.Error("continued beyond the limit")
	}
	if c := s.Counts(); c.Tokens != 2 || c.Text != 11 {
		t.Errorf("counts %+v", c)
	}
}

func TestPodErrors(t *testing.T) {
	for _, c := range []struct {
		data      string
		text      string
		retryable bool
	}{
		{`{"error":"GRPC server is shutting down and has stopped accepting new requests."}`, "", true},
		{`{"error":"Server exiting"}`, "", true},
		{`{"error":"[request id: 42] Exceeds maximum queue size"}`, "", true},
		{`{"error":"Request timeout expired"}`, "", true},
		{`{"error":"Request for unknown model: 'llama' has no available versions"}`, "", true},
		{`{"error":"Request for unknown model: 'llama' version 1 is not at ready state"}`, "", true},
		{`{"error":"Stub process 'vllm_0' is not healthy."}`, "", true},
		{`{"error":"Error generating stream: max_tokens must be at least 1, got 0."}`, "", false},
		{`{"error":""}`, "", false},
		{`{"error":{"message":"Service unavailable","code":503}}`, "Service unavailable", true},
		{`{"error":{"message":"bad prompt"}}`, "bad prompt", false},
		{`{"error":[1]}`, "[1]", false},
	} {
		for _, name := range []string{"vllm", "openai", ""} {
			s := resume.Open(resume.Profile{}, resume.DefaultLimits(), []byte(plain))
			if name != "" {
				s = session(t, name, plain)
			}
			event := "data: " + c.data + "\n\n"
			out, err := s.Event([]byte(event))
			var failed *resume.PodError
			if !errors.As(err, &failed) || failed.Retryable != c.retryable || string(out) != event || c.text != "" && failed.Text != c.text {
				t.Errorf("%q, %s: %q, %v", name, c.data, out, err)
			}
		}
	}
	s := session(t, "vllm", plain)
	if _, err := s.Event([]byte(`data: {"error":null,"text_output":"a"}` + "\n\n")); err != nil || s.Counts().Text != 1 {
		t.Errorf("no error: %v", err)
	}
}

// An error of a pod in the middle: the text goes on behind what the client has.
func TestErrorThenResume(t *testing.T) {
	s := session(t, "vllm", plain)
	stream := relay(t, s, []string{delta("a", "None")})
	if _, err := s.Event([]byte(`data: {"error":"Server exiting"}` + "\n\n")); err == nil {
		t.Fatal("no error")
	}
	body, err := s.Continue(start)
	if err != nil || read(t, body).Prompt != "pa" {
		t.Fatalf("%s, %v", body, err)
	}
	if have := client(t, stream+relay(t, s, []string{delta("b", "stop")})+finish(t, s), false); have.text != "ab" || have.failed != "" {
		t.Errorf("%+v", have)
	}
}

// A pod that gives a request up says so where it says why a text has ended, and some
// clients have not asked for that.
func TestGivenUp(t *testing.T) {
	for _, c := range []struct{ name, body, event string }{
		{"vllm", plain, delta("b", "abort")},
		{"vllm", plain, delta("b", "error")},
		{"vllm", strings.Replace(plain, "}", `,"return_finish_reason":true}`, 1), delta("b", "abort")},
		{"openai", `{"prompt":"p","stream":true}`, `data: {"id":"x","choices":[{"text":"b","finish_reason":"abort"}]}` + "\n\n"},
	} {
		first := strings.NewReplacer("abort", "None", "error", "None", `"b"`, `"a"`).Replace(c.event)
		if c.name == "openai" {
			first = strings.Replace(first, `"None"`, "null", 1)
		}
		s := session(t, c.name, c.body)
		relay(t, s, []string{first})
		out, err := s.Event([]byte(c.event))
		if failed, ok := errors.AsType[*resume.PodError](err); !ok || !failed.Retryable || out != nil {
			t.Errorf("%s: %q, %v", c.event, out, err)
		}
		if _, err := s.Finish(); !errors.Is(err, resume.ErrCut) {
			t.Errorf("%s: the answer is whole: %v", c.event, err)
		}
		if body, err := s.Continue(start); err != nil || read(t, body).Prompt != "pa" {
			t.Errorf("%s: %s, %v", c.event, body, err)
		}
	}
	// One that is not resumed gets the pod's own words.
	s := session(t, "vllm", strings.Replace(plain, "}", `,"seed":1}`, 1))
	if out, err := s.Event([]byte(delta("b", "abort"))); string(out) != delta("b", "abort") || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// How a pod's clean end is taken: as the end, or as a cut.
func TestFinish(t *testing.T) {
	choice := func(finish string) string {
		return `data: {"id":"x","choices":[{"text":"a","finish_reason":` + finish + `}]}` + "\n\n"
	}
	const completion = `{"prompt":"p","stream":true,"max_tokens":2}`
	for _, c := range []struct {
		name, profile, body string
		events              []string
		want                error
		out                 string
	}{
		{"the reason was seen", "vllm", plain, []string{delta("a", "stop")}, nil, ""},
		{"it was not", "vllm", plain, []string{delta("a", "None")}, resume.ErrCut, ""},
		{"nothing was", "vllm", plain, nil, resume.ErrCut, ""},
		{"refused", "vllm", strings.Replace(plain, "}", `,"seed":1}`, 1), []string{delta("a", "None")}, nil, ""},
		{"no reasons there", "trtllm", plain, []string{`data: {"text_output":"a"}` + "\n\n"}, nil, ""},
		{"marked", "openai", completion, []string{choice(`"stop"`), "data: [DONE]\n\n"}, nil, ""},
		{"mark lost", "openai", completion, []string{choice(`"stop"`)}, nil, "data: [DONE]\n\n"},
		{"text lost", "openai", completion, []string{choice(`null`)}, resume.ErrCut, ""},
		{"refused, text lost", "openai", `{"messages":[],"stream":true}`, []string{choice(`null`)}, resume.ErrCut, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := session(t, c.profile, c.body)
			relay(t, s, c.events)
			out, err := s.Finish()
			if !errors.Is(err, c.want) || string(out) != c.out {
				t.Errorf("%q, %v; want %q, %v", out, err, c.out, c.want)
			}
		})
	}
}

// All tokens are there, and the last event was lost: the client gets one that says
// so, if it was to get one.
func TestLastEventLost(t *testing.T) {
	for _, c := range []struct{ profile, body, event, want string }{
		{"vllm", `{"text_input":"p","stream":true,"max_tokens":1}`, delta("a", "None"), ""},
		{
			"vllm", `{"text_input":"p","stream":true,"max_tokens":1,"return_finish_reason":true}`, delta("a", "None"),
			"data: {\"finish_reason\":\"length\",\"text_output\":\"\"}\n\n",
		},
		{
			"openai", `{"prompt":"p","stream":true,"max_tokens":1}`, `data: {"id":"x","choices":[ {"text":"a","finish_reason":null} ]}` + "\n\n",
			`data: {"id":"x","choices":[ {"text":"","finish_reason":"length"} ]}` + "\n\ndata: [DONE]\n\n",
		},
	} {
		s := session(t, c.profile, c.body)
		relay(t, s, []string{c.event})
		if _, err := s.Continue(start); !errors.Is(err, resume.ErrComplete) {
			t.Errorf("%s: %v", c.body, err)
		}
		if out := finish(t, s); out != c.want {
			t.Errorf("%s: %q, want %q", c.body, out, c.want)
		}
		if out := finish(t, s); out != "" {
			t.Errorf("%s: twice: %q", c.body, out)
		}
	}
}

// Text that is held at the seam when the pod ends without a reason comes out.
func TestHeldText(t *testing.T) {
	s := session(t, "trtllm", `{"text_input":"p","stream":true,"max_tokens":9,"stop_words":["</a>"]}`)
	event := func(text string) string { return `data: {"id":"7","text_output":"` + text + `"}` + "\n\n" }
	stream := relay(t, s, []string{event("x<")})
	if _, err := s.Continue(start); err != nil {
		t.Fatal(err)
	}
	stream += relay(t, s, []string{event("/")})
	if have := client(t, stream, false); have.text != "x<" || have.events != 2 {
		t.Errorf("held: %+v", have)
	}
	if have := client(t, stream+finish(t, s), false); have.text != "x</" || len(have.ids) != 1 || s.Counts().Text != 3 {
		t.Errorf("%+v, %+v", have, s.Counts())
	}
	// Cut again while it is held: the client does not have it, so it is asked for anew.
	s = session(t, "trtllm", `{"text_input":"p","stream":true,"max_tokens":9,"stop_words":["</a>"]}`)
	stream = relay(t, s, []string{event("x<")})
	if _, err := s.Continue(start); err != nil {
		t.Fatal(err)
	}
	stream += relay(t, s, []string{event("/")})
	body, err := s.Continue(start)
	if err != nil || read(t, body).Prompt != "px<" || read(t, body).MaxTokens != 8 {
		t.Errorf("%s, %v", body, err)
	}
	stream += relay(t, s, []string{event("/"), event("b")})
	if have := client(t, stream+finish(t, s), false); have.text != "x</b" || s.Counts().Tokens != 3 {
		t.Errorf("%+v, %+v", have, s.Counts())
	}
}

// OpenAI's mark is the end, whether a reason was given or not.
func TestDoneIsTheEnd(t *testing.T) {
	s := session(t, "openai", `{"prompt":"p","stream":true}`)
	relay(t, s, []string{`data: {"choices":[{"text":"a"}]}` + "\n\n", "data: [DONE]\n\n"})
	if _, err := s.Continue(start); !errors.Is(err, resume.ErrComplete) {
		t.Error(err)
	}
	if out := finish(t, s); out != "" {
		t.Errorf("%q", out)
	}
}

// Events of Triton's own frontend, though the profile is OpenAI's, end as Triton's do.
func TestFinishOfAnotherFrontend(t *testing.T) {
	s := resume.Open(resume.OpenAI(), resume.DefaultLimits(), []byte(plain))
	if out := relay(t, s, []string{delta("a", "stop")}) + finish(t, s); out != delta("a", "stop") {
		t.Errorf("%q", out)
	}
}

// What went past the session can't be put behind the prompt.
func TestSkip(t *testing.T) {
	s := session(t, "vllm", plain)
	relay(t, s, []string{delta("a", "None")})
	s.Skip()
	if out := relay(t, s, []string{delta("b", "None")}); out != "data: {\"text_output\":\"b\"}\n\n" || s.Refusal() != resume.ReasonEvent {
		t.Errorf("%q, %q", out, s.Refusal())
	}
	if _, err := s.Continue(start); err == nil {
		t.Error("continued")
	}
}

func TestTerminal(t *testing.T) {
	for _, name := range resume.Names() {
		e := session(t, name, plain).Terminal("a \"pod\"\nwas lost")
		var said struct {
			Error     any
			Code      string
			Resumable *bool
		}
		data := sse.Parse(e).Data
		if err := json.Unmarshal(data, &said); err != nil || !bytes.HasSuffix(e, []byte("}\n\n")) {
			t.Fatalf("%s: %q: %v", name, e, err)
		}
		text := said.Error
		if o, ok := said.Error.(map[string]any); ok {
			text = o["message"]
			said.Code, _ = o["code"].(string)
			resumable, _ := o["resumable"].(bool)
			said.Resumable = &resumable
		}
		if text != "a \"pod\"\nwas lost" || said.Code != "stream_interrupted" || said.Resumable == nil || *said.Resumable {
			t.Errorf("%s: %q", name, e)
		}
	}
}

// What an event costs with everything asked and stripped: some 2 microseconds are
// nothing beside a token's tens of milliseconds.
func BenchmarkEvent(b *testing.B) {
	event := []byte(`data: {"finish_reason":"None","id":"42","model_name":"llama","model_version":"1","num_input_tokens":12,"num_output_tokens":1,"text_output":" word"}` + "\n\n")
	l := resume.DefaultLimits()
	l.Text = 1 << 40
	s := resume.Open(profile(b, "vllm"), l, []byte(plain))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Event(event); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzEvent gives any events to sessions that are continued in between: what goes to
// the client are whole events, and the text that it has is the text that the next
// pod is given.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(delta("a", "None")), []byte(delta("<", "None")), []byte(delta("b", "stop")))
	f.Add([]byte(`data: {"choices":[{"text":"a","finish_reason":null}],"usage":null}`+"\n\n"), []byte("data: [DONE]\n\n"), []byte(": x\n\n"))
	f.Add([]byte("data: {\"text_output\":\ndata: \"a<\"}\n\n"), []byte("\r\r"), []byte(`data: {"error":"x"}`+"\n\n"))
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		for _, name := range resume.Names() {
			for _, cumulative := range []bool{false, true} {
				p := profile(t, name)
				p.Cumulative = cumulative
				l := resume.DefaultLimits()
				l.Text = 64
				body := `{"text_input":"","stream":true,"max_tokens":9,"stop":["<b"]}`
				switch name {
				case "openai":
					body = strings.Replace(body, "text_input", "prompt", 1)
				case "trtllm":
					body = strings.Replace(body, "stop", "stop_words", 1)
				}
				s := resume.Open(p, l, []byte(body))
				fuzzed(t, s, name, cumulative, a, b, c)
			}
		}
	})
}

func fuzzed(t *testing.T, s *resume.Session, name string, cumulative bool, pieces ...[]byte) {
	t.Helper()
	var text string
	for _, piece := range pieces {
		split := sse.NewSplitter(1 << 16)
		split.Feed(piece)
		for {
			e, err := split.Next()
			if err != nil || e == nil {
				break
			}
			out, err := s.Event(bytes.Clone(e))
			if err != nil {
				break
			}
			if !bytes.Equal(out, e) && len(out) > 0 && !wholeEvent(out) {
				t.Fatalf("%s: %q became %q, which is not an event", name, e, out)
			}
			text = heard(text, out, name, cumulative)
		}
		if next, err := s.Continue(start); err == nil {
			q := read(t, next)
			if !cumulative && q.Prompt != text {
				t.Fatalf("%s: the client has %q, the next pod is given %q", name, text, q.Prompt)
			}
			if q.MaxTokens < 1 || q.MaxTokens > 9 {
				t.Fatalf("%s: %d tokens are left", name, q.MaxTokens)
			}
		}
	}
	if s.Counts().Text > 1<<20 {
		t.Fatal("text out of nothing")
	}
}

// wholeEvent tells whether the bytes are one event.
func wholeEvent(raw []byte) bool {
	split := sse.NewSplitter(1 << 16)
	split.Feed(raw)
	e, err := split.Next()
	return err == nil && len(e) == len(raw)
}

// heard is a client's text with one more event.
func heard(text string, event []byte, name string, cumulative bool) string {
	var e struct {
		Text    string `json:"text_output"`
		Choices []struct {
			Text string `json:"text"`
		} `json:"choices"`
	}
	if json.Unmarshal(sse.Parse(event).Data, &e) != nil {
		return text
	}
	if name == "openai" {
		e.Text = ""
		if len(e.Choices) == 1 {
			e.Text = e.Choices[0].Text
		}
	}
	if cumulative {
		return e.Text
	}
	return text + e.Text
}
