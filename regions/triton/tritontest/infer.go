package tritontest

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/socket"
)

// headerLength names the field that says where the JSON of a body ends and the
// binary tensors begin, in requests and in answers.
const headerLength = "Inference-Header-Content-Length"

// serveInfer serves coupled models; decoupled ones are refused.
func (p *process) serveInfer(w http.ResponseWriter, r *http.Request, name, version string) {
	if !allowed(w, r, plainType, http.MethodPost) {
		return
	}
	eng, err := p.core.Lookup(name, version)
	if err == nil && !eng.Model().Coupled {
		err = core.Unsupported("HTTP end point doesn't support models with decoupled transaction policy")
	}
	if err != nil {
		replyError(w, plainType, err)
		return
	}
	body, readErr := readBody(r)
	if readErr != nil {
		panic(http.ErrAbortHandler)
	}
	body, err = inflate(body, r.Header.Get("Content-Encoding"))
	if err != nil {
		w.Header().Set("Accept-Encoding", "gzip, deflate")
		replyError(w, plainType, err)
		return
	}
	d := inferDecoder{model: eng.Model()}
	q, err := d.decode(body, r.Header.Get(headerLength))
	if err != nil {
		contentType := jsonType
		if d.untyped || err.Late {
			contentType = plainType
		}
		replyError(w, contentType, err)
		return
	}
	a := &inferAnswer{w: w, binary: d.binary, allBinary: d.allBinary, encoding: answerEncoding(r.Header.Get("Accept-Encoding"))}
	p.run(lifeOf(r.Context()), socket.Of(r.Context()), eng, q, a)
}

// inflate decodes a body; it reads at most a byte more than is accepted.
func inflate(body []byte, encoding string) ([]byte, *core.Error) {
	var source io.Reader
	var err error
	switch encoding {
	case "", "identity":
		return body, nil
	case "gzip":
		source, err = gzip.NewReader(bytes.NewReader(body))
	case "deflate":
		source, err = zlib.NewReader(bytes.NewReader(body))
	default:
		return nil, core.Unsupported("Unsupported compression type")
	}
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(source, maxInput+1))
	}
	if err != nil {
		return nil, core.Internal("Failed to decompress the request: %v", err)
	}
	return body, nil
}

// answerEncoding is the compression of an answer that a client takes.
func answerEncoding(accepts string) string {
	for _, one := range strings.Split(accepts, ",") {
		if one = strings.TrimSpace(one); one == "gzip" || one == "deflate" {
			return one
		}
	}
	return ""
}

// inferDecoder reads the body of infer: JSON, then the binary tensors.
type inferDecoder struct {
	model     Model
	rest      []byte          // binary tensors not yet read
	binary    map[string]bool // outputs that are wanted in binary form, or not
	allBinary bool            // the others
	untyped   bool            // what failed is before the answer gets its type
}

func (d *inferDecoder) decode(body []byte, header string) (core.Request, *core.Error) {
	if len(body) > maxInput {
		return core.Request{}, tooLarge(len(body))
	}
	size := len(body)
	if header != "" {
		n, err := strconv.Atoi(header)
		d.untyped = err != nil || n < 0 || n > len(body)
		switch {
		case err != nil:
			return core.Request{}, core.Invalid("Unable to parse %s, got: %s", headerLength, header)
		case d.untyped:
			return core.Request{}, core.Invalid("inference header size should be in range (0, %d), got: %s", len(body), header)
		}
		size = n
	}
	if size == 0 {
		return core.Request{}, core.Invalid("%sRaw request must only have 1 input (found 1) to be deduced but got %d inputs in '%s' model configuration",
			core.Request{}.LogID(), len(d.model.Inputs()), d.model.Name)
	}
	d.rest = body[size:]
	if err := checkJSON(body[:size]); err != nil {
		return core.Request{}, err
	}
	doc := object(body[:size])
	f, err := d.fields(doc)
	if err != nil {
		return core.Request{}, err
	}
	q, err := core.Fill(f.Fields, d.model)
	if us, parseErr := strconv.ParseInt(string(f.Params["timeout"]), 10, 64); parseErr == nil {
		q.Timeout = core.QueueTimeout(us)
	}
	q.Stream = false // a coupled model answers once
	return q, err
}

func (d *inferDecoder) fields(doc map[string]json.RawMessage) (fields, *core.Error) {
	f := newFields()
	if raw, ok := doc["id"]; ok {
		if f.ID = asString(raw); raw[0] != '"' {
			return f, core.Internal("Unable to parse 'id': attempt to access JSON non-string as string")
		}
	}
	if err := d.params(&f, doc["parameters"]); err != nil {
		return f, err
	}
	inputs, err := list(doc, "inputs")
	if err != nil {
		return f, err
	}
	for _, raw := range inputs {
		in, err := d.input(raw)
		if err == nil {
			err = f.AddInput(in)
		}
		if err != nil {
			return f, err
		}
	}
	if _, ok := doc["outputs"]; !ok {
		return f, nil
	}
	outputs, err := list(doc, "outputs")
	if err != nil {
		return f, err
	}
	d.binary = make(map[string]bool)
	for _, raw := range outputs {
		o := object(raw)
		if err := want(o, "name", '"', "string"); err != nil {
			return f, err
		}
		params := object(o["parameters"])
		name := asString(o["name"])
		f.Outputs = append(f.Outputs, name)
		d.binary[name] = asBool(params["binary_data"])
	}
	return f, nil
}

// params reads the parameters of the request.
func (d *inferDecoder) params(f *fields, raw json.RawMessage) *core.Error {
	if raw == nil {
		return nil
	}
	all, err := members(raw)
	if err != nil {
		return core.Internal("failed to get request params.: %s", err.Text)
	}
	for _, kv := range all {
		switch {
		case kv.name == "binary_data_output":
			d.allBinary = asBool(kv.raw)
		case strings.ContainsRune("{[n", rune(kv.raw[0])):
			return core.Invalid("parameter '%s' has invalid type. It should be either 'int', 'bool', or 'string'.", kv.name)
		default:
			f.Params[kv.name] = kv.raw
		}
	}
	return nil
}

// object reads an object; anything else has no members.
func object(raw json.RawMessage) (out map[string]json.RawMessage) {
	_ = json.Unmarshal(raw, &out)
	return out
}

// list reads a member that must be an array.
func list(doc map[string]json.RawMessage, name string) ([]json.RawMessage, *core.Error) {
	if err := want(doc, name, '[', "array"); err != nil {
		return nil, err
	}
	var out []json.RawMessage
	_ = json.Unmarshal(doc[name], &out) // it is an array
	return out, nil
}

// want checks that an object has a member, by the first byte of its value.
func want(doc map[string]json.RawMessage, name string, first byte, kind string) *core.Error {
	raw, ok := doc[name]
	switch {
	case !ok:
		return core.Internal("Unable to parse '%s': attempt to access non-existing object member '%s'", name, name)
	case raw[0] != first:
		return core.Internal("Unable to parse '%s': attempt to access JSON non-%s as %s", name, kind, kind)
	}
	return nil
}

// input reads one input tensor.
func (d *inferDecoder) input(raw json.RawMessage) (core.Input, *core.Error) {
	doc := object(raw)
	params := object(doc["parameters"])
	size, isBinary := params["binary_data_size"]
	_, hasData := doc["data"]
	if hasData == isBinary {
		return core.Input{}, core.Invalid("Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "+
			"'shared_memory_region' in 'parameters'. But %s", map[bool]string{false: "no field is set", true: "got more than one"}[hasData])
	}
	for _, m := range []struct {
		name, kind string
		first      byte
	}{{"name", "string", '"'}, {"datatype", "string", '"'}, {"shape", "array", '['}} {
		if err := want(doc, m.name, m.first, m.kind); err != nil {
			return core.Input{}, err
		}
	}
	in := core.Input{Name: asString(doc["name"]), Datatype: asString(doc["datatype"])}
	if json.Unmarshal(doc["shape"], &in.Shape) != nil {
		return core.Input{}, core.Internal("Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer")
	}
	if !datatypes[in.Datatype] {
		return core.Input{}, core.Invalid("invalid datatype for input %s", in.Name)
	}
	if isBinary {
		return d.binaryData(in, size)
	}
	return jsonData(in, doc)
}

// datatypes are those of the protocol, as far as the simulated models have them.
var datatypes = map[string]bool{"BOOL": true, "INT32": true, "FP32": true, "BYTES": true}

// jsonData reads the elements of an input from its JSON.
func jsonData(in core.Input, doc map[string]json.RawMessage) (core.Input, *core.Error) {
	data, err := list(doc, "data")
	if err != nil {
		return in, err
	}
	for len(data) == 1 && data[0][0] == '[' { // nested as the shape is, or not
		_ = json.Unmarshal(data[0], &data)
	}
	in.Elements = len(data)
	for _, one := range data {
		if in.Value, err = scalar(member{in.Name, one}, core.Tensor{Datatype: in.Datatype}); err != nil {
			return in, err
		}
	}
	return in, nil
}

// binaryData reads the elements of an input from behind the JSON.
func (d *inferDecoder) binaryData(in core.Input, raw json.RawMessage) (core.Input, *core.Error) {
	size, err := strconv.Atoi(string(raw))
	if err != nil || size < 0 {
		return in, core.Internal("Unable to parse 'binary_data_size': attempt to access JSON non-unsigned-integer as unsigned-integer")
	}
	if size > len(d.rest) {
		return in, core.Invalid("unexpected size for input '%s', expecting %d additional bytes for model '%s'", in.Name, size-len(d.rest), d.model.Name)
	}
	in.Raw, d.rest = d.rest[:size], d.rest[size:]
	return in, nil
}

// inferAnswer is the one response of infer.
type inferAnswer struct {
	w         http.ResponseWriter
	binary    map[string]bool // of the outputs that were asked for
	allBinary bool            // if none was
	encoding  string
	body      []byte
	json      int // how much of it is JSON, if there is more
}

func (a *inferAnswer) Events() bool { return false }

// Send writes the outputs as an ensemble's: the last first, and parameters of its
// sequence once for each.
func (a *inferAnswer) Send(m Model, q core.Request, s core.Step) error {
	b := []byte{'{'}
	if q.ID != "" {
		b = append(appendJSON(append(b, `"id":`...), q.ID), ',')
	}
	b = appendJSON(append(b, `"model_name":`...), m.Name)
	shown := q.Shown(m, s)
	sequence := strings.Repeat(`"sequence_id":0,"sequence_start":false,"sequence_end":false,`, len(shown))
	b = fmt.Appendf(b, `,"model_version":"%d","parameters":{%s},"outputs":[`, m.Version, strings.TrimSuffix(sequence, ","))
	var tail []byte
	for i := len(shown) - 1; i >= 0; i-- {
		o := shown[i]
		b = fmt.Appendf(b, `{"name":"%s","datatype":"%s","shape":[%d],`, o.Name, o.Datatype, o.Shape)
		if a.binary[o.Name] || a.binary == nil && a.allBinary {
			data := core.BinaryOutput(o)
			tail = append(tail, data...)
			b = fmt.Appendf(b, `"parameters":{"binary_data_size":%d}},`, len(data))
			continue
		}
		b = append(append(append(b, `"data":[`...), elements(o)...), "]},"...)
	}
	a.body = append(bytes.TrimSuffix(b, []byte{','}), "]}"...)
	if tail != nil {
		a.json = len(a.body)
		a.body = append(a.body, tail...)
	}
	return nil
}

// elements are those of an output as JSON.
func elements(o core.Output) []byte {
	switch o.Datatype {
	case "BYTES":
		return appendJSON(nil, o.Text)
	case "UINT32":
		return strconv.AppendUint(nil, uint64(o.Count), 10)
	}
	return []byte(strings.TrimSuffix(strings.Repeat("0.0,", o.Shape), ","))
}

// Finish sends the answer. What failed in the backend has the type of an answer
// without one.
func (a *inferAnswer) Finish(err *core.Error) End {
	if err != nil {
		contentType := plainType
		if err.Early {
			contentType = jsonType
		}
		replyError(a.w, contentType, err)
		return Failed
	}
	contentType := jsonType
	if a.json > 0 {
		contentType = "application/octet-stream"
		a.w.Header().Set(headerLength, strconv.Itoa(a.json))
	}
	reply(a.w, http.StatusOK, contentType, string(a.deflated()))
	return Completed
}

func (a *inferAnswer) deflated() []byte {
	if a.encoding == "" {
		return a.body
	}
	a.w.Header().Set("Content-Encoding", a.encoding)
	var out bytes.Buffer
	var z io.WriteCloser = gzip.NewWriter(&out)
	if a.encoding == "deflate" {
		z = zlib.NewWriter(&out)
	}
	_, _ = z.Write(a.body) // a buffer takes all
	_ = z.Close()
	return out.Bytes()
}
