package resume_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ask posts a body to a simulated pod.
func ask(t *testing.T, addr, verb string, body []byte) (int, string) {
	t.Helper()
	ctx := t.Context()
	url := fmt.Sprintf("http://%s/v2/models/%s/%s", addr, llama, verb)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(answer)
}

// gathered asks by generate_stream and folds, with a cut after so many events.
func gathered(t *testing.T, addr string, body []byte, cut int) (int, string) {
	t.Helper()
	g, why := resume.Gather(profile(t, "vllm"), resume.DefaultLimits(), body)
	if g == nil {
		t.Fatalf("%s can't be gathered: %s", body, why)
	}
	for next := g.Body(); ; {
		status, answer := ask(t, addr, "generate_stream", next)
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
	o := tritontest.DefaultOptions()
	m := tritontest.DefaultModel(llama)
	m.PrefillPerToken, m.InterToken = 0, time.Microsecond
	o.Models = []tritontest.Model{m}
	pod := tritontest.New(o)
	if err := pod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pod.Close)
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
		wantStatus, want := ask(t, pod.Addr(), "generate", []byte(body))
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
