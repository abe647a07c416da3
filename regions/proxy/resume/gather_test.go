package resume_test

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
)

// gathered asks by generate_stream and folds, with a cut after so many events.
func gathered(t *testing.T, addr string, body []byte, cut int) (int, string) {
	t.Helper()
	g, why := resume.Gather(profile(t, "vllm"), resume.DefaultLimits(), body)
	if g == nil {
		t.Fatalf("%s can't be gathered: %s", body, why)
	}
	for next := g.Body(); ; {
		status, answer := ask(t, addr, "/v2/models/llama/generate_stream", next)
		if !strings.HasPrefix(answer, "data: ") {
			return status, answer // met before the inference
		}
		split := sse.NewSplitter(1 << 20)
		split.Feed([]byte(answer))
		for n := 0; cut < 0 || n < cut; n++ {
			e, err := split.Next()
			if err != nil {
				t.Fatal(err)
			}
			if e == nil {
				break
			}
			var failed *resume.PodError
			if err := g.Event(e); errors.As(err, &failed) {
				status, body := g.Failed(status, failed)
				return status, string(body)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if cut >= 0 {
			cut = -1
			if next, err = g.Continue(start); err == nil {
				continue
			}
			if !errors.Is(err, resume.ErrComplete) {
				t.Fatal(err)
			}
		}
		if err := g.Finish(); err != nil {
			t.Fatal(err)
		}
		code, text := g.Answer()
		return code, string(text)
	}
}

// A gathered answer is the one that generate gives, whole or cut anywhere.
func TestGatherIsGenerate(t *testing.T) {
	pod := simulator(t, "vllm")
	for _, body := range []string{
		`{"text_input":"Set \"sail\" \u00e9 <&>","max_tokens":5}`,
		`{"id":"7","text_input":"p","parameters":{"max_tokens":5,"stream":false,"exclude_input_in_output":false}}`,
		`{"text_input":"p","max_tokens":5,"exclude_input_in_output":true}`,
		`{"text_input":"p","max_tokens":5,"return_num_output_tokens":true,"return_finish_reason":true,"return_num_input_tokens":true}`,
		`{"text_input":"p","sampling_parameters":"{\"max_tokens\":4}"}`,
		`{"text_input":"p","max_tokens":5,"seed":1,"return_num_output_tokens":true}`,
		`{"text_input":"p","max_tokens":0}`,
		`{"text_input":"p","max_tokens":5,"frequency_penalty":"x"}`,
	} {
		wantStatus, want := ask(t, pod.Addr(), "/v2/models/llama/generate", []byte(body))
		for cut := -1; cut < 7; cut++ {
			if strings.Contains(body, "seed") || strings.Contains(body, "penalty") || strings.Contains(body, `"max_tokens":0`) {
				cut = 7 // not resumed
			}
			uncut := cut
			if cut == 7 {
				uncut = -1
			}
			status, have := gathered(t, pod.Addr(), []byte(body), uncut)
			if status != wantStatus || !sameJSON(t, have, want) {
				t.Errorf("%s cut after %d: %d %s\ngenerate gives %d %s", body, cut, status, have, wantStatus, want)
			}
		}
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y map[string]any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		t.Fatalf("not JSON: %q or %q", a, b)
	}
	return maps.Equal(x, y)
}

func TestNotGathered(t *testing.T) {
	for _, c := range []struct {
		profile, body string
		want          resume.Reason
	}{
		{"trtllm", `{"text_input":"p","max_tokens":5}`, resume.ReasonOff},
		{"openai", `{"prompt":"p","max_tokens":5}`, resume.ReasonOff},
		{"vllm", `{"text_input":"p","n":2}`, resume.ReasonChoices},
		{"vllm", `{"text_input":"p","seed":1,"n":2}`, resume.ReasonSeed},
		{"vllm", `{"text_input":"p","return_logprobs":true}`, resume.ReasonScores},
		{"vllm", `{"text_input":"p","x":1}`, resume.ReasonUnknown},
		{"vllm", `{"text_input":"p","stream":true}`, resume.ReasonUnary},
		{"vllm", `{"text_input":1}`, resume.ReasonPrompt},
		{"vllm", `{"text_input":"p","exclude_input_in_output":[true]}`, resume.ReasonBody},
		{"vllm", `nothing`, resume.ReasonBody},
	} {
		if g, why := resume.Gather(profile(t, c.profile), resume.DefaultLimits(), []byte(c.body)); g != nil || why != c.want {
			t.Errorf("%s, %s: %v %q, want %q", c.profile, c.body, g != nil, why, c.want)
		}
	}
}

func TestGatherEnds(t *testing.T) {
	open := func(l resume.Limits) *resume.Gathering {
		g, _ := resume.Gather(profile(t, "vllm"), l, []byte(`{"text_input":"p","max_tokens":5,"seed":1}`))
		return g
	}
	g := open(resume.DefaultLimits())
	if err := g.Finish(); err != nil {
		t.Fatal(err)
	}
	if status, body := g.Answer(); status != http.StatusOK || !strings.Contains(string(body), "exactly 1 response") {
		t.Errorf("no response: %d %s", status, body)
	}
	for _, c := range []struct {
		status int
		text   string
		want   int
	}{
		{http.StatusOK, "Exceeds maximum queue size", http.StatusServiceUnavailable},
		{http.StatusOK, "Error generating stream: x", http.StatusInternalServerError},
		{http.StatusBadRequest, "bad", http.StatusBadRequest},
	} {
		var failed *resume.PodError
		if err := g.Event([]byte(`data: {"error":"` + c.text + `"}` + "\n\n")); !errors.As(err, &failed) {
			t.Fatal(err)
		}
		if status, body := g.Failed(c.status, failed); status != c.want || string(body) != `{"error":"`+c.text+`"}` {
			t.Errorf("%s: %d %s", c.text, status, body)
		}
	}
	l := resume.DefaultLimits()
	l.Answer = 3
	g = open(l)
	if err := g.Event([]byte(delta("abc", "None"))); err != nil {
		t.Fatal(err)
	}
	if err := g.Event([]byte(delta("d", "None"))); !errors.Is(err, resume.ErrAnswer) {
		t.Errorf("too long: %v", err)
	}
}
