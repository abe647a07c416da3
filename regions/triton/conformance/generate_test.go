package conformance

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

func headerLength(body string) string {
	return "Inference-Header-Content-Length: " + strconv.Itoa(len(body))
}

// binaryInput is an infer request with text_input behind the JSON, as bytes.
func binaryInput(data string) string {
	header := inputs(`{"name":"text_input","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":`+strconv.Itoa(len(data))+`}}`, three)
	return post(infer, header+data, headerLength(header))
}

var generateCases = []testcase{
	talk("generate: ok", post(generate, `{"text_input":"Hello","max_tokens":3}`)),
	talk("generate: with an id", post(generate, `{"id":"42","text_input":"Hello","max_tokens":3,"exclude_input_in_output":true}`)),
	talk("generate: id escaped", post(generate, `{"id":"a\"\\\u00e9\n/","text_input":"Hello","max_tokens":1}`)),
	talk("generate: text escaped", post(generate, `{"text_input":"a\"\\\u00e9\n\u0001/ <&>","max_tokens":1}`)),
	talk("generate: parameters", post(generate, `{"text_input":"Hello","parameters":{"max_tokens":2,"exclude_input_in_output":true}}`)),
	talk("generate: sampling parameters", post(generate, `{"text_input":"Hello","sampling_parameters":"{\"max_tokens\":2}"}`)),
	talk("generate: default of max_tokens", post(generate, `{"text_input":"Hello"}`)),
	talk("generate: counts and reason", post(generate, `{"text_input":"Hello","max_tokens":2,"return_finish_reason":true,"return_num_input_tokens":true,"return_num_output_tokens":true}`)),
	talk("generate: inputs in arrays", post(generate, `{"text_input":["Hello"],"stream":[false],"max_tokens":2}`)),
	talk("generate: one response of a stream", post(generate, `{"text_input":"Hello","stream":true,"max_tokens":1}`)),
	talk("generate: several responses", post(generate, `{"text_input":"Hello","stream":true,"max_tokens":3}`)),
	talk("generate: ensemble", post("/v2/models/trt/generate", `{"text_input":"Hello","max_tokens":3}`)),
	talk("generate: ensemble, one token", post("/v2/models/trt/generate", `{"text_input":"Hello","max_tokens":1}`)),
	talk("generate: ensemble, missing input", post("/v2/models/trt/generate", `{"text_input":"Hello"}`)),
	talk("generate: an optional input for a required one", post(generate, `{"stream":true,"max_tokens":2}`)),
	talk("generate: ensemble refuses", post("/v2/models/trt/generate", `{"text_input":"Hello","max_tokens":0}`)),
	talk("generate: two on a connection", post(generate, `{"text_input":"Hello","max_tokens":2}`), post(generate, `{"text_input":"Hello","max_tokens":2}`)),
	talk("generate: version", post("/v2/models/llama/versions/1/generate", `{"text_input":"Hello","max_tokens":2}`)),
	talk("generate: by GET", get(generate)),
	talk("generate: unknown model", post("/v2/models/nope/generate", `{"text_input":"Hello"}`)),
	talk("generate: unknown version", post("/v2/models/llama/versions/3/generate", `{"text_input":"Hello"}`)),
	talk("generate: never loaded", post("/v2/models/spare/generate", `{"text_input":"Hello"}`)),
	talk("generate: empty body", post(generate, "")),
	talk("generate: no JSON", post(generate, "nonsense")),
	talk("generate: cut JSON", post(generate, `{"text_input":"Hello`)),
	talk("generate: JSON and more", post(generate, `{"text_input":"Hello"} x`)),
	talk("generate: JSON twice", post(generate, `{"text_input":"Hello"}{}`)),
	talk("generate: bytes that are no UTF-8", post(generate, "{\"text_input\":\"a\xff\",\"max_tokens\":1}")),
	talk("generate: array", post(generate, `["Hello"]`)),
	talk("generate: text", post(generate, `"Hello"`)),
	talk("generate: missing input", post(generate, `{"max_tokens":2}`)),
	talk("generate: missing input with an id", post(generate, `{"id":"42","stream":true}`)),
	talk("generate: text is a number", post(generate, `{"text_input":7}`)),
	talk("generate: text is null", post(generate, `{"text_input":null}`)),
	talk("generate: text is an object", post(generate, `{"text_input":{}}`)),
	talk("generate: two texts", post(generate, `{"text_input":["a","b"]}`)),
	talk("generate: no text in the array", post(generate, `{"text_input":[]}`)),
	talk("generate: stream is text", post(generate, `{"text_input":"Hello","stream":"yes"}`)),
	talk("generate: key twice", post(generate, `{"text_input":"a","text_input":"b","max_tokens":1}`)),
	talk("generate: parameter twice", post(generate, `{"text_input":"a","max_tokens":1,"max_tokens":2}`)),
	talk("generate: parameter is an object", post(generate, `{"text_input":"a","foo":{"bar":1}}`)),
	talk("generate: parameter is an array", post(generate, `{"text_input":"a","stop":["x","y"]}`)),
	talk("generate: parameter is null", post(generate, `{"text_input":"a","stop":null}`)),
	talk("generate: parameter is a fraction", post(generate, `{"text_input":"a","temperature":0.5,"max_tokens":1}`)),
	talk("generate: parameters is no object", post(generate, `{"text_input":"a","parameters":7}`)),
	talk("generate: id is a number", post(generate, `{"id":7,"text_input":"a","max_tokens":1}`)),
	talk("generate: unknown parameter is ignored", post(generate, `{"text_input":"a","foo":"bar","max_tokens":1}`)),
	talk("generate: model refuses", post(generate, `{"text_input":"a","max_tokens":0}`)),
	talk("generate: identity encoding", post(generate, `{"text_input":"a","max_tokens":1}`, "Content-Encoding: identity")),
	talk("generate: gzip encoding", post(generate, `{"text_input":"a","max_tokens":1}`, "Content-Encoding: gzip")),
	talk("generate: accept gzip", post(generate, `{"text_input":"a","max_tokens":1}`, "Accept-Encoding: gzip")),
	talk("generate: other content type", "POST "+generate+" HTTP/1.1\r\nHost: triton\r\nContent-Type: text/plain\r\nContent-Length: 33\r\n\r\n"+`{"text_input":"a","max_tokens":1}`),
	talk("generate: load metrics asked for", post(generate, `{"text_input":"a","max_tokens":1}`, "endpoint-load-metrics-format: text")),
}

var streamCases = []testcase{
	talk("stream: ok", post(stream, `{"text_input":"Hello","stream":true,"max_tokens":3}`)),
	talk("stream: with an id", post(stream, `{"id":"42","text_input":"Hello","stream":true,"max_tokens":2}`)),
	talk("stream: counts and reason", post(stream, `{"text_input":"Hello there","stream":true,"max_tokens":2,"return_finish_reason":true,"return_num_input_tokens":true,"return_num_output_tokens":true}`)),
	talk("stream: model answers once", post(stream, `{"text_input":"Hello","max_tokens":3}`)),
	talk("stream: ensemble", post("/v2/models/trt/generate_stream", `{"text_input":"Hello","max_tokens":3}`)),
	talk("stream: two on a connection", post(stream, `{"text_input":"Hello","stream":true,"max_tokens":2}`), post(stream, `{"text_input":"Hello","stream":true,"max_tokens":2}`)),
	talk("stream: model refuses", post(stream, `{"text_input":"Hello","stream":true,"max_tokens":0}`)),
	talk("stream: prompt in the output", post(stream, `{"text_input":"Hello","stream":true,"exclude_input_in_output":false}`)),
	talk("stream: no JSON", post(stream, "nonsense")),
	talk("stream: missing input", post(stream, `{"stream":true}`)),
	talk("stream: unknown model", post("/v2/models/nope/generate_stream", `{"text_input":"a"}`)),
	talk("stream: by GET", get(stream)),
	{"stream: fails before the first response", func(t *testing.T, tg target) string {
		defer tg.failNext()()
		return converse(t, tg.http, post(stream, `{"text_input":"Hello","stream":true,"max_tokens":5,"fail_after":0}`))
	}},
	{"generate: fails before the first response", func(t *testing.T, tg target) string {
		defer tg.failNext()()
		return converse(t, tg.http, post(generate, `{"text_input":"Hello","max_tokens":5,"fail_after":0}`))
	}},
	{"stream: fails after the first response", func(t *testing.T, tg target) string {
		defer tg.failInBand(1)()
		return converse(t, tg.http, post(stream, `{"text_input":"Hello","stream":true,"max_tokens":5,"fail_after":1}`))
	}},
	{"stream: fails after two responses", func(t *testing.T, tg target) string {
		defer tg.failInBand(2)()
		return converse(t, tg.http, post(stream, `{"id":"42","text_input":"Hello","stream":true,"max_tokens":5,"fail_after":2}`))
	}},
}

// protocolCases are about HTTP itself.
var protocolCases = []testcase{
	{"protocol: pipelined requests", func(t *testing.T, tg target) string {
		w := dial(t, tg.http)
		w.send(get("/v2/models/llama/ready") + post(generate, `{"text_input":"a","max_tokens":1}`) + get("/v2/health/live"))
		w.answer("GET")
		// A server that drops the others says nothing more.
		_ = w.conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, _, err := w.head(); err != nil {
			w.note("(no more answers)")
		}
		return w.said.String()
	}},
	{"protocol: Connection: close", func(t *testing.T, tg target) string {
		return converse(t, tg.http, get("/v2/health/live", "Connection: close"))
	}},
	{"protocol: Connection: close on a stream", func(t *testing.T, tg target) string {
		return converse(t, tg.http, post(stream, `{"text_input":"a","stream":true,"max_tokens":2}`, "Connection: close"))
	}},
	{"protocol: HTTP/1.0", func(t *testing.T, tg target) string {
		return converse(t, tg.http, "GET /v2/health/live HTTP/1.0\r\n\r\n")
	}},
	{"protocol: HTTP/1.0 stream", func(t *testing.T, tg target) string {
		return overClosed(t, tg, "POST "+stream+" HTTP/1.0\r\nContent-Length: 47\r\n\r\n"+`{"text_input":"a","stream":true,"max_tokens":2}`)
	}},
	{"protocol: HTTP/1.0 keep-alive", func(t *testing.T, tg target) string {
		return converse(t, tg.http, "GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	}},
	talk("protocol: no Host", "GET /v2/health/live HTTP/1.1\r\n\r\n"),
	talk("protocol: chunked body", "POST "+generate+" HTTP/1.1\r\nHost: triton\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"10\r\n{\"text_input\":\"a\r\n"+"11\r\n\",\"max_tokens\":1}\r\n"+"0\r\n\r\n"),
	talk("protocol: body in the answer to GET", "GET /v2/health/live HTTP/1.1\r\nHost: triton\r\nContent-Length: 2\r\n\r\n{}"),
	talk("protocol: absolute target", "GET http://triton/v2/health/live HTTP/1.1\r\nHost: triton\r\n\r\n"),
	{"protocol: Expect: 100-continue", func(t *testing.T, tg target) string {
		body := `{"text_input":"a","max_tokens":1}`
		w := dial(t, tg.http)
		head, _, _ := strings.Cut(post(generate, body, "Expect: 100-continue"), "\r\n\r\n")
		w.send(head + "\r\n\r\n")
		if _, _, err := w.head(); err != nil {
			w.ended(err)
			return w.said.String()
		}
		w.send(body)
		w.answer("POST")
		w.alive()
		return w.said.String()
	}},
	{"protocol: body of more than 64 MiB", func(t *testing.T, tg target) string {
		w := dial(t, tg.http)
		w.request(post(generate, `{"text_input":"`+strings.Repeat("a", 64<<20)))
		return w.said.String()
	}},
	{"protocol: malformed request line", func(t *testing.T, tg target) string {
		return overClosed(t, tg, "nonsense\r\n\r\n")
	}},
	{"protocol: unknown method", func(t *testing.T, tg target) string {
		return overClosed(t, tg, "BREW /v2 HTTP/1.1\r\nHost: triton\r\n\r\n")
	}},
}

// overClosed reads all that a server says until it closes.
func overClosed(t *testing.T, tg target, raw string) string {
	w := dial(t, tg.http)
	w.send(raw)
	if _, fields, err := w.head(); err != nil {
		w.ended(err)
	} else if _, sized := fields["content-length"]; sized || fields["transfer-encoding"] != "" {
		w.ended(w.body(fields))
		w.alive()
	} else {
		w.rest()
	}
	return w.said.String()
}
