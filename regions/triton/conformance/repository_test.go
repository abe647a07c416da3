package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"
)

const (
	index  = "/v2/repository/index"
	load   = "/v2/repository/models/spare/load"
	unload = "/v2/repository/models/spare/unload"
)

// repositoryCases load and unload: each sees what the ones before have left.
var repositoryCases = []testcase{
	talk("repository: index", post(index, "")),
	talk("repository: index of what is ready", post(index, `{"ready":true}`)),
	talk("repository: index by GET", get(index)),
	talk("repository: index, no JSON", post(index, "nonsense")),
	talk("repository: index, ready is text", post(index, `{"ready":"yes"}`)),
	talk("repository: index of a named repository", post("/v2/repository/x/index", "")),
	talk("repository: load an unknown model", post("/v2/repository/models/nope/load", "")),
	talk("repository: unload an unknown model", post("/v2/repository/models/nope/unload", "")),
	talk("repository: unload what was never loaded", post(unload, "")),
	talk("repository: load by GET", get(load)),
	talk("repository: load, no JSON", post(load, "nonsense")),
	talk("repository: load in a named repository", post("/v2/repository/x/models/spare/load", "")),
	talk("repository: load", post(load, "")),
	talk("repository: load again", post(load, "{}")),
	talk("repository: ready after load", get("/v2/models/spare/ready")),
	talk("repository: generate after load", post("/v2/models/spare/generate", `{"text_input":"a","max_tokens":2}`)),
	talk("repository: unload, no JSON", post(unload, "nonsense")),
	{"repository: unload under a stream", unloadUnderStream},
	talk("repository: ready after unload", get("/v2/models/spare/ready")),
	talk("repository: ready after unload, version", get("/v2/models/spare/versions/1/ready")),
	talk("repository: metadata after unload", get("/v2/models/spare")),
	talk("repository: generate after unload", post("/v2/models/spare/generate", `{"text_input":"a"}`)),
	talk("repository: infer after unload", post("/v2/models/spare/infer", inputs(hello))),
	talk("repository: stats after unload", get("/v2/models/spare/stats")),
	talk("repository: server ready after unload", get("/v2/health/ready")),
	talk("repository: unload again", post(unload, "")),
	talk("repository: index after unload", post(index, "")),
}

// unloadUnderStream unloads a model in the middle of a stream of it.
func unloadUnderStream(t *testing.T, tg target) string {
	w := dial(t, tg.http)
	w.send(post("/v2/models/slow/generate_stream", `{"text_input":"a","stream":true,"max_tokens":10}`))
	if _, _, err := w.head(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v2/repository/models/slow/unload", unload} {
		w.note("%s", converse(t, tg.http, post(path, "")))
	}
	settle(t, tg, `"name":"spare","version":"1","state":"UNAVAILABLE"`)
	w.note("%s", converse(t, tg.http, post("/v2/models/slow/generate", `{"text_input":"a"}`), get("/v2/models/slow"), get("/v2/health/ready")))
	w.note("%s", converse(t, tg.http, post(index, "")))
	w.ended(w.body(map[string]string{"transfer-encoding": "chunked"}))
	settle(t, tg, `"name":"slow","version":"1","state":"UNAVAILABLE"`)
	w.note("%s", converse(t, tg.http, post("/v2/repository/models/slow/load", ""), get("/v2/models/slow/ready")))
	w.alive()
	return w.said.String()
}

// settle waits until the index shows a state.
func settle(t *testing.T, tg target, state string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if strings.Contains(converse(t, tg.http, post(index, "")), state) {
			return
		}
	}
	t.Errorf("the index never showed %s", state)
}

// countingCases are about numbers: they use models that no other case uses.
var countingCases = []testcase{
	{"counting: requests", func(t *testing.T, tg target) string {
		count := func(model, body string) { converse(t, tg.http, post("/v2/models/"+model, body)) }
		count("counted/infer", inputs(hello, three))
		count("counted/infer", inputs(hello, three))
		count("counted/infer", inputs(hello, `{"name":"max_tokens","shape":[1],"datatype":"INT32","data":[0]}`))
		count("counted/infer", inputs(hello))
		count("streamed/generate_stream", `{"text_input":"a","stream":true,"max_tokens":3}`)
		count("streamed/generate_stream", `{"text_input":"a","stream":true,"max_tokens":0}`)
		count("streamed/generate_stream", `{"text_input":7}`)
		// A server counts after it has answered.
		until(t, tg, `nv_inference_request_success{model="counted",version="1"} 3`)
		until(t, tg, `nv_inference_request_success{model="streamed",version="1"} 2`)
		return "done\n"
	}},
	talk("counting: stats of a coupled model", get("/v2/models/counted/stats")),
	talk("counting: stats of a version", get("/v2/models/counted/versions/1/stats")),
	talk("counting: stats of a decoupled model", get("/v2/models/streamed/stats")),
	{"counting: stats of all", func(t *testing.T, tg target) string {
		var stats struct {
			Rows []struct{ Name, Version string } `json:"model_stats"`
		}
		decode(t, "http://"+tg.http+"/v2/models/stats", &stats)
		return fmt.Sprintln(stats.Rows)
	}},
	{"counting: metrics of a coupled model", func(t *testing.T, tg target) string { return metricsOf(t, tg, "counted") }},
	{"counting: metrics of a decoupled model", func(t *testing.T, tg target) string { return metricsOf(t, tg, "streamed") }},
	{"metrics: no series of what is not loaded", func(t *testing.T, tg target) string { return metricsOf(t, tg, "spare") }},
	{"metrics: families", func(t *testing.T, tg target) string {
		var lines []string
		for _, line := range strings.Split(fetch(t, "http://"+tg.metrics+"/metrics"), "\n") {
			if strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "\n") + "\n"
	}},
	{"metrics: header", func(t *testing.T, tg target) string { return head(t, tg.metrics, get("/metrics")) }},
	{"metrics: trailing slash", func(t *testing.T, tg target) string { return head(t, tg.metrics, get("/metrics/")) }},
	{"metrics: another path", func(t *testing.T, tg target) string { return converse(t, tg.metrics, get("/v2/health/ready")) }},
	{"metrics: root", func(t *testing.T, tg target) string { return converse(t, tg.metrics, get("/")) }},
	{"metrics: by POST", func(t *testing.T, tg target) string { return converse(t, tg.metrics, post("/metrics", "")) }},
	{"metrics: another path by POST", func(t *testing.T, tg target) string { return converse(t, tg.metrics, post("/x", "")) }},
}

// head is the head of an answer whose body is another case's.
func head(t *testing.T, addr, request string) string {
	w := dial(t, addr)
	w.send(request)
	_, _, err := w.head()
	w.ended(err)
	return w.said.String()
}

// metricsOf lists a model's samples, the times without their values.
func metricsOf(t *testing.T, tg target, model string) string {
	var lines []string
	for _, line := range strings.Split(fetch(t, "http://"+tg.metrics+"/metrics"), "\n") {
		name, value, _ := strings.Cut(line, " ")
		if !strings.Contains(name, `model="`+model+`"`) {
			continue
		}
		if regexp.MustCompile(`_(us|secs)\{`).MatchString(name) {
			value = "TIME"
		}
		lines = append(lines, name+" "+value)
	}
	sort.Strings(lines) // a real server's are in no order
	return strings.Join(append(lines, "(that is all)\n"), "\n")
}

// configCase compares the part of a configuration that the simulator has.
func configCase(model string) testcase {
	return testcase{"config: " + model, func(t *testing.T, tg target) string {
		var config struct {
			Name         string           `json:"name"`
			MaxBatchSize int              `json:"max_batch_size"`
			Version      json.RawMessage  `json:"version_policy"`
			Input        []map[string]any `json:"input"`
			Output       []map[string]any `json:"output"`
			Transaction  map[string]any   `json:"model_transaction_policy"`
			Batching     *struct {
				Policy json.RawMessage `json:"default_queue_policy"`
			} `json:"dynamic_batching"`
		}
		decode(t, "http://"+tg.http+"/v2/models/"+model+"/config", &config)
		var b strings.Builder
		fmt.Fprintln(&b, config.Name, config.MaxBatchSize, string(config.Version), "decoupled:", config.Transaction["decoupled"] == true)
		for _, in := range config.Input {
			fmt.Fprintln(&b, "input", in["name"], in["data_type"], in["dims"], in["optional"])
		}
		for _, out := range config.Output {
			fmt.Fprintln(&b, "output", out["name"], out["data_type"], out["dims"])
		}
		if config.Batching != nil {
			fmt.Fprintln(&b, "queue", string(config.Batching.Policy))
		}
		return b.String()
	}}
}

var configCases = []testcase{configCase("llama"), configCase("trt"), configCase("queue")}

func decode(t *testing.T, url string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(fetch(t, url)), into); err != nil {
		t.Fatal(err)
	}
}

// fetch reads a body over a connection of its own.
func fetch(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
