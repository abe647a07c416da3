package tritontest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestStreamResumesOnAnotherPod cuts a stream of one pod and continues it on
// another with the emitted text behind the prompt: the same text and the same
// end, the natural one included.
func TestStreamResumesOnAnotherPod(t *testing.T) {
	m := fast("llama")
	m.StopEvery = 30
	a, b := newPod(t, nil, m), newPod(t, nil, m)
	request := func(text string, tokens int) string {
		return fmt.Sprintf(`{"text_input":%q,"stream":true,"max_tokens":%d,"return_finish_reason":true,"return_num_output_tokens":true,"return_num_input_tokens":true}`, text, tokens)
	}
	reasons := make(map[any]bool)
	for i := range 12 {
		text := fmt.Sprintf("prompt number %d", i)
		whole, events := open(t, a, "llama", request(text, 40)).text(t)
		end := events[len(events)-1]
		reasons[end["finish_reason"]] = true
		for k, e := range events {
			if last := k == len(events)-1; e["num_output_tokens"] != 1.0 || e["num_input_tokens"] != 3.0 || (e["finish_reason"] == "None") == last {
				t.Fatalf("event %d of %d: %v", k, len(events), e)
			}
		}
		cut := len(events) / 2
		emitted := ""
		for _, e := range events[:cut] {
			emitted += e["text_output"].(string)
		}
		rest, more := open(t, b, "llama", request(text+emitted, 40-cut)).text(t)
		if emitted+rest != whole || more[len(more)-1]["finish_reason"] != end["finish_reason"] || cut+len(more) != len(events) {
			t.Errorf("%q: %q then %q, want %q", text, emitted, rest, whole)
		}
	}
	if !reasons["stop"] || !reasons["length"] {
		t.Errorf("reasons seen: %v", reasons)
	}
}

func TestContextLengthEndsAText(t *testing.T) {
	m := fast("llama")
	m.MaxTokens = 10
	p := newPod(t, nil, m)
	if _, events := open(t, p, "llama", prompt("one two three four", 100)).text(t); len(events) != 6 {
		t.Errorf("%d events for 10 - 4 tokens", len(events))
	}
	code, body := post(t, "http://"+p.Addr()+"/v2/models/llama/generate", `{"text_input":"1 2 3 4 5 6 7 8 9 10"}`)
	if code != http.StatusBadRequest || !strings.Contains(body, "(length 10) is longer than the maximum model length of 10") {
		t.Errorf("too long a prompt: %d %s", code, body)
	}
}

func TestQueueIsFirstInFirstOutAndLimited(t *testing.T) {
	m := stalled("llama")
	m.Slots, m.QueueLimit = 1, 2
	p := newPod(t, nil, m)
	first := open(t, p, "llama", prompt("hi", 2))
	for i := range 2 {
		c := dial(t, p.Addr())
		send(t, c, "POST /v2/models/llama/generate_stream", fmt.Sprintf(`{"id":"%d","text_input":"hi","stream":true,"max_tokens":1}`, i))
		eventually(t, "queued", func() bool { return p.current().core.Loaded()[0].Engine.Gauges().Waiting == i+1 })
	}
	for id, want := range map[string]string{
		`"id":"42",`: `{"error":"[request id: 42] Exceeds maximum queue size"}`,
		``:           `{"error":"[request id: <id_unknown>] Exceeds maximum queue size"}`,
	} {
		for _, verb := range []string{"generate", "generate_stream"} {
			got := raw(t, p.Addr(), "POST /v2/models/llama/"+verb, `{`+id+`"text_input":"hi"}`)
			if got != whole("503 Service Unavailable", jsonType, want) {
				t.Errorf("%s with a full queue: %q", verb, got)
			}
		}
	}
	_ = first.conn.Close()
	eventually(t, "queue drained", func() bool { return p.Stats("llama").Completed == 2 })
	eventually(t, "all settled", func() bool { return p.Stats("llama").InFlight == 0 })
	got := p.Stats("llama")
	if got.Rejected != 4 || got.Canceled != 1 || got.Batch != 1 || got.Peak < 3 {
		t.Errorf("stats: %+v", got)
	}
	wantSums(t, got)
	begun := make(map[string]time.Time) // they may settle in any order
	for _, r := range p.Requests() {
		begun[r.ID] = r.FirstByte
	}
	if !begun["0"].Before(begun["1"]) {
		t.Errorf("begun at %v", begun)
	}
}

func TestQueueTimeoutIsTheFirstResponse(t *testing.T) {
	m := stalled("llama")
	m.Slots, m.QueueTimeout = 1, time.Millisecond
	p := newPod(t, nil, m)
	open(t, p, "llama", prompt("hi", 2))
	got := raw(t, p.Addr(), "POST /v2/models/llama/generate_stream", prompt("ho", 2))
	want := crlf("HTTP/1.1 400 Bad Request\nContent-Type: text/event-stream; charset=utf-8\nConnection: close\nTransfer-Encoding: chunked",
		chunks("data: {\"error\":\"Request timeout expired\"}\n\n"))
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if s := p.Stats("llama"); s.Rejected+s.InFlight != 2 {
		t.Errorf("stats: %+v", s)
	}
}

func TestRequestTimeoutOfInfer(t *testing.T) {
	m := stalled("llama")
	m.Flavour, m.Coupled, m.Slots = TRTLLM, true, 1
	p := newPod(t, nil, m)
	body := func(parameters string) string {
		return `{"inputs":[{"name":"text_input","shape":[1],"datatype":"BYTES","data":["hi"]},` +
			`{"name":"max_tokens","shape":[1],"datatype":"INT32","data":[2]}],"parameters":{` + parameters + `}}`
	}
	c := dial(t, p.Addr())
	send(t, c, "POST /v2/models/llama/infer", body(""))
	eventually(t, "first runs", func() bool { return p.Stats("llama").Started == 1 })
	if code, answer := post(t, "http://"+p.Addr()+"/v2/models/llama/infer", body(`"timeout":1000`)); code != 503 || answer != `{"error":"Request timeout expired"}` {
		t.Errorf("second: %d %s", code, answer)
	}
}

func TestBatchNeverExceedsTheSlots(t *testing.T) {
	m := fast("llama")
	m.Slots = 4
	p := newPod(t, nil, m)
	var wg sync.WaitGroup
	for i := range 24 {
		c := dial(t, p.Addr())
		wg.Go(func() {
			send(t, c, "POST /v2/models/llama/generate_stream", prompt(fmt.Sprint(i), 20), "Connection: close")
			if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), "\r\n0\r\n\r\n") {
				t.Errorf("stream %d: %q %v", i, b, err)
			}
		})
	}
	wg.Wait()
	eventually(t, "all settled", func() bool { return p.Stats("llama").InFlight == 0 })
	got := p.Stats("llama")
	if got.Completed != 24 || got.Batch > 4 || got.Tokens != 24*20 {
		t.Errorf("stats: %+v", got)
	}
	wantSums(t, got)
}

func TestErrorRateIsAFixedSequence(t *testing.T) {
	p := newPod(t, nil, fast("llama"))
	p.ErrorRate(300)
	var failed []int
	for i := range 20 {
		code, body := post(t, "http://"+p.Addr()+"/v2/models/llama/generate", `{"text_input":"hi","max_tokens":1}`)
		if code == http.StatusOK {
			continue
		}
		failed = append(failed, i)
		if code != 400 || body != `{"error":"Error generating stream: simulated failure"}` {
			t.Errorf("request %d: %d %s", i, code, body)
		}
	}
	if got := fmt.Sprint(failed); got != "[3 6 9 13 16 19]" {
		t.Errorf("failed: %v", got)
	}
	p.ErrorRate(5000)
	got := raw(t, p.Addr(), "POST /v2/models/llama/generate_stream", prompt("hi", 1))
	if want := crlf("HTTP/1.1 400 Bad Request\nContent-Type: text/event-stream; charset=utf-8\nConnection: close\nTransfer-Encoding: chunked",
		chunks("data: {\"error\":\"Error generating stream: simulated failure\"}\n\n")); got != want {
		t.Errorf("stream: %q", got)
	}
	p.Heal()
	if code, _ := post(t, "http://"+p.Addr()+"/v2/models/llama/generate", `{"text_input":"hi"}`); code != 200 {
		t.Errorf("healed: %d", code)
	}
	eventually(t, "all settled", func() bool { s := p.Stats("llama"); return s.InFlight == 0 && s.Failed == 7 && s.Completed == 15 })
}

func TestInBandErrorComesWithStatus200AndACleanEnd(t *testing.T) {
	p := newPod(t, nil, fast("llama"))
	p.FailInBand(1, 2)
	tok := Tokens("llama", "hi", 2)
	got := raw(t, p.Addr(), "POST /v2/models/llama/generate_stream", prompt("hi", 9))
	want := crlf("HTTP/1.1 200 OK\nContent-Type: text/event-stream; charset=utf-8\nConnection: close\nTransfer-Encoding: chunked", chunks(
		`data: {"model_name":"llama","model_version":"1","text_output":"`+tok[0]+"\"}\n\n",
		`data: {"model_name":"llama","model_version":"1","text_output":"`+tok[1]+"\"}\n\n",
		"data: {\"error\":\"Error generating stream: simulated failure\"}\n\n"))
	if got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if _, events := open(t, p, "llama", prompt("hi", 9)).text(t); len(events) != 9 {
		t.Errorf("the next stream had %d events", len(events))
	}
	eventually(t, "counted as failed", func() bool { return p.Stats("llama").Failed == 1 })
}

// TestSlowStretchesTime compares with a generous lower bound only: a slow pod
// can't be faster than its times.
func TestSlowStretchesTime(t *testing.T) {
	m := fast("llama")
	m.InterToken = time.Millisecond
	p := newPod(t, nil, m)
	p.Slow(10)
	begin := time.Now()
	open(t, p, "llama", prompt("hi", 4)).text(t)
	if took := time.Since(begin); took < 30*time.Millisecond {
		t.Errorf("3 waits of 10 ms took %v", took)
	}
}

func TestLogIsBounded(t *testing.T) {
	p := newPod(t, func(o *Options) { o.LogSize = 3 }, fast("llama"))
	for i := range 5 {
		post(t, "http://"+p.Addr()+"/v2/models/llama/generate", fmt.Sprintf(`{"id":"%d","text_input":"hi","max_tokens":2}`, i))
		eventually(t, "settled", func() bool { return p.Stats("llama").Completed == int64(i+1) })
	}
	ids := ""
	for _, r := range p.Requests() {
		ids += r.ID
		if r.End != Completed || r.Tokens != 2 || r.Bytes == 0 || r.Stream || r.FirstByte.Before(r.Started) {
			t.Errorf("record: %+v", r)
		}
	}
	if ids != "234" {
		t.Errorf("remembered %q", ids)
	}
	if got := p.Stats("nope"); got != (Stats{}) {
		t.Errorf("stats of an unknown model: %+v", got)
	}
}
