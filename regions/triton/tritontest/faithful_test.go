package tritontest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestStopStrings: the text ends before the stop string, and what may be its
// beginning is held back until that is known.
func TestStopStrings(t *testing.T) {
	p := newPod(t, nil, fast("llama"))
	words := Tokens("llama", "hi", 10)
	stop := words[3] + words[4][:2] // ends in the fifth token
	want := strings.Join(words[:3], "")
	for name, body := range map[string]string{
		"parameter": `{"text_input":"hi","parameters":{"stream":true,"max_tokens":10,"stop":%q},"return_finish_reason":true}`,
		"sampling":  `{"text_input":"hi","stream":true,"sampling_parameters":"{\"max_tokens\":10,\"stop\":[\"never\",\"%s\"]}","return_finish_reason":true}`,
	} {
		text, events := open(t, p, "llama", fmt.Sprintf(body, stop)).text(t)
		if text != want || len(events) != 5 || events[4]["finish_reason"] != "stop" {
			t.Errorf("%s: %q in %d events, want %q: %v", name, text, len(events), want, events)
		}
		if first, _ := events[0]["text_output"].(string); len(first) > max(0, len(words[0])-len(stop)+1) {
			t.Errorf("%s: first event has %q; %q may still come", name, first, stop)
		}
	}
	text, events := open(t, p, "llama", `{"text_input":"hi","parameters":{"stream":true,"max_tokens":3,"stop":"never seen"}}`).text(t)
	if text != strings.Join(words[:3], "") || len(events) != 3 {
		t.Errorf("without the stop string: %q, want %q", text, words[:3])
	}
	_, body := post(t, "http://"+p.Addr()+"/v2/models/llama/generate",
		fmt.Sprintf(`{"text_input":"hi","exclude_input_in_output":true,"parameters":{"max_tokens":10,"stop":%q}}`, stop))
	if !strings.Contains(body, fmt.Sprintf(`"text_output":%q`, want)) {
		t.Errorf("not streamed: %s, want %q", body, want)
	}
}

func TestCumulativeStreamsRepeatTheText(t *testing.T) {
	m := fast("trt")
	m.Flavour, m.Cumulative = TRTLLM, true
	p := newPod(t, nil, m)
	_, events := open(t, p, "trt", `{"text_input":"hi","max_tokens":4,"stream":true}`).text(t)
	words := Tokens("trt", "hi", 4)
	for i, e := range events {
		if e["text_output"] != strings.Join(words[:i+1], "") {
			t.Errorf("event %d: %v", i, e)
		}
	}
	if len(events) != 4 {
		t.Errorf("%d events", len(events))
	}
}

// TestCheckpointsDiffer: other weights, another configuration and other words.
func TestCheckpointsDiffer(t *testing.T) {
	var configs, texts []string
	for _, checkpoint := range []string{"", "", "v2", "v3"} {
		m := fast("llama")
		m.Checkpoint = checkpoint
		p := newPod(t, nil, m)
		_, config := ask(t, dial(t, p.Addr()), "GET /v2/models/llama/config", "")
		text, _ := open(t, p, "llama", prompt("hi", 20)).text(t)
		configs, texts = append(configs, config), append(texts, text)
	}
	for _, all := range [][]string{configs, texts} {
		if all[0] != all[1] || all[1] == all[2] || all[2] == all[3] {
			t.Errorf("%q", all)
		}
	}
	if want := `"parameters":{"model":{"string_value":"v2"}}`; !strings.Contains(configs[2], want) {
		t.Errorf("%s, want %s", configs[2], want)
	}
}

// TestZombieIsReadyAndDead in both ways, for streams under way too.
func TestZombieIsReadyAndDead(t *testing.T) {
	p := newPod(t, nil, fast("llama"))
	url := "http://" + p.Addr() + "/v2/models/llama"
	ready := func() {
		t.Helper()
		if code, _ := ask(t, dial(t, p.Addr()), "GET /v2/models/llama/ready", ""); code != http.StatusOK {
			t.Errorf("ready: %d", code)
		}
	}
	p.Zombie("llama", Hanging)
	ready()
	answered := make(chan string, 1)
	go func() {
		_, body := post(t, url+"/generate", `{"text_input":"hi"}`)
		answered <- body
	}()
	eventually(t, "taken", func() bool { return p.Stats("llama").InFlight == 1 })
	p.Zombie("llama", Failing)
	if body := <-answered; !strings.Contains(body, "EngineCore encountered an issue") {
		t.Errorf("a hanging request ended with %s", body)
	}
	ready()
	if code, body := post(t, url+"/generate_stream", `{"text_input":"hi","stream":true}`); code != http.StatusBadRequest ||
		!strings.Contains(body, "EngineCore") {
		t.Errorf("%d %s", code, body)
	}
	p.Heal()
	if code, body := post(t, url+"/generate", `{"text_input":"hi"}`); code != http.StatusOK {
		t.Errorf("healed: %d %s", code, body)
	}
	if s := p.Stats("llama"); s.Started != 3 {
		t.Errorf("stats: %+v", s)
	}
}

// TestCustomMetrics has vLLM's series only where they were asked for.
func TestCustomMetrics(t *testing.T) {
	m := fast("llama")
	m.CustomMetrics = true
	p := newPod(t, nil, m, fast("mistral"))
	for _, name := range []string{"llama", "mistral"} {
		if code, _ := post(t, "http://"+p.Addr()+"/v2/models/"+name+"/generate", `{"text_input":"one two","max_tokens":7}`); code != http.StatusOK {
			t.Fatalf("generate: %d", code)
		}
	}
	text := raw(t, p.MetricsAddr(), "GET /metrics", "")
	for _, want := range []string{
		"# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total{model=\"llama\",version=\"1\"} 2\n",
		"vllm:generation_tokens_total{model=\"llama\",version=\"1\"} 7\n",
		"# TYPE vllm:time_to_first_token_seconds histogram\nvllm:time_to_first_token_seconds_bucket{le=\"0.001\",model=\"llama\",version=\"1\"} ",
		"vllm:time_to_first_token_seconds_count{model=\"llama\",version=\"1\"} 1\n",
		"vllm:time_per_output_token_seconds_count{model=\"llama\",version=\"1\"} 6\n",
		"vllm:request_generation_tokens_bucket{le=\"5\",model=\"llama\",version=\"1\"} 0\nvllm:request_generation_tokens_bucket{le=\"10\",model=\"llama\",version=\"1\"} 1\n",
		"vllm:request_prompt_tokens_sum{model=\"llama\",version=\"1\"} 2\n",
		"vllm:e2e_request_latency_seconds_bucket{le=\"+Inf\",model=\"llama\",version=\"1\"} 1\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, `vllm:prompt_tokens_total{model="mistral"`) || strings.Contains(text, "num_requests_waiting") {
		t.Errorf("more than was asked for:\n%s", text)
	}
}

func TestMistakesInKnobs(t *testing.T) {
	for name, change := range map[string]func(*Model){
		"cumulative vLLM":  func(m *Model) { m.Cumulative = true },
		"TRTLLM and vllm:": func(m *Model) { m.Flavour, m.CustomMetrics = TRTLLM, true },
	} {
		m := fast("llama")
		change(&m)
		if err := m.Validate(); err == nil {
			t.Errorf("%s: no mistake", name)
		}
	}
}

// TestQueueDurations are of Triton's own queue only.
func TestQueueDurations(t *testing.T) {
	m := fast("trt")
	m.Flavour, m.Slots, m.QueueLimit, m.InterToken = TRTLLM, 1, 5, 10*time.Millisecond
	p := newPod(t, nil, m)
	done := make(chan struct{}, 2)
	for range 2 {
		go func() {
			_, _ = post(t, "http://"+p.Addr()+"/v2/models/trt/generate", `{"text_input":"hi","max_tokens":3}`)
			done <- struct{}{}
		}()
	}
	<-done
	<-done
	g := p.current().core.Loaded()[0].Engine.Gauges()
	if g.Success != 2 || g.Queue < 15*time.Millisecond || g.Request < g.Queue+g.Infer-time.Millisecond {
		t.Errorf("%+v", g)
	}
}
