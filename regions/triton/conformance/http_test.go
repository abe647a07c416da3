package conformance

import (
	"strings"
	"testing"
)

// testcase is a conversation with a server; what it returns must be the same
// text for a real server and for the simulator.
type testcase struct {
	name string
	run  func(t *testing.T, tg target) string
}

// talk is a case that sends requests on one connection, each after the answer to
// the one before, and then asks whether the connection is still good.
func talk(name string, requests ...string) testcase {
	return testcase{name, func(t *testing.T, tg target) string {
		return converse(t, tg.http, requests...)
	}}
}

func converse(t *testing.T, addr string, requests ...string) string {
	w := dial(t, addr)
	for _, r := range requests {
		w.request(r)
	}
	w.alive()
	return w.said.String()
}

// request sends a request and reads its answer.
func (w *wire) request(raw string) {
	w.send(raw)
	method, _, _ := strings.Cut(raw, " ")
	w.answer(method)
}

const (
	generate = "/v2/models/llama/generate"
	stream   = "/v2/models/llama/generate_stream"
	infer    = "/v2/models/trt/infer"
)

// inputs makes the body of an infer request from the JSON of its inputs.
func inputs(rows ...string) string { return `{"id":"42","inputs":[` + strings.Join(rows, ",") + `]}` }

const (
	hello  = `{"name":"text_input","shape":[1],"datatype":"BYTES","data":["Hello"]}`
	three  = `{"name":"max_tokens","shape":[1],"datatype":"INT32","data":[3]}`
	silent = `{"name":"exclude_input_in_output","shape":[1],"datatype":"BOOL","data":[true]}`
)

var healthCases = []testcase{
	talk("health: live", get("/v2/health/live")),
	talk("health: ready", get("/v2/health/ready")),
	talk("health: live by POST", post("/v2/health/live", "")),
	talk("health: ready by POST with a body", post("/v2/health/ready", "{}")),
	talk("health: live by HEAD", "HEAD /v2/health/live HTTP/1.1\r\nHost: triton\r\n\r\n"),
	talk("health: trailing slash", get("/v2/health/live/")),
	talk("health: bare", get("/v2/health")),
	talk("health: query is ignored", get("/v2/health/ready?x=1")),
	talk("ready: model", get("/v2/models/llama/ready")),
	talk("ready: version", get("/v2/models/llama/versions/1/ready")),
	talk("ready: unknown model", get("/v2/models/nope/ready")),
	talk("ready: unknown version", get("/v2/models/llama/versions/3/ready")),
	talk("ready: version is no number", get("/v2/models/llama/versions/x/ready")),
	talk("ready: version zero", get("/v2/models/llama/versions/0/ready")),
	talk("ready: version beyond any integer", get("/v2/models/llama/versions/99999999999999999999/ready")),
	talk("ready: never loaded", get("/v2/models/spare/ready")),
	talk("ready: never loaded, version", get("/v2/models/spare/versions/1/ready")),
	talk("ready: by POST", post("/v2/models/llama/ready", "")),
	talk("ready: escaped name", get("/v2/models/ll%61ma/ready")),
	talk("route: unknown", get("/v3")),
	talk("route: root", get("/")),
	talk("route: metrics are elsewhere", get("/metrics")),
	talk("route: unknown verb of a model", get("/v2/models/llama/nonsense")),
	talk("route: models without a name", get("/v2/models")),
	talk("route: two slashes", get("//v2/health/live")),
	talk("route: PUT", "PUT /v2/models/llama/infer HTTP/1.1\r\nHost: triton\r\nContent-Length: 0\r\n\r\n"),
	talk("route: OPTIONS", "OPTIONS /v2 HTTP/1.1\r\nHost: triton\r\n\r\n"),
}

var metadataCases = []testcase{
	talk("metadata: server", get("/v2")),
	talk("metadata: server by POST", post("/v2", "")),
	talk("metadata: server, trailing slash", get("/v2/")),
	talk("metadata: decoupled model", get("/v2/models/llama")),
	talk("metadata: version", get("/v2/models/llama/versions/1")),
	talk("metadata: ensemble", get("/v2/models/trt")),
	talk("metadata: unknown model", get("/v2/models/nope")),
	talk("metadata: unknown version", get("/v2/models/llama/versions/3")),
	talk("metadata: never loaded", get("/v2/models/spare")),
	talk("metadata: by POST", post("/v2/models/llama", "")),
	talk("config: unknown model", get("/v2/models/nope/config")),
	talk("config: unknown version", get("/v2/models/llama/versions/3/config")),
	talk("config: by POST", post("/v2/models/llama/config", "")),
	talk("stats: unknown model", get("/v2/models/nope/stats")),
	talk("stats: unknown version", get("/v2/models/llama/versions/3/stats")),
	talk("stats: never loaded", get("/v2/models/spare/stats")),
	talk("stats: by POST", post("/v2/models/stats", "")),
	talk("settings: trace", get("/v2/trace/setting")),
	talk("settings: trace of a model", get("/v2/models/llama/trace/setting")),
	talk("settings: trace of an unknown model", get("/v2/models/nope/trace/setting")),
	talk("settings: log", get("/v2/logging")),
	talk("memory: status", get("/v2/systemsharedmemory/status")),
	talk("memory: status of a region", get("/v2/systemsharedmemory/region/x/status")),
	talk("memory: register", post("/v2/systemsharedmemory/region/x/register", `{"key":"x","byte_size":1}`)),
	talk("memory: CUDA status", get("/v2/cudasharedmemory/status")),
}

var inferCases = []testcase{
	talk("infer: ok", post(infer, inputs(hello, three, silent))),
	talk("infer: without an id", post(infer, `{"inputs":[`+hello+`,`+three+`]}`)),
	talk("infer: version", post("/v2/models/trt/versions/1/infer", inputs(hello, three))),
	talk("infer: chosen outputs", post(infer, strings.TrimSuffix(inputs(hello, three), "}")+`,"outputs":[{"name":"text_output"}]}`)),
	talk("infer: unknown output", post(infer, strings.TrimSuffix(inputs(hello, three), "}")+`,"outputs":[{"name":"nope"}]}`)),
	talk("infer: two on a connection", post(infer, inputs(hello, three)), post(infer, inputs(hello, three))),
	talk("infer: by GET", get(infer)),
	talk("infer: unknown model", post("/v2/models/nope/infer", inputs(hello))),
	talk("infer: unknown version", post("/v2/models/trt/versions/3/infer", inputs(hello))),
	talk("infer: decoupled model", post("/v2/models/llama/infer", inputs(hello))),
	talk("infer: empty body", post(infer, "")),
	talk("infer: no JSON", post(infer, "nonsense")),
	talk("infer: cut JSON", post(infer, `{"inputs":[`)),
	talk("infer: JSON and more", post(infer, inputs(hello, three)+" x")),
	talk("infer: array", post(infer, `[1]`)),
	talk("infer: empty object", post(infer, `{}`)),
	talk("infer: no inputs", post(infer, `{"inputs":[]}`)),
	talk("infer: inputs is no array", post(infer, `{"inputs":7}`)),
	talk("infer: missing input", post(infer, inputs(hello))),
	talk("infer: other missing input", post(infer, inputs(three))),
	talk("infer: unknown input", post(infer, inputs(hello, three, `{"name":"nope","shape":[1],"datatype":"INT32","data":[1]}`))),
	talk("infer: input twice", post(infer, inputs(hello, hello, three))),
	talk("infer: input without name", post(infer, inputs(`{"shape":[1],"datatype":"BYTES","data":["x"]}`))),
	talk("infer: input without shape", post(infer, inputs(`{"name":"text_input","datatype":"BYTES","data":["x"]}`, three))),
	talk("infer: input without type", post(infer, inputs(`{"name":"text_input","shape":[1],"data":["x"]}`, three))),
	talk("infer: input without data", post(infer, inputs(`{"name":"text_input","shape":[1],"datatype":"BYTES"}`, three))),
	talk("infer: other type than the model's", post(infer, inputs(hello, `{"name":"max_tokens","shape":[1],"datatype":"FP32","data":[3]}`))),
	talk("infer: unknown type", post(infer, inputs(`{"name":"text_input","shape":[1],"datatype":"TEXT","data":["x"]}`, three))),
	talk("infer: data of another type", post(infer, inputs(`{"name":"text_input","shape":[1],"datatype":"BYTES","data":[7]}`, three))),
	talk("infer: text for a number", post(infer, inputs(hello, `{"name":"max_tokens","shape":[1],"datatype":"INT32","data":["x"]}`))),
	talk("infer: text for a boolean", post(infer, inputs(hello, three, `{"name":"stream","shape":[1],"datatype":"BOOL","data":["x"]}`))),
	talk("infer: other shape than the model's", post(infer, inputs(`{"name":"text_input","shape":[2],"datatype":"BYTES","data":["x","y"]}`, three))),
	talk("infer: one dimension more", post(infer, inputs(`{"name":"text_input","shape":[1,1],"datatype":"BYTES","data":["x"]}`, three))),
	talk("infer: fewer data than shape", post(infer, inputs(`{"name":"text_input","shape":[1],"datatype":"BYTES","data":[]}`, three))),
	talk("infer: more data than shape", post(infer, inputs(`{"name":"text_input","shape":[1],"datatype":"BYTES","data":["x","y"]}`, three))),
	talk("infer: id is a number", post(infer, `{"id":7,"inputs":[`+hello+`,`+three+`]}`)),
	talk("infer: parameters is no object", post(infer, `{"inputs":[`+hello+`,`+three+`],"parameters":7}`)),
	talk("infer: parameter is an object", post(infer, `{"inputs":[`+hello+`,`+three+`],"parameters":{"a":{}}}`)),
	talk("infer: model refuses", post(infer, inputs(hello, `{"name":"max_tokens","shape":[1],"datatype":"INT32","data":[0]}`))),
	talk("infer: header length is no number", post(infer, inputs(hello, three), "Inference-Header-Content-Length: x")),
	talk("infer: header length beyond the body", post(infer, inputs(hello, three), "Inference-Header-Content-Length: 100000")),
	talk("infer: header length of the whole body", post(infer, inputs(hello, three), headerLength(inputs(hello, three)))),
	talk("infer: binary input", binaryInput("\x05\x00\x00\x00Hello")),
	talk("infer: binary input too short", binaryInput("\x05\x00\x00\x00Hel")),
	talk("infer: unsupported content encoding", post(infer, inputs(hello, three), "Content-Encoding: br")),
}
