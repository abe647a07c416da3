package tritontest

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// whole is a golden answer of known length, on a connection that closes.
func whole(status, contentType, body string) string {
	return crlf("HTTP/1.1 "+status+"\nContent-Length: "+strconv.Itoa(len(body))+"\nContent-Type: "+contentType+"\nConnection: close", body)
}

// chunks is a chunked body with its terminator.
func chunks(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(p), p)
	}
	return b.String() + "0\r\n\r\n"
}

func TestAnswersToTheByte(t *testing.T) {
	trt := fast("trt")
	trt.Flavour, trt.KVBlocks = TRTLLM, 4096
	coupled := trt
	coupled.Name, coupled.Coupled = "coupled", true
	idle := fast("idle")
	idle.Unloaded = true
	p := newPod(t, nil, fast("llama"), trt, coupled, idle)

	const (
		plain, jsonT = "text/plain", "application/json"
		notFound     = `{"error":"Not Found"}`
		notAllowed   = `{"error":"Method Not Allowed"}`
		infer        = `{"id":"7","inputs":[{"name":"text_input","shape":[1],"datatype":"BYTES","data":[["hi"]]},` +
			`{"name":"max_tokens","shape":[1],"datatype":"INT32","data":[2]}],"outputs":[{"name":"text_output"}]}`
	)
	for _, c := range []struct{ line, body, want string }{
		{"GET /v2", "", whole("200 OK", jsonT, serverMetadata())},
		{"GET /v2/health/live", "", whole("200 OK", plain, "")},
		{"GET /v2/health/ready", "", whole("200 OK", plain, "")},
		{"POST /v2/health/ready", "", whole("405 Method Not Allowed", plain, notAllowed)},
		{"GET /v2/health/ready?now", "", whole("200 OK", plain, "")},
		{"GET /v2/health/ready/", "", whole("404 Not Found", plain, notFound)},
		{"GET /v2/health", "", whole("404 Not Found", plain, notFound)},
		{"GET /v2/", "", whole("404 Not Found", plain, notFound)},
		{"GET /", "", whole("404 Not Found", plain, notFound)},
		{"GET /healthz", "", whole("404 Not Found", plain, notFound)},
		{"GET /v2/models/llama/versions/1/trace/setting", "", whole("404 Not Found", plain, notFound)},
		{"GET /v2/models/llama/ready", "", whole("200 OK", plain, "")},
		{"GET /v2/models/llama/versions/1/ready", "", whole("200 OK", plain, "")},
		{"GET /v2/models/%6Clama/ready", "", whole("404 Not Found", plain, `{"error":"Request for unknown model: '%6Clama' is not found"}`)},
		{"GET /v2/models/nope/ready", "", whole("404 Not Found", plain, `{"error":"Request for unknown model: 'nope' is not found"}`)},
		{"GET /v2/models/idle/ready", "", whole("404 Not Found", plain, `{"error":"Request for unknown model: 'idle' is not found"}`)},
		{"GET /v2/models/llama/versions/3/ready", "", whole("404 Not Found", plain, `{"error":"Request for unknown model: 'llama' version 3 is not found"}`)},
		{"GET /v2/models/nope", "", whole("404 Not Found", jsonT, `{"error":"Request for unknown model: 'nope' is not found"}`)},
		{"POST /v2/models/llama", "{}", whole("405 Method Not Allowed", jsonT, notAllowed)},
		{"GET /v2/models/nope/stats", "", whole("400 Bad Request", jsonT, `{"error":"requested model 'nope' is not available"}`)},
		{"GET /v2/models/llama/versions/2/stats", "", whole("400 Bad Request", jsonT, `{"error":"requested model version is not available for model 'llama'"}`)},
		{"POST /v2/models/stats", "", whole("405 Method Not Allowed", jsonT, notAllowed)},
		{"POST /v2/repository/index", "", whole("200 OK", jsonT, `[{"name":"coupled","version":"1","state":"READY"},{"name":"idle"},`+
			`{"name":"llama","version":"1","state":"READY"},{"name":"trt","version":"1","state":"READY"}]`)},
		{"POST /v2/repository/index", `{"ready":1}`, whole("500 Internal Server Error", jsonT, `{"error":"attempt to access JSON non-boolean as boolean"}`)},
		{"POST /v2/repository/mine/models/llama/load", "", whole("501 Not Implemented", jsonT, `{"error":"'repository_name' specification is not supported"}`)},
		{"GET /v2/repository/index", "", whole("405 Method Not Allowed", jsonT, notAllowed)},
		{"GET /v2/systemsharedmemory/status", "", whole("200 OK", jsonT, "[]")},
		{"POST /v2/models/llama/infer", infer, whole("501 Not Implemented", plain, `{"error":"HTTP end point doesn't support models with decoupled transaction policy"}`)},
		{"GET /v2/models/llama/infer", "", whole("405 Method Not Allowed", plain, notAllowed)},
		{"POST /v2/models/coupled/infer", infer, whole("200 OK", jsonT, `{"id":"7","model_name":"coupled","model_version":"1","parameters":{"sequence_id":0,"sequence_start":false,"sequence_end":false},`+
			`"outputs":[{"name":"text_output","datatype":"BYTES","shape":[1],"data":["hi`+strings.Join(Tokens("coupled", "hi", 2), "")+`"]}]}`)},
		{"GET /v2/models/llama/generate", "", whole("405 Method Not Allowed", jsonT, notAllowed)},
		{"POST /v2/models/nope/generate", "{}", whole("404 Not Found", jsonT, `{"error":"Request for unknown model: 'nope' is not found"}`)},
		{"POST /v2/models/llama/generate", `{`, whole("500 Internal Server Error", jsonT, `{"error":"failed to parse the request JSON buffer: Invalid value. at 0"}`)},
		{"POST /v2/models/llama/generate_stream", `{"id":"42"}`, whole("400 Bad Request", jsonT, `{"error":"[request id: 42] expected number of inputs between 1 and 11 `+
			`but got 0 inputs for model 'llama'. Got input(s) [], but missing required input(s) ['text_input']. Please provide all required input(s)."}`)},
	} {
		if got := raw(t, p.Addr(), c.line, c.body); got != c.want {
			t.Errorf("%s %s\n got %q\nwant %q", c.line, c.body, got, c.want)
		}
	}
}

func TestGenerateToTheByte(t *testing.T) {
	trt := fast("trt")
	trt.Flavour, trt.KVBlocks = TRTLLM, 4096
	p := newPod(t, nil, fast("llama"), trt)
	const (
		sse     = "HTTP/1.1 200 OK\nContent-Type: text/event-stream; charset=utf-8\nConnection: close\nTransfer-Encoding: chunked"
		jsonOK  = "HTTP/1.1 200 OK\nContent-Type: application/json\nConnection: close\nTransfer-Encoding: chunked"
		sse400  = "HTTP/1.1 400 Bad Request\nContent-Type: text/event-stream; charset=utf-8\nConnection: close\nTransfer-Encoding: chunked"
		json400 = "HTTP/1.1 400 Bad Request\nContent-Type: application/json\nConnection: close\nTransfer-Encoding: chunked"
	)
	tok := Tokens("llama", "hi", 16)
	deltas := `{"finish_reason":"None","id":"42","model_name":"llama","model_version":"1","num_input_tokens":1,"num_output_tokens":1,"text_output":"`
	last := `{"finish_reason":"length","id":"42","model_name":"llama","model_version":"1","num_input_tokens":1,"num_output_tokens":1,"text_output":"`
	plain := `{"model_name":"llama","model_version":"1","text_output":"`
	trtTok := Tokens("trt", "hi", 2)
	for _, c := range []struct{ path, body, want string }{
		{"llama/generate_stream", `{"text_input":"hi","parameters":{"stream":true,"max_tokens":2}}`, crlf(sse, chunks(
			"data: "+plain+tok[0]+"\"}\n\n", "data: "+plain+tok[1]+"\"}\n\n"))},
		{"llama/versions/1/generate_stream", `{"id":"42","text_input":"hi","stream":true,"parameters":{"max_tokens":"2","exclude_input_in_output":true,` +
			`"return_num_output_tokens":true,"return_num_input_tokens":true,"return_finish_reason":true}}`, crlf(sse, chunks(
			"data: "+deltas+tok[0]+"\"}\n\n", "data: "+last+tok[1]+"\"}\n\n"))},
		{"llama/generate_stream", `{"text_input":"hi","parameters":{"max_tokens":2}}`, crlf(sse, chunks("data: "+plain+"hi"+tok[0]+tok[1]+"\"}\n\n"))},
		{"llama/generate", `{"text_input":"hi"}`, crlf(jsonOK, chunks(plain+"hi"+strings.Join(tok, "")+`"}`))},
		{"llama/generate", `{"text_input":"hi","exclude_input_in_output":true,"sampling_parameters":"{\"max_tokens\":1}"}`, crlf(jsonOK, chunks(plain+tok[0]+`"}`))},
		{"llama/generate", `{"text_input":"hi","parameters":{"stream":true,"max_tokens":2}}`, crlf(jsonOK, chunks(
			`{"error":"generate expects model to produce exactly 1 response, use generate stream for model that generates various number of responses"}`))},
		{"llama/generate", `{"text_input":"a\"b\\\n\u0001/é","max_tokens":1}`, crlf(jsonOK, chunks(
			plain+`a\"b\\\n\u0001/é`+Tokens("llama", "a\"b\\\n\x01/é", 1)[0]+`"}`))},
		{"llama/generate_stream", `{"text_input":"hi","stream":true,"exclude_input_in_output":false}`, crlf(sse400, chunks(
			"data: {\"error\":\"Error generating stream: When streaming, `exclude_input_in_output` = False is not allowed.\"}\n\n"))},
		{"llama/generate", `{"text_input":"hi","max_tokens":0}`, crlf(json400, chunks(`{"error":"Error generating stream: max_tokens must be at least 1, got 0."}`))},
		{"trt/generate", `{"text_input":"hi","max_tokens":2}`, crlf(jsonOK, chunks(`{"cum_log_probs":0.0,"model_name":"trt","model_version":"1","output_log_probs":[0.0,0.0],`+
			`"sequence_end":false,"sequence_id":0,"sequence_start":false,"text_output":"hi`+trtTok[0]+trtTok[1]+`"}`))},
	} {
		if got := raw(t, p.Addr(), "POST /v2/models/"+c.path, c.body); got != c.want {
			t.Errorf("%s %s\n got %q\nwant %q", c.path, c.body, got, c.want)
		}
	}

	got := raw(t, p.Addr(), "POST /v2/models/llama/generate", `{"text_input":"hi"}`, "Content-Encoding: gzip")
	if want := whole("400 Bad Request", jsonType, `{"error":"Unsupported content-encoding, only 'identity' is supported."}`); got != want {
		t.Errorf("gzip: got %q, want %q", got, want)
	}
}

func TestLoadIsReportedOnlyWhenAskedForAndKnown(t *testing.T) {
	trt := fast("trt")
	trt.Flavour, trt.KVBlocks = TRTLLM, 100
	const request = `{"text_input":"hi","max_tokens":1}`
	header := func(p *Pod, format string) string {
		answer := raw(t, p.Addr(), "POST /v2/models/trt/generate", request, "endpoint-load-metrics-format: "+format)
		m := regexp.MustCompile(`\r\nendpoint-load-metrics: ([^\r]*)\r\n`).FindStringSubmatch(answer)
		if m == nil {
			return ""
		}
		return m[1]
	}
	p := newPod(t, nil, trt)
	if got, want := header(p, "text"), "TEXT named_metrics.kv_cache_utilization=0.010000, named_metrics.max_token_capacity=6400"; got != want {
		t.Errorf("text: %q", got)
	}
	if got, want := header(p, "json"), `JSON {"named_metrics":{"kv_cache_utilization":0.01,"max_token_capacity":6400}}`; got != want {
		t.Errorf("json: %q", got)
	}
	if got := header(p, "protobuf"); got != "" {
		t.Errorf("unknown format: %q", got)
	}
	trt.Flavour = VLLM
	if got := header(newPod(t, nil, trt), "text"); got != "" {
		t.Errorf("without a TensorRT-LLM model: %q", got)
	}
}

func TestReadinessOfLoadingUnloadedAndSickModels(t *testing.T) {
	slow := fast("slow")
	slow.LoadDelay = time.Hour
	quick := fast("quick")
	p := newPod(t, nil, slow, quick)
	is := func(path string, status int, body string) {
		t.Helper()
		answer := raw(t, p.Addr(), "GET "+path, "")
		head, got, _ := strings.Cut(answer, "\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.1 "+strconv.Itoa(status)+" ") || got != body {
			t.Errorf("%s: want %d %q, got %q", path, status, body, answer)
		}
	}
	is("/v2/health/ready", 400, "")
	is("/v2/health/live", 200, "")
	is("/v2/models/slow/ready", 404, `{"error":"Request for unknown model: 'slow' has no available versions"}`)
	is("/v2/models/slow/versions/1/ready", 503, `{"error":"Request for unknown model: 'slow' version 1 is not at ready state"}`)
	is("/v2/models/quick/ready", 200, "")
	if _, index := post(t, "http://"+p.Addr()+"/v2/repository/index", ""); !strings.Contains(index, `{"name":"slow","version":"1","state":"LOADING"}`) {
		t.Errorf("index while loading: %s", index)
	}

	unload := func(model string) {
		t.Helper()
		if code, body := post(t, "http://"+p.Addr()+"/v2/repository/models/"+model+"/unload", ""); code != 200 || body != "" {
			t.Errorf("unload %s: %d %q", model, code, body)
		}
	}
	unload("slow")
	is("/v2/health/ready", 200, "") // what is unloaded does not count
	unload("quick")
	is("/v2/health/ready", 200, "")
	is("/v2/models/quick/ready", 404, `{"error":"Request for unknown model: 'quick' has no available versions"}`)
	if _, index := post(t, "http://"+p.Addr()+"/v2/repository/index", ""); index != `[{"name":"quick","version":"1","state":"UNAVAILABLE","reason":"unloaded"},`+
		`{"name":"slow","version":"1","state":"UNAVAILABLE","reason":"unloaded"}]` {
		t.Errorf("index: %s", index)
	}
	if code, body := post(t, "http://"+p.Addr()+"/v2/repository/models/quick/load", "{}"); code != 200 || body != "" {
		t.Errorf("load: %d %q", code, body)
	}
	if _, index := post(t, "http://"+p.Addr()+"/v2/repository/index", `{"ready":true}`); index != `[{"name":"quick","version":"1","state":"READY"}]` {
		t.Errorf("index of what is ready: %s", index)
	}
	if code, body := post(t, "http://"+p.Addr()+"/v2/repository/models/nope/load", ""); code != 500 || !strings.Contains(body, "failed to load 'nope'") {
		t.Errorf("load of nothing: %d %q", code, body)
	}

	p.NotReady("quick", true)
	is("/v2/models/quick/ready", 400, `{"error":"Model version not ready"}`)
	is("/v2/health/ready", 400, "")
	p.NotReady("quick", false)
	is("/v2/health/ready", 200, "")

	p.Exiting(true)
	is("/v2/health/ready", 503, `{"error":"Server exiting"}`)
	is("/v2/health/live", 503, `{"error":"Server exiting"}`)
	is("/v2/models/quick/ready", 503, `{"error":"Server not ready"}`)
	is("/v2/models/quick", 503, `{"error":"Server not ready"}`)
	p.Heal()
	is("/v2/health/ready", 200, "")
}

func TestUnloadLetsRunningRequestsFinish(t *testing.T) {
	p := newPod(t, nil, stalled("llama"))
	s := open(t, p, "llama", prompt("hi", 5))
	if code, _ := post(t, "http://"+p.Addr()+"/v2/repository/models/llama/unload", ""); code != http.StatusOK {
		t.Fatalf("unload: %d", code)
	}
	if _, index := post(t, "http://"+p.Addr()+"/v2/repository/index", ""); !strings.Contains(index, `"state":"UNLOADING"`) {
		t.Errorf("index: %s", index)
	}
	if code, _ := post(t, "http://"+p.Addr()+"/v2/models/llama/generate", `{"text_input":"hi"}`); code != http.StatusNotFound {
		t.Errorf("new request: %d", code)
	}
	_ = s.conn.Close()
	eventually(t, "unloaded when the stream has ended", func() bool {
		_, index := post(t, "http://"+p.Addr()+"/v2/repository/index", "")
		return strings.Contains(index, `"state":"UNAVAILABLE","reason":"unloaded"`)
	})
}

func TestModelControlNeedsExplicitMode(t *testing.T) {
	p := newPod(t, func(o *Options) { o.Explicit = false }, fast("llama"))
	code, body := post(t, "http://"+p.Addr()+"/v2/repository/models/llama/unload", "")
	if code != http.StatusServiceUnavailable || body != `{"error":"explicit model load / unload is not allowed if polling is enabled"}` {
		t.Errorf("unload: %d %s", code, body)
	}
}

func TestMetricsChangeWhenRequestsEnd(t *testing.T) {
	trt := stalled("trt")
	trt.Flavour, trt.Slots, trt.QueueLimit, trt.KVBlocks = TRTLLM, 1, 1, 10
	p := newPod(t, func(o *Options) { o.MetricsInterval = 0 }, fast("llama"), trt)
	metric := func(line string) bool {
		return strings.Contains(raw(t, p.MetricsAddr(), "GET /metrics", ""), "\n"+line+"\n")
	}
	want := func(line string) {
		t.Helper()
		eventually(t, line, func() bool { return metric(line) })
	}
	want(`nv_inference_request_success{model="llama",version="1"} 0`)
	s := open(t, p, "llama", prompt("hi", 3))
	s.text(t)
	want(`nv_inference_request_success{model="llama",version="1"} 1`)
	want(`nv_inference_pending_request_count{model="llama",version="1"} 0`)

	s = open(t, p, "trt", `{"text_input":"a b c","max_tokens":100,"stream":true}`)
	want(`nv_inference_request_success{model="trt",version="1"} 0`)
	want(`nv_trt_llm_request_metrics{model="trt",request_type="active",version="1"} 1`)
	want(`nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="trt",version="1"} 1`)
	want(`nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="trt",version="1"} 0.1`)
	waiting := dial(t, p.Addr())
	send(t, waiting, "POST /v2/models/trt/generate_stream", `{"text_input":"a","max_tokens":1}`)
	want(`nv_trt_llm_request_metrics{model="trt",request_type="waiting",version="1"} 1`)
	want(`nv_inference_pending_request_count{model="trt",version="1"} 1`)
	eventually(t, "a GPU that works all the time", func() bool {
		return regexp.MustCompile(`\nnv_gpu_utilization\{gpu_uuid="GPU-[-0-9a-f]+"\} (1|0\.9\d*)\n`).MatchString(raw(t, p.MetricsAddr(), "GET /metrics/", ""))
	})
	_ = s.conn.Close()
	// A stream that was given up is a success to Triton, as an execution.
	want(`nv_inference_request_success{model="trt",version="1"} 2`)
	want(`nv_inference_request_failure{model="trt",reason="CANCELED",version="1"} 0`)

	empty := whole("200 OK", "text/plain; charset=utf-8", "")
	for _, path := range []string{"/", "/v2/health/ready", "/metrics/x"} {
		if got := raw(t, p.MetricsAddr(), "GET "+path, ""); got != empty {
			t.Errorf("%s on the metrics port: %q", path, got)
		}
	}
	if got, want := raw(t, p.MetricsAddr(), "POST /metrics", ""), whole("405 Method Not Allowed", plainType, `{"error":"Method Not Allowed"}`); got != want {
		t.Errorf("POST: %q", got)
	}
}

// TestMetricsText checks the form of every line, and that labels are sorted.
func TestMetricsText(t *testing.T) {
	trt := fast("trt")
	trt.Flavour = TRTLLM
	p := newPod(t, nil, fast("llama"), trt)
	_, body, _ := strings.Cut(raw(t, p.MetricsAddr(), "GET /metrics", ""), "\r\n\r\n")
	sample := regexp.MustCompile(`^([a-z_]+)\{((?:[a-z_]+="[^"]*",?)+)\} [0-9.]+$`)
	family := ""
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			family, _, _ = strings.Cut(rest, " ")
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil || m[1] != family {
			t.Errorf("in family %s: %q", family, line)
			continue
		}
		previous := ""
		for _, label := range strings.Split(m[2], ",") {
			name, _, _ := strings.Cut(label, "=")
			if name < previous {
				t.Errorf("labels not sorted: %q", line)
			}
			previous = name
		}
	}
}
