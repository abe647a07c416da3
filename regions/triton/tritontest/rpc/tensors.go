package rpc

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// decode reads a request for the model: tensors of one element, in contents or
// raw.
func decode(r *pb.ModelInferRequest, m core.Model) (core.Request, *core.Error) {
	f := core.Fields{ID: r.Id, Inputs: make(map[string]json.RawMessage), Params: make(map[string]json.RawMessage)}
	raw := r.RawInputContents
	for _, in := range r.Inputs {
		t, ok := m.Input(in.Name)
		logID := core.Request{ID: r.Id}.LogID()
		_, twice := f.Inputs[in.Name]
		var value json.RawMessage
		var err *core.Error
		switch {
		case !ok:
			return core.Request{}, core.Invalid("%sunexpected inference input '%s' for model '%s'", logID, in.Name, m.Name)
		case twice:
			return core.Request{}, core.Invalid("%sinput '%s' already exists in request", logID, in.Name)
		case in.Datatype != t.Datatype:
			return core.Request{}, core.Invalid("%sinference input '%s' data-type is '%s', but model '%s' expects '%s'",
				logID, in.Name, in.Datatype, m.Name, t.Datatype)
		case in.Contents != nil && len(r.RawInputContents) > 0:
			return core.Request{}, core.Invalid("contents field must not be specified when using raw_input_contents for '%s' for model '%s'", in.Name, m.Name)
		case in.Contents != nil:
			value, err = fromContents(in.Contents, t)
		case len(raw) > 0:
			value, err = fromRaw(raw[0], t)
			raw = raw[1:]
		default:
			err = size(t, 0)
		}
		if err != nil {
			return core.Request{}, err
		}
		f.Inputs[in.Name] = value
	}
	for name, p := range r.Parameters {
		f.Params[name] = parameter(p)
	}
	q, err := core.Fill(f, m)
	q.Timeout = core.QueueTimeout(r.Parameters["timeout"].GetInt64Param())
	if m.Coupled {
		q.Stream = false // it answers once
	}
	return q, err
}

// parameter is the value of a parameter as JSON.
func parameter(p *pb.InferParameter) json.RawMessage {
	switch v := p.GetParameterChoice().(type) {
	case *pb.InferParameter_BoolParam:
		return fmt.Appendf(nil, "%t", v.BoolParam)
	case *pb.InferParameter_Int64Param:
		return fmt.Appendf(nil, "%d", v.Int64Param)
	case *pb.InferParameter_Uint64Param:
		return fmt.Appendf(nil, "%d", v.Uint64Param)
	case *pb.InferParameter_DoubleParam:
		return fmt.Appendf(nil, "%v", v.DoubleParam)
	case *pb.InferParameter_StringParam:
		return quoted(v.StringParam)
	}
	return nil
}

func quoted(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		return nil // never: every string has a JSON
	}
	return b
}

// bytesValue is text, which backends read as UTF-8.
func bytesValue(b []byte) (json.RawMessage, *core.Error) {
	if !utf8.Valid(b) {
		return nil, core.Internal("Error generating stream: 'utf-8' codec can't decode the input: invalid start byte")
	}
	return quoted(string(b)), nil
}

func size(t core.Tensor, got int) *core.Error {
	return core.Invalid("input tensor '%s' must have exactly one element, got %d bytes of another size", t.Name, got)
}

// fromContents reads the one element of a tensor.
func fromContents(c *pb.InferTensorContents, t core.Tensor) (json.RawMessage, *core.Error) {
	switch {
	case t.Datatype == "BYTES" && len(c.BytesContents) == 1:
		return bytesValue(c.BytesContents[0])
	case t.Datatype == "BOOL" && len(c.BoolContents) == 1:
		return strconv.AppendBool(nil, c.BoolContents[0]), nil
	case t.Datatype == "INT32" && len(c.IntContents) == 1:
		return strconv.AppendInt(nil, int64(c.IntContents[0]), 10), nil
	case t.Datatype == "FP32" && len(c.Fp32Contents) == 1:
		return strconv.AppendFloat(nil, float64(c.Fp32Contents[0]), 'g', -1, 32), nil
	}
	return nil, core.Invalid("unexpected explicit tensor data for input tensor '%s': want one element of %s", t.Name, t.Datatype)
}

// fromRaw reads the one element of a tensor in its binary form.
func fromRaw(b []byte, t core.Tensor) (json.RawMessage, *core.Error) {
	switch t.Datatype {
	case "BYTES":
		if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) != uint64(len(b)-4) {
			return nil, size(t, len(b))
		}
		return bytesValue(b[4:])
	case "BOOL":
		if len(b) == 1 {
			return strconv.AppendBool(nil, b[0] != 0), nil
		}
	case "INT32":
		if len(b) == 4 {
			return strconv.AppendInt(nil, int64(int32(binary.LittleEndian.Uint32(b))), 10), nil
		}
	case "FP32":
		if len(b) == 4 {
			return strconv.AppendFloat(nil, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), 'g', -1, 32), nil
		}
	}
	return nil, size(t, len(b))
}

// encode is one response.
func encode(m core.Model, q core.Request, s core.Step) *pb.ModelInferResponse {
	out := &pb.ModelInferResponse{ModelName: m.Name, ModelVersion: strconv.Itoa(m.Version), Id: q.ID}
	add := func(name, datatype string, shape int, raw []byte) {
		out.Outputs = append(out.Outputs, &pb.ModelInferResponse_InferOutputTensor{Name: name, Datatype: datatype, Shape: []int64{int64(shape)}})
		out.RawOutputContents = append(out.RawOutputContents, raw)
	}
	text := func(s string) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(s))), s...)
	}
	add("text_output", "BYTES", 1, text(q.Text(s)))
	if m.Flavour == core.TRTLLM {
		add("cum_log_probs", "FP32", 1, make([]byte, 4))
		add("output_log_probs", "FP32", s.Tokens, make([]byte, 4*s.Tokens))
	}
	if q.FinishReason {
		add("finish_reason", "BYTES", 1, text(s.Finish))
	}
	if q.NumInput {
		add("num_input_tokens", "UINT32", 1, binary.LittleEndian.AppendUint32(nil, uint32(q.PromptTokens)))
	}
	if q.NumOutput {
		add("num_output_tokens", "UINT32", 1, binary.LittleEndian.AppendUint32(nil, uint32(s.Tokens)))
	}
	return out
}
