package openai_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within bounds every wait for something that takes microseconds when idle.
const within = 20 * time.Second

func fast(name string) tritontest.Model {
	m := tritontest.DefaultModel(name)
	m.PrefillPerToken, m.InterToken = 0, 50*time.Microsecond
	return m
}

// stalled is a model that sends a first token and then, in effect, no other.
func stalled(name string) tritontest.Model {
	m := fast(name)
	m.InterToken = time.Hour
	return m
}

func ensemble(name string) tritontest.Model {
	m := fast(name)
	m.Flavour = tritontest.TRTLLM
	return m
}

func newPod(t testing.TB, models ...tritontest.Model) *tritontest.Pod {
	t.Helper()
	opts := tritontest.DefaultOptions()
	opts.Models = models
	p := tritontest.New(opts)
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// call makes one request; an empty body is a GET.
func call(t testing.TB, p *tritontest.Pod, path, body string) (*http.Response, string, error) {
	t.Helper()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.OpenAIAddr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	return resp, string(answer), err
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	regionstest.Eventually(t, within, cond, what)
}

// changing is what differs between two answers.
var changing = regexp.MustCompile(`"cmpl-[0-9a-f-]{36}"|"created":[0-9]+`)

// fixed puts a word in the place of what differs.
func fixed(body string) string { return changing.ReplaceAllString(body, "*") }

// TestGolden has the bodies of Triton 2.73's frontend in full.
func TestGolden(t *testing.T) {
	p := newPod(t, fast("llama"), ensemble("trt"))
	words := tritontest.Tokens("llama", "hi", 2)
	chat := tritontest.Tokens("llama", "<|user|> hi\n<|assistant|>", 2)
	ask := func(more string) string { return `{"model":"llama","prompt":"hi","max_tokens":2` + more + `}` }
	say := func(model, more string) string {
		return `{"model":"` + model + `","messages":[{"role":"user","content":"hi"}],"max_tokens":2` + more + `}`
	}
	event := func(object, choices, usage string) string {
		return fmt.Sprintf(`data: {"id":*,"choices":[%s],*,"model":"llama","system_fingerprint":null,"object":%q,"usage":%s}`+"\n\n", choices, object, usage)
	}
	text := func(reason, text string) string {
		return fmt.Sprintf(`{"finish_reason":%s,"index":0,"logprobs":null,"text":%q}`, reason, text)
	}
	delta := func(content, role, reason string) string {
		return fmt.Sprintf(`{"delta":{"content":%q,"function_call":null,"role":%s},"logprobs":null,"finish_reason":%s,"index":0}`, content, role, reason)
	}
	const used = `{"prompt_tokens":1,"total_tokens":3,"completion_tokens":2}`
	const chunk = "chat.completion.chunk"
	trt := tritontest.Tokens("trt", "<|user|> hi\n<|assistant|>", 2)
	for _, c := range []struct{ path, body, want string }{
		{"/v1/completions", ask(""), `{"id":*,"choices":[` + text(`"stop"`, strings.Join(words, "")) +
			`],*,"model":"llama","system_fingerprint":null,"object":"text_completion","usage":` + used + `}`},
		{"/v1/completions", ask(`,"echo":true`), `{"id":*,"choices":[` + text(`"stop"`, "hi"+strings.Join(words, "")) +
			`],*,"model":"llama","system_fingerprint":null,"object":"text_completion","usage":` + used + `}`},
		{"/v1/completions", ask(`,"stream":true,"stream_options":{"include_usage":true}`),
			event("text_completion", text("null", words[0]), "null") + event("text_completion", text(`"stop"`, words[1]), "null") +
				event("text_completion", "", used) + "data: [DONE]\n\n"},
		{"/v1/chat/completions", say("llama", ""), `{"id":*,"choices":[{"finish_reason":"stop","index":0,"message":{"content":"` + strings.Join(chat, "") +
			`","tool_calls":null,"role":"assistant","function_call":null},"logprobs":null}],*,"model":"llama","system_fingerprint":null,` +
			`"object":"chat.completion","usage":{"prompt_tokens":4,"total_tokens":6,"completion_tokens":2}}`},
		{"/v1/chat/completions", say("llama", `,"stream":true`),
			event(chunk, delta("", `"assistant"`, "null"), "null") + event(chunk, delta(chat[0], "null", "null"), "null") +
				event(chunk, delta(chat[1], "null", `"stop"`), "null") + "data: [DONE]\n\n"},
		{"/v1/chat/completions", say("trt", `,"stream":true,"stream_options":{"include_usage":true}`), strings.ReplaceAll(
			event(chunk, delta("", `"assistant"`, "null"), "null")+event(chunk, delta(trt[0], "null", "null"), "null")+
				event(chunk, delta(trt[1], "null", "null"), "null")+event(chunk, delta("", "null", `"stop"`), "null")+"data: [DONE]\n\n", "llama", "trt")},
	} {
		resp, got, err := call(t, p, c.path, c.body)
		kind := "application/json"
		if strings.HasPrefix(c.want, "data:") {
			kind = "text/event-stream; charset=utf-8"
		}
		if err != nil || resp.StatusCode != http.StatusOK || fixed(got) != c.want || strings.Join(resp.Header.Values("Content-Type"), ";") != kind {
			t.Errorf("%s %s\n%s %v %v\n%s\nwant\n%s", c.path, c.body, resp.Status, resp.Header, err, fixed(got), c.want)
		}
		if resp.Header.Get("Server") != "uvicorn" || resp.Header.Get("Date") == "" {
			t.Errorf("header: %v", resp.Header)
		}
	}
	eventually(t, "all counted", func() bool { return len(p.Requests()) == 6 })
	for _, r := range p.Requests() {
		if r.Frontend != "openai" || r.Stream != (r.Seq == 3 || r.Seq >= 5) || r.Bytes == 0 || r.End != tritontest.Completed {
			t.Errorf("request: %+v", r)
		}
	}
}

// TestPromptAndEmittedTextContinue is what a resumed completion relies on.
func TestPromptAndEmittedTextContinue(t *testing.T) {
	p := newPod(t, fast("llama"))
	ask := func(prompt string, tokens int) string {
		_, body, err := call(t, p, "/v1/completions", fmt.Sprintf(`{"model":"llama","prompt":%q,"max_tokens":%d}`, prompt, tokens))
		var out struct{ Choices []struct{ Text string } }
		if err := errors.Join(err, json.Unmarshal([]byte(body), &out)); err != nil || len(out.Choices) != 1 {
			t.Fatalf("%s: %v", body, err)
		}
		return out.Choices[0].Text
	}
	whole, first := ask("begin", 12), ask("begin", 5)
	if rest := ask("begin"+first, 7); first+rest != whole {
		t.Errorf("%q then %q, want %q", first, rest, whole)
	}
	if got := ask("begin", 16); got != strings.Join(tritontest.Tokens("llama", "begin", 16), "") {
		t.Errorf("%q", got)
	}
}

func TestErrors(t *testing.T) {
	p := newPod(t, fast("llama"), ensemble("trt"))
	const chat, completions = "/v1/chat/completions", "/v1/completions"
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{completions, `{"model":"none","prompt":"hi"}`, 400, `{"detail":"Unknown model: none"}`},
		{completions, `{"model":"llama","prompt":"hi","n":2}`, 400, `{"detail":"Received n=2, but only single choice (n=1) is currently supported"}`},
		{completions, `{"model":"llama","prompt":""}`, 400, `{"detail":"prompt must be non-empty"}`},
		{completions, `{"model":"llama","prompt":["a","b"]}`, 400, `{"detail":"only single string input is supported"}`},
		{completions, `{"model":"llama","prompt":"a","suffix":"b"}`, 400, `{"detail":"suffix is not currently supported"}`},
		{completions, `{"model":"llama","prompt":"a","max_tokens":0}`, 500, `{"detail":"Error generating stream: max_tokens must be at least 1, got 0."}`},
		{completions, `{"model":"llama"}`, 422, `{"detail":[{"loc":["body","prompt"],"msg":"Field required","type":"missing"}]}`},
		{completions, `{"model":`, 422, `{"detail":[{"loc":["body","0"],"msg":"JSON decode error","type":"json_invalid"}]}`},
		{chat, `{"messages":[{"role":"user","content":"hi"}]}`, 422, `{"detail":[{"loc":["body","model"],"msg":"Field required","type":"missing"}]}`},
		{chat, `{"model":"llama","messages":[]}`, 422, `{"detail":[{"loc":["body","messages"],"msg":"Field required","type":"missing"}]}`},
		{chat, `{"model":"llama","messages":[{"role":"user","content":"hi"}],"stream_options":{"include_usage":true}}`, 400,
			"{\"detail\":\"`stream_options` can only be used when `stream` is True\"}"},
		{chat, `{"model":"llama","messages":[{"role":"user","content":"hi"}],"logit_bias":{"1":2}}`, 400, `{"detail":"logit bias is not currently supported"}`},
		{"/v1/embeddings", `{"model":"trt","input":"hi"}`, 400, `{"detail":"TRT-LLM backend and Python backend do not support embedding requests"}`},
		{"/v1/embeddings", `{"model":"none","input":"hi"}`, 400, `{"detail":"Unknown model: none"}`},
		{"/v1/nothing", ``, 404, `{"detail":"Not Found"}`},
		{"/v1/models/none", ``, 404, `{"detail":"Unknown model: none"}`},
		{"/v1/models", `{}`, 405, `{"detail":"Method Not Allowed"}`},
		{chat, ``, 405, `{"detail":"Method Not Allowed"}`},
	} {
		resp, got, err := call(t, p, c.path, c.body)
		if err != nil || resp.StatusCode != c.status || got != c.want {
			t.Errorf("%s %s: %s %s %v, want %d %s", c.path, c.body, resp.Status, got, err, c.status, c.want)
		}
	}
	p.ErrorRate(1000)
	if resp, got, err := call(t, p, completions, `{"model":"llama","prompt":"hi"}`); err != nil || resp.StatusCode != http.StatusInternalServerError || !strings.Contains(got, "simulated failure") {
		t.Errorf("%s %s %v", resp.Status, got, err)
	}
}

// TestFailureCutsTheStream: status 200, and then nothing tells but the missing
// end, even if the model fails before its first token.
func TestFailureCutsTheStream(t *testing.T) {
	p := newPod(t, fast("llama"))
	const body = `{"model":"llama","prompt":"hi","stream":true,"max_tokens":5}`
	for events, fail := range map[int]func(){2: func() { p.FailInBand(1, 2) }, 0: func() { p.ErrorRate(1000) }} {
		fail()
		resp, got, err := call(t, p, "/v1/completions", body)
		if resp.StatusCode != http.StatusOK || !errors.Is(err, io.ErrUnexpectedEOF) || strings.Count(got, "data: ") != events ||
			strings.Contains(got, "DONE") || strings.Contains(got, "error") {
			t.Errorf("%s %q %v", resp.Status, got, err)
		}
		p.Heal()
	}
	eventually(t, "counted", func() bool { return p.Stats("llama").Failed == 2 })
}

func TestStop(t *testing.T) {
	p := newPod(t, fast("llama"))
	words := tritontest.Tokens("llama", "hi", 10)
	stop := words[4][1:4] // inside of the fifth word
	want, _, _ := strings.Cut(strings.Join(words, ""), stop)
	body := fmt.Sprintf(`{"model":"llama","prompt":"hi","max_tokens":10,"stop":[%q,"never"],"stream":%%t}`, stop)
	for _, stream := range []bool{false, true} {
		_, got, err := call(t, p, "/v1/completions", fmt.Sprintf(body, stream))
		var text strings.Builder
		for line := range strings.Lines(got) {
			var out struct{ Choices []struct{ Text string } }
			if json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &out) == nil && len(out.Choices) == 1 {
				text.WriteString(out.Choices[0].Text)
			}
		}
		if err != nil || text.String() != want {
			t.Errorf("stream %v: %q, %v; want %q", stream, text.String(), err, want)
		}
	}
}

func TestEmbeddings(t *testing.T) {
	p := newPod(t, fast("llama"))
	_, floats, err := call(t, p, "/v1/embeddings", `{"model":"llama","input":"hello world","dimensions":3}`)
	_, again, _ := call(t, p, "/v1/embeddings", `{"model":"llama","input":"hello world","dimensions":3}`)
	var out struct {
		Object, Model string
		Data          []struct{ Embedding []float64 }
		Usage         map[string]int
	}
	if err := errors.Join(err, json.Unmarshal([]byte(floats), &out)); err != nil || floats != again || out.Object != "list" || len(out.Data) != 1 ||
		len(out.Data[0].Embedding) != 3 || out.Usage["prompt_tokens"] != 2 || out.Usage["total_tokens"] != 2 {
		t.Errorf("%s then %s: %v", floats, again, err)
	}
	_, packed, err := call(t, p, "/v1/embeddings", `{"model":"llama","input":[1,2,3],"encoding_format":"base64","dimensions":3}`)
	if err != nil || !regexp.MustCompile(`"embedding":"[A-Za-z0-9+/]{16}"`).MatchString(packed) {
		t.Errorf("%s %v", packed, err)
	}
}

func TestModelsAndReadiness(t *testing.T) {
	p := newPod(t, fast("llama"), fast("mistral"))
	get := func(path, body string) string {
		t.Helper()
		resp, got, err := call(t, p, path, body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.StatusCode, " ", fixed(got))
	}
	one := `{"id":"llama",*,"object":"model","owned_by":"Triton Inference Server"}`
	for _, c := range []struct{ path, body, want string }{
		{"/v1/models/llama", "", "200 " + one},
		{"/v1/models/mistral/unload", "{}", `200 {"model":"mistral","status":"success"}`},
		{"/v1/models", "", `200 {"data":[` + one + `],"object":"list"}`},
		{"/v1/models/mistral/unload", "{}", `400 {"detail":"Unknown model: mistral"}`},
		{"/v1/models/llama/load", "{}", `400 {"detail":"Model 'llama' is already loaded"}`},
		{"/v1/models/mistral/load", "{}", "200 " + strings.Replace(one, "llama", "mistral", 1)},
		{"/health/ready", "", "200 "},
	} {
		if got := get(c.path, c.body); got != c.want {
			t.Errorf("%s: %s, want %s", c.path, got, c.want)
		}
	}
	p.NotReady("llama", true)
	if got := get("/health/ready", ""); got != `400 {"detail":"Attached inference engine is not ready for inference requests."}` {
		t.Error(got)
	}
	if got := get("/metrics", ""); !strings.Contains(got, `nv_inference_request_success{model="llama",version="1"} 0`) {
		t.Error(got)
	}
}

// TestLifecycle: a crash resets a stream, a shutdown lets it finish but accepts
// nothing new.
func TestLifecycle(t *testing.T) {
	p := newPod(t, stalled("llama"))
	begin := func(ctx context.Context) *bufio.Reader {
		t.Helper()
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", p.OpenAIAddr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		context.AfterFunc(ctx, func() { _ = c.Close() })
		const body = `{"model":"llama","messages":[{"role":"user","content":"hi"}],"stream":true}`
		if _, err := fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: pod\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("%q %v", line, err)
		}
		return r
	}
	r := begin(t.Context())
	p.Crash()
	if s := p.Stats("llama"); s.CutStreams != 1 || s.InFlight != 0 {
		t.Errorf("stats after the crash: %+v", s)
	}
	if rest, err := io.ReadAll(r); err == nil {
		t.Errorf("ended cleanly with %q", rest)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begin(ctx)
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(context.WithoutCancel(t.Context())) }()
	eventually(t, "the port is closed", func() bool {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.OpenAIAddr())
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	select {
	case err := <-done:
		t.Fatalf("ended with a stream open: %v", err)
	default:
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := p.Stats("llama"); s.Canceled != 1 {
		t.Errorf("stats: %+v", s)
	}
}
