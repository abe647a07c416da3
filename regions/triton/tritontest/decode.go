package tritontest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"
)

// maxInput is --http-max-input-size: the largest JSON body, 64 MiB.
const maxInput = 64 << 20

// defaultMaxTokens is what vLLM generates if the request does not say.
const defaultMaxTokens = 16

// apiError is an answer other than 200: Triton's error text and the status that
// its error code maps to.
//
// The codes are INTERNAL 500, NOT_FOUND 404, UNAVAILABLE 503, UNSUPPORTED 501,
// and INVALID_ARG and all others 400.
type apiError struct {
	status int
	text   string
	early  bool // met before the inference: never an event of a stream
}

func (e *apiError) Error() string { return e.text }

func internal(format string, args ...any) *apiError {
	return &apiError{status: http.StatusInternalServerError, text: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, text: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *apiError {
	return &apiError{status: http.StatusNotFound, text: fmt.Sprintf(format, args...)}
}

func unavailable(format string, args ...any) *apiError {
	return &apiError{status: http.StatusServiceUnavailable, text: fmt.Sprintf(format, args...)}
}

func unsupported(text string) *apiError {
	return &apiError{status: http.StatusNotImplemented, text: text}
}

// genRequest is a decoded request for text.
type genRequest struct {
	id           string
	prompt       string
	promptTokens int
	stream       bool
	maxTokens    int
	timeout      time.Duration // in the queue, asked for by infer only; 0 is none
	prepend      bool          // the text begins with the prompt
	finishReason bool          // return_finish_reason
	numInput     bool          // return_num_input_tokens
	numOutput    bool          // return_num_output_tokens
}

// logID is how Triton's core begins the texts of errors about a request.
func (q genRequest) logID() string {
	if q.id == "" {
		return "[request id: <id_unknown>] "
	}
	return "[request id: " + q.id + "] "
}

// fields are what the front end made of a body: input tensors and parameters.
type fields struct {
	id     string
	inputs map[string]json.RawMessage
	params map[string]json.RawMessage
}

// decodeGenerate reads the body of generate and generate_stream as Triton's
// front end maps it: every key at the top or in "parameters" that names an
// input of the model is a tensor, every other one a request parameter.
func decodeGenerate(body []byte, m Model) (genRequest, *apiError) {
	if len(body) > maxInput {
		return genRequest{}, tooLarge(len(body))
	}
	if err := checkJSON(body); err != nil {
		return genRequest{}, err
	}
	all, err := members(body)
	if err != nil {
		return genRequest{}, err
	}
	f := fields{inputs: make(map[string]json.RawMessage), params: make(map[string]json.RawMessage)}
	for _, kv := range all {
		if kv.name != "id" {
			continue
		}
		if f.id = asString(kv.raw); kv.raw[0] != '"' {
			return genRequest{}, internal("Unable to parse 'id': attempt to access JSON non-string as string")
		}
	}
	if err := f.add(all, m, true); err != nil {
		return genRequest{}, err
	}
	return fill(f, m)
}

// member is one key of an object, in the order of the text.
type member struct {
	name string
	raw  json.RawMessage
}

func tooLarge(size int) *apiError {
	return invalid("request JSON size of %d bytes exceeds the maximum allowed input size of %d bytes. "+
		"Use --http-max-input-size to increase the limit.", size, maxInput)
}

// checkJSON refuses what is not one JSON value, in rapidjson's words.
func checkJSON(body []byte) *apiError {
	err := json.Unmarshal(body, new(json.RawMessage))
	if err == nil {
		return nil
	}
	var syntax *json.SyntaxError
	if len(bytes.TrimLeft(body, " \t\r\n")) == 0 || !errors.As(err, &syntax) {
		return syntaxError("The document is empty.", int64(len(body)))
	}
	at := max(syntax.Offset-1, 0)
	if strings.Contains(syntax.Error(), "after top-level value") {
		return syntaxError("The document root must not be followed by other values.", at)
	}
	return syntaxError("Invalid value.", at)
}

// members lists the keys of valid JSON that is an object.
func members(valid []byte) ([]member, *apiError) {
	dec := json.NewDecoder(bytes.NewReader(valid))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, internal("attempt to get members for non-object")
	}
	var out []member
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, syntaxError("Invalid value.", dec.InputOffset())
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, syntaxError("Invalid value.", dec.InputOffset())
		}
		name, _ := key.(string) // JSON has no other keys
		out = append(out, member{name, raw})
	}
	return out, nil
}

// syntaxError has code INTERNAL: Triton answers malformed JSON with 500.
func syntaxError(what string, at int64) *apiError {
	return internal("failed to parse the request JSON buffer: %s at %d", what, at)
}

// add sorts the members into inputs and parameters.
func (f *fields) add(all []member, m Model, top bool) *apiError {
	for _, kv := range all {
		in, isInput := inputOf(m, kv.name)
		switch {
		case top && kv.name == "parameters":
			nested, err := members(kv.raw)
			if err != nil {
				return internal("Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object")
			}
			if err := f.add(nested, m, false); err != nil {
				return &apiError{status: err.status, text: "Converting keyword: 'parameters': " + err.text}
			}
		case isInput:
			if _, twice := f.inputs[kv.name]; twice {
				return invalid("%sinput '%s' already exists in request", genRequest{id: f.id}.logID(), kv.name)
			}
			value, err := scalar(kv, in)
			if err != nil {
				return err
			}
			f.inputs[kv.name] = value
		default:
			if len(kv.raw) == 0 || strings.ContainsRune("{[n", rune(kv.raw[0])) {
				return invalid("parameter '%s' has invalid type. It should be either 'int', 'bool', or 'string'.", kv.name)
			}
			f.params[kv.name] = kv.raw
		}
	}
	return nil
}

// scalar checks the value of an input: of its type, alone or in arrays of one.
func scalar(kv member, in tensor) (json.RawMessage, *apiError) {
	raw := kv.raw
	for raw[0] == '[' {
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) != nil || len(list) != 1 {
			return nil, invalid("The schema can not convert input '%s' to tensor with proper shape", kv.name)
		}
		raw = list[0]
	}
	wrong := func(want string) (json.RawMessage, *apiError) {
		return nil, internal("attempt to access JSON non-%s as %s", want, want)
	}
	switch in.datatype {
	case "BYTES":
		if raw[0] != '"' {
			return nil, internal("Unable to parse JSON bytes array: attempt to access JSON non-string as string")
		}
	case "BOOL":
		if raw[0] != 't' && raw[0] != 'f' {
			return wrong("boolean")
		}
	case "INT32":
		if _, err := strconv.ParseInt(string(raw), 10, 32); err != nil {
			return wrong("signed-integer")
		}
	default:
		if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
			return nil, internal("attempt to access JSON non-number as double")
		}
	}
	return raw, nil
}

// fill reads what the backends understand.
func fill(f fields, m Model) (genRequest, *apiError) {
	q := genRequest{id: f.id, maxTokens: defaultMaxTokens}
	if err := checkRequired(f, m); err != nil {
		return q, err
	}
	q.prompt = asString(f.inputs["text_input"])
	q.promptTokens = countTokens(q.prompt)
	q.stream = asBool(f.inputs["stream"])
	exclude, given := f.inputs["exclude_input_in_output"]
	q.prepend = !asBool(exclude) && (given || !q.stream)
	q.finishReason = asBool(f.inputs["return_finish_reason"])
	q.numInput = asBool(f.inputs["return_num_input_tokens"])
	q.numOutput = asBool(f.inputs["return_num_output_tokens"])
	limit := f.params["max_tokens"]
	if raw, ok := f.inputs["max_tokens"]; ok {
		limit = raw
	}
	if raw, ok := f.inputs["sampling_parameters"]; ok {
		var sampling map[string]json.RawMessage
		if json.Unmarshal([]byte(asString(raw)), &sampling) == nil {
			limit = sampling["max_tokens"]
		}
	}
	if n, err := strconv.ParseFloat(strings.Trim(string(limit), `"`), 64); err == nil && !math.IsNaN(n) {
		q.maxTokens = int(min(max(n, 0), 1<<30))
	}
	return q, nil
}

// decodeInfer reads the JSON body of infer.
func decodeInfer(body []byte, m Model) (genRequest, *apiError) {
	if len(body) > maxInput {
		return genRequest{}, tooLarge(len(body))
	}
	if err := checkJSON(body); err != nil {
		return genRequest{}, err
	}
	var doc struct {
		ID     string `json:"id"`
		Inputs []struct {
			Name string          `json:"name"`
			Data json.RawMessage `json:"data"`
		} `json:"inputs"`
		Parameters map[string]json.RawMessage `json:"parameters"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return genRequest{}, internal("Unable to parse the request JSON: %v", err)
	}
	f := fields{id: doc.ID, inputs: make(map[string]json.RawMessage), params: doc.Parameters}
	for _, in := range doc.Inputs {
		t, ok := inputOf(m, in.Name)
		if !ok {
			return genRequest{}, invalid("%sunexpected inference input '%s' for model '%s'", genRequest{id: f.id}.logID(), in.Name, m.Name)
		}
		if len(in.Data) == 0 {
			return genRequest{}, internal("Unable to parse 'data': attempt to access non-existing object member 'data'")
		}
		value, err := scalar(member{in.Name, in.Data}, t)
		if err != nil {
			return genRequest{}, err
		}
		f.inputs[in.Name] = value
	}
	q, err := fill(f, m)
	if us, parseErr := strconv.ParseInt(string(f.params["timeout"]), 10, 64); parseErr == nil && us > 0 {
		q.timeout = time.Duration(min(us, time.Hour.Microseconds())) * time.Microsecond
	}
	q.stream = false // a coupled model answers once
	return q, err
}

// checkRequired is the core's check of the inputs, with its text.
func checkRequired(f fields, m Model) *apiError {
	var missing []string
	required, inputs := 0, inputsOf(m)
	for _, in := range inputs {
		if in.optional {
			continue
		}
		required++
		if _, ok := f.inputs[in.name]; !ok {
			missing = append(missing, "'"+in.name+"'")
		}
	}
	if missing == nil {
		return nil
	}
	var got []string
	for name := range f.inputs {
		got = append(got, "'"+name+"'")
	}
	sort.Strings(got)
	return invalid("%sexpected number of inputs between %d and %d but got %d inputs for model '%s'. Got input(s) [%s], "+
		"but missing required input(s) [%s]. Please provide all required input(s).", genRequest{id: f.id}.logID(),
		required, len(inputs), len(got), m.Name, strings.Join(got, ","), strings.Join(missing, ","))
}

func asString(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s) // checked by scalar; absent is empty
	return s
}

func asBool(raw json.RawMessage) bool { return string(raw) == "true" }
