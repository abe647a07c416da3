package resume_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// The requests that are cut everywhere.
var streams = []struct {
	name, body string
	pod        pod
}{
	{"vllm", `{"id":"7","text_input":"Set sail","parameters":{"stream":true,"max_tokens":9}}`, pod{profile: "vllm"}},
	{"vllm top", `{"text_input":"Set sail","stream":true,"max_tokens":9,"temperature":0.5}`, pod{profile: "vllm"}},
	{"vllm default", `{"text_input":"Set sail","stream":true}`, pod{profile: "vllm"}},
	{"vllm sampling", `{"text_input":"Set sail","stream":true,"sampling_parameters":"{\"top_p\":0.9, \"max_tokens\":9}"}`, pod{profile: "vllm"}},
	{
		"vllm asks", `{"text_input":"Set sail","stream":true,"max_tokens":9,"return_finish_reason":true,"return_num_output_tokens":true,"return_num_input_tokens":true}`,
		pod{profile: "vllm"},
	},
	{"trtllm", `{"text_input":"Set sail","stream":true,"max_tokens":9}`, pod{profile: "trtllm"}},
	{"trtllm cumulative", `{"text_input":"Set sail","stream":true,"max_tokens":9}`, pod{profile: "trtllm", cumulative: true}},
	{"openai", `{"model":"llama","prompt":"Set sail","stream":true,"max_tokens":9}`, pod{profile: "openai"}},
	{"openai usage", `{"model":"llama","prompt":"Set sail","stream":true,"max_tokens":9,"stream_options":{"include_usage":true}}`, pod{profile: "openai"}},
}

// Wherever a stream is cut, once or twice, the client has the text that it would
// have had, and the same tokens.
func TestCutAnywhere(t *testing.T) {
	for _, c := range streams {
		t.Run(c.name, func(t *testing.T) {
			p := profile(t, c.pod.profile)
			p.Cumulative = c.pod.cumulative
			whole := resume.Open(p, resume.DefaultLimits(), []byte(c.body))
			events := c.pod.events(t, whole.Body())
			want := client(t, relay(t, whole, events)+finish(t, whole), c.pod.cumulative)
			if n := 9; want.text != strings.Join(tritontest.Tokens(llama, "Set sail", max(n, whole.Counts().Tokens)), "") {
				t.Fatalf("uncut: %q", want.text)
			}
			for i := range len(events) + 1 {
				for j := range len(events) - i + 1 {
					s := resume.Open(p, resume.DefaultLimits(), []byte(c.body))
					stream := cutTwice(t, s, c.pod, i, j)
					have := client(t, stream, c.pod.cumulative)
					if c.pod.profile == "openai" && want.tokens > 0 && have.tokens == 0 {
						have.tokens, have.input = want.tokens, want.input // lost with the pod after the last text
						if cut := len(events) - 2; i < cut && i+j < cut {
							t.Fatalf("cut after %d and %d events: no usage", i, j)
						}
					}
					if have.text != want.text || have.tokens != want.tokens || have.finish != want.finish ||
						have.input != want.input || have.done != want.done || len(have.ids) > len(want.ids) {
						t.Fatalf("cut after %d and %d events:\n%+v\nuncut:\n%+v", i, j, have, want)
					}
					if a, b := s.Counts(), whole.Counts(); a.Tokens != b.Tokens || a.Text != b.Text || a.Exact != b.Exact || a.InputTokens != b.InputTokens {
						t.Fatalf("cut after %d and %d events: counts %+v, uncut %+v", i, j, a, b)
					}
				}
			}
		})
	}
}

// cutTwice cuts the first pod after i events and the second after j.
func cutTwice(t *testing.T, s *resume.Session, p pod, i, j int) string {
	t.Helper()
	stream := relay(t, s, p.events(t, s.Body())[:i])
	for k := range 2 {
		body, err := s.Continue(start)
		if errors.Is(err, resume.ErrComplete) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		events := p.events(t, body)
		if k == 0 {
			events = events[:min(j, len(events))]
		}
		stream += relay(t, s, events)
	}
	return stream + finish(t, s)
}

// A cut falls on any byte: the half event is never relayed, and its text comes
// once.
func TestCutAnyByte(t *testing.T) {
	c := streams[4]
	for at := 0; ; at++ {
		s := session(t, "vllm", c.body)
		raw := strings.Join(c.pod.events(t, s.Body()), "")
		if at == len(raw) {
			break
		}
		split := sse.NewSplitter(1 << 10)
		split.Feed([]byte(raw[:at]))
		var stream string
		for {
			e, err := split.Next()
			if err != nil {
				t.Fatal(err)
			}
			if e == nil {
				break
			}
			stream += relay(t, s, []string{string(e)})
		}
		body, err := s.Continue(start)
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		have := client(t, stream+relay(t, s, c.pod.events(t, body))+finish(t, s), false)
		if have.text != strings.Join(tritontest.Tokens(llama, "Set sail", 9), "") || have.tokens != 9 {
			t.Fatalf("byte %d: %+v", at, have)
		}
	}
}

// delta is an event of the vLLM backend.
func delta(text, finish string) string {
	quoted, _ := json.Marshal(text)
	return raw(string(quoted), finish)
}

func raw(quoted, finish string) string {
	return fmt.Sprintf(`data: {"finish_reason":%q,"num_output_tokens":1,"text_output":%s}`+"\n\n", finish, quoted)
}

const stopping = `{"text_input":"p","stream":true,"max_tokens":50,"return_finish_reason":true,"return_num_output_tokens":true,"sampling_parameters":"{\"max_tokens\":50,\"stop\":%s}"}`

// A stop string may be cut at any of its bytes, and the text after the seam come in
// any pieces: the answer ends where it would have on one pod, but for what the
// client had already.
func TestStopAcrossSeam(t *testing.T) {
	const before, stop, after = "one two", "</ab>", " never"
	for cut := 1; cut < len(stop); cut++ {
		for mid := cut; mid <= len(stop); mid++ {
			s := session(t, "vllm", fmt.Sprintf(stopping, `[\"zz\",\"</ab>\"]`))
			stream := relay(t, s, []string{delta(before+stop[:cut], "None")})
			if _, err := s.Continue(start); err != nil {
				t.Fatal(err)
			}
			stream += relay(t, s, []string{delta(stop[cut:mid], "None"), delta(stop[mid:]+after, "None"), delta(after, "length")})
			if !s.Stopped() {
				t.Fatalf("cut at %d and %d: not stopped", cut, mid)
			}
			if out := relay(t, s, nil); out != "" {
				t.Errorf("after the stop: %q", out)
			}
			if out, err := s.Event([]byte(delta(after, "length"))); out != nil || err != nil {
				t.Errorf("after the stop: %q, %v", out, err)
			}
			have := client(t, stream+finish(t, s), false)
			if have.text != before+stop[:cut] || have.finish != "stop" {
				t.Errorf("cut at %d and %d: %+v", cut, mid, have)
			}
			if _, err := s.Continue(start); !errors.Is(err, resume.ErrComplete) {
				t.Errorf("after the stop: %v", err)
			}
		}
	}
}

// What only looked like a stop string comes out whole, however it ends.
func TestNoStopAcrossSeam(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []string
	}{
		{"another text", []string{delta("", "None"), delta("/", "None"), delta("ac>", "None"), delta(" on", "stop")}},
		{"the end", []string{delta("/", "None"), delta("a", "length")}},
		{"at once", []string{delta("x</ab", "None"), delta("", "stop")}},
		{"the pod's own stop", []string{delta("/a", "stop")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := session(t, "vllm", fmt.Sprintf(stopping, `\"</ab>\"`))
			stream := relay(t, s, []string{delta("one <", "None")})
			if _, err := s.Continue(start); err != nil {
				t.Fatal(err)
			}
			want := "one <"
			for _, e := range c.events {
				want += client(t, e, false).text
			}
			stream += relay(t, s, c.events)
			if have := client(t, stream, false); have.text != want || have.finish == "" || s.Stopped() {
				t.Errorf("%+v, want %q", have, want)
			}
			if out := finish(t, s); out != "" {
				t.Errorf("behind the last event: %q", out)
			}
		})
	}
}

// All texts over two letters, cut everywhere, against the plain reading: of the
// stop strings that straddle the seam, the first to be complete ends the text, at
// once; without one, all of the text comes out.
func TestStopsExhaustively(t *testing.T) {
	for _, stops := range [][]string{{"aab"}, {"ab", "ba"}, {"abab", "bb"}, {"aaaa", "ab", "bab"}} {
		body := fmt.Sprintf(stopping, `[\"`+strings.Join(stops, `\",\"`)+`\"]`)
		for bits := range 1 << 8 {
			var text string
			for i := range 8 {
				text += string(rune('a' + bits>>i&1))
			}
			for cut := 1; cut < len(text); cut++ {
				if !ends(text[:cut], stops) {
					checkStop(t, body, text, cut, straddling(text, stops, cut))
				}
			}
		}
	}
}

// checkStop wants the text to end with the byte before end, by what comes after the
// cut in single bytes and at once; with 0, to come out whole.
func checkStop(t *testing.T, body, text string, cut, end int) {
	t.Helper()
	single := strings.Split(text[cut:], "")
	for _, pieces := range [][]string{single, {text[cut:]}} {
		s := session(t, "vllm", body)
		stream := relay(t, s, []string{delta(text[:cut], "None")})
		if _, err := s.Continue(start); err != nil {
			t.Fatal(err)
		}
		at := cut
		for _, piece := range pieces {
			if !s.Stopped() {
				stream += relay(t, s, []string{delta(piece, "None")})
				at += len(piece)
			}
		}
		if !s.Stopped() {
			stream += relay(t, s, []string{delta("", "length")})
		}
		have, want := client(t, stream+finish(t, s), false), text
		if end > 0 {
			want = text[:cut]
		}
		if have.text != want || s.Stopped() != (end > 0) || end > 0 && len(pieces) > 1 && at != end {
			t.Fatalf("%s: %q cut at %d: %q, stopped %v at %d, want %q at %d", body, text, cut, have.text, s.Stopped(), at, want, end)
		}
	}
}

// straddling is where the first stop string that is complete ends, of those that
// begin before seam and end behind it; 0 if none.
func straddling(text string, stops []string, seam int) int {
	for end := seam + 1; end <= len(text); end++ {
		for _, s := range stops {
			if strings.HasSuffix(text[:end], s) && end-len(s) < seam {
				return end
			}
		}
	}
	return 0
}

// ends tells whether the text has come to a stop string, so that its pod would not
// be asked to go on.
func ends(text string, stops []string) bool {
	for _, s := range stops {
		if strings.HasSuffix(text, s) {
			return true
		}
	}
	return false
}

// A pod that keeps stop strings in its text, and was lost after one.
func TestStopKept(t *testing.T) {
	body := `{"text_input":"p","stream":true,"max_tokens":50,"stop_words":["END"]}`
	event := func(text string) string { return fmt.Sprintf("data: {\"text_output\":%q}\n\n", text) }
	s := session(t, "trtllm", body)
	stream := relay(t, s, []string{event("a E")})
	if _, err := s.Continue(start); err != nil {
		t.Fatal(err)
	}
	stream += relay(t, s, []string{event("N"), event("D more")})
	if have := client(t, stream+finish(t, s), false); have.text != "a END" || !s.Stopped() || strings.Contains(have.raw, "stop") {
		t.Errorf("%+v", have)
	}
	s = session(t, "trtllm", body)
	relay(t, s, []string{event("a END")})
	if _, err := s.Continue(start); !errors.Is(err, resume.ErrComplete) {
		t.Errorf("lost behind a stop string: %v", err)
	}
}

// Pods that look for stop strings in tokens may write one that is cut otherwise; it
// is behind. Of two that straddle the seam, the first to be complete counts.
func TestStopsAtSeam(t *testing.T) {
	event := func(text string) string { return fmt.Sprintf("data: {\"text_output\":%q}\n\n", text) }
	for _, c := range []struct{ stops, before, after, want string }{
		{`"ab","xabyz"`, "xaby", "q", "xabyq"},
		{`"ab","xabyz"`, "xaby", "zq", "xabyz"},
		{`"aE1","E12"`, "aE", "12", "aE1"},
		{`"E12","aE1"`, "aE", "12", "aE1"},
		{`"aE12","E1"`, "aE", "12", "aE1"},
	} {
		s := session(t, "trtllm", `{"text_input":"p","stream":true,"max_tokens":50,"stop_words":[`+c.stops+`]}`)
		stream := relay(t, s, []string{event(c.before)})
		if _, err := s.Continue(start); err != nil {
			t.Fatal(err)
		}
		stream += relay(t, s, []string{event(c.after)})
		if have := client(t, stream+finish(t, s), false); have.text != c.want {
			t.Errorf("%s: %q and %q give %q, want %q", c.stops, c.before, c.after, have.text, c.want)
		}
	}
}

// Bytes at the seam are neither dropped nor doubled, white space least of all.
func TestSeamIsBytes(t *testing.T) {
	for _, end := range []string{" ", "\n\n", "\t", "\u00a0", "é", "𝄞", `\"`, "\x7f", "<|x|>", "e\u0301"} {
		for _, begin := range []string{" ", "\n", "", "é"} {
			s := session(t, "vllm", `{"text_input":"p \u00e9 ","stream":true,"max_tokens":50}`)
			stream := relay(t, s, []string{delta("a"+end, "None")})
			body, err := s.Continue(start)
			if err != nil {
				t.Fatal(err)
			}
			if q := read(t, body); q.Prompt != "p é a"+end || q.MaxTokens != 49 {
				t.Errorf("after %q the next pod is asked for %q", end, q.Prompt)
			}
			stream += relay(t, s, []string{delta(begin+"b", "stop")})
			if have := client(t, stream+finish(t, s), false); have.text != "a"+end+begin+"b" {
				t.Errorf("%q and %q: %q", end, begin, have.text)
			}
		}
	}
}

// Text with a broken character is never given to another pod.
func TestBrokenCharacter(t *testing.T) {
	for _, text := range []string{"\"a\ufffd\"", `"\ufffd b"`, `"x\ud83d"`} {
		s := session(t, "vllm", `{"text_input":"p","stream":true,"max_tokens":50}`)
		relay(t, s, []string{raw(text, "None")})
		var refused *resume.RefusalError
		if _, err := s.Continue(start); !errors.As(err, &refused) || refused.Reason != resume.ReasonCharacter {
			t.Errorf("%q: %v", text, err)
		}
	}
	// What was held back until the character is whole was never given.
	s := session(t, "vllm", `{"text_input":"p","stream":true,"max_tokens":5}`)
	relay(t, s, []string{delta("a", "None"), delta("", "None"), delta("", "None")})
	body, err := s.Continue(start)
	if err != nil {
		t.Fatal(err)
	}
	if q := read(t, body); q.Prompt != "pa" || q.MaxTokens != 4 {
		t.Errorf("the next pod is asked for %d tokens behind %q", q.MaxTokens, q.Prompt)
	}
}

// Tokens that gave no text are lost with the pod, generated again, and told once.
func TestTokensToldOnce(t *testing.T) {
	for _, cuts := range [][]int{{3}, {1}, {5}, {3, 2}, {5, 5}} {
		s := session(t, "vllm", `{"text_input":"p","stream":true,"max_tokens":9,"return_num_output_tokens":true}`)
		text := []string{"a", "b", "", "", "", "c", "d", "", "e"}
		var stream string
		from := 0 // where the text goes on
		for _, cut := range append(cuts, len(text)) {
			for i := from; i < min(from+cut, len(text)); i++ {
				reason := "None"
				if i == len(text)-1 {
					reason = "length"
				}
				stream += relay(t, s, []string{delta(text[i], reason)})
			}
			body, err := s.Continue(start)
			if errors.Is(err, resume.ErrComplete) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			from = len(text) - read(t, body).MaxTokens
		}
		have := client(t, stream+finish(t, s), false)
		if have.text != "abcde" || have.tokens != 9 || s.Counts().Tokens != 9 {
			t.Errorf("cut after %v: %q, %d tokens told, counts %+v", cuts, have.text, have.tokens, s.Counts())
		}
	}
}

func TestResumesAreFew(t *testing.T) {
	s := session(t, "vllm", `{"text_input":"p","stream":true,"max_tokens":50}`)
	for _, step := range []struct {
		at   time.Duration
		want error
	}{
		{0, nil}, {time.Second, nil}, {2 * time.Second, resume.ErrSpent}, {10*time.Second + 999*time.Millisecond, resume.ErrSpent},
		{11 * time.Second, nil}, {time.Hour, resume.ErrSpent},
	} {
		relay(t, s, []string{delta(" a", "None")})
		if _, err := s.Continue(start.Add(step.at)); !errors.Is(err, step.want) {
			t.Fatalf("at %v: %v, want %v", step.at, err, step.want)
		}
	}
	if c := s.Counts(); c.Resumes != 3 || c.Tokens != 6 || !c.Exact || c.Text != 12 {
		t.Errorf("counts %+v", c)
	}
}
