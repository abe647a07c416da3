package tritontest

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// maxInput is --http-max-input-size: the largest JSON body, 64 MiB.
const maxInput = 64 << 20

// fields are what the frontend made of a body.
type fields struct{ core.Fields }

func newFields() fields {
	return fields{core.Fields{Inputs: make(map[string]json.RawMessage), Params: make(map[string]json.RawMessage)}}
}

// decodeGenerate reads the body of generate and generate_stream as Triton's
// front end maps it: every key at the top or in "parameters" that names an
// input of the model is a tensor, every other one a request parameter.
func decodeGenerate(body []byte, m Model) (core.Request, *core.Error) {
	if len(body) > maxInput {
		return core.Request{}, tooLarge(len(body))
	}
	if err := checkJSON(body); err != nil {
		return core.Request{}, err
	}
	all, err := members(body)
	if err != nil {
		return core.Request{}, err
	}
	f := newFields()
	for _, kv := range all {
		if kv.name != "id" {
			continue
		}
		if f.ID = asString(kv.raw); kv.raw[0] != '"' {
			return core.Request{}, core.Internal("Unable to parse 'id': attempt to access JSON non-string as string")
		}
	}
	if err := f.add(all, m, true); err != nil {
		return core.Request{}, err
	}
	return core.Fill(f.Fields, m)
}

// member is one key of an object, in the order of the text.
type member struct {
	name string
	raw  json.RawMessage
}

func tooLarge(size int) *core.Error {
	return core.Invalid("request JSON size of %d bytes exceeds the maximum allowed input size of %d bytes. "+
		"Use --http-max-input-size to increase the limit.", size, maxInput)
}

// checkJSON refuses what is not one JSON value, in rapidjson's words.
func checkJSON(body []byte) *core.Error {
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
func members(valid []byte) ([]member, *core.Error) {
	dec := json.NewDecoder(bytes.NewReader(valid))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, core.Internal("attempt to get members for non-object")
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
func syntaxError(what string, at int64) *core.Error {
	return core.Internal("failed to parse the request JSON buffer: %s at %d", what, at)
}

// add sorts the members into inputs and parameters.
func (f *fields) add(all []member, m Model, top bool) *core.Error {
	for _, kv := range all {
		in, isInput := m.Input(kv.name)
		switch {
		case top && kv.name == "parameters":
			nested, err := members(kv.raw)
			if err != nil {
				return core.Internal("Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object")
			}
			if err := f.add(nested, m, false); err != nil {
				return &core.Error{Status: err.Status, Text: "Converting keyword: 'parameters': " + err.Text}
			}
		case isInput:
			if _, twice := f.Inputs[kv.name]; twice {
				return core.Invalid("%sinput '%s' already exists in request", core.Request{ID: f.ID}.LogID(), kv.name)
			}
			value, err := scalar(kv, in)
			if err != nil {
				return err
			}
			f.Inputs[kv.name] = value
		default:
			if len(kv.raw) == 0 || strings.ContainsRune("{[n", rune(kv.raw[0])) {
				return core.Invalid("parameter '%s' has invalid type. It should be either 'int', 'bool', or 'string'.", kv.name)
			}
			if _, twice := f.Params[kv.name]; !twice {
				f.Params[kv.name] = kv.raw // the first counts
			}
		}
	}
	return nil
}

// scalar checks the value of an input: of its type, alone or in arrays of one.
func scalar(kv member, in core.Tensor) (json.RawMessage, *core.Error) {
	raw := kv.raw
	for raw[0] == '[' {
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) != nil || len(list) != 1 {
			return nil, core.Invalid("The schema can not convert input '%s' to tensor with proper shape", kv.name)
		}
		raw = list[0]
	}
	wrong := func(want string) (json.RawMessage, *core.Error) {
		return nil, core.Internal("Unable to parse 'data': attempt to access JSON non-%s as %s", want, want)
	}
	switch in.Datatype {
	case "BYTES":
		if raw[0] != '"' {
			return nil, core.Internal("Unable to parse JSON bytes array: attempt to access JSON non-string as string")
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
			return nil, core.Internal("Unable to parse 'data': attempt to access JSON non-number as double")
		}
	}
	return raw, nil
}

func asString(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s) // checked by scalar; absent is empty
	return s
}

func asBool(raw json.RawMessage) bool { return string(raw) == "true" }
