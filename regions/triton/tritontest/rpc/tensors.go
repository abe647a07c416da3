package rpc

import (
	"encoding/json"
	"fmt"
	"strconv"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// decode reads a request for the model: tensors of one element, in contents or
// raw.
func decode(r *pb.ModelInferRequest, m core.Model) (core.Request, *core.Error) {
	f := core.Fields{ID: r.Id, Inputs: make(map[string]json.RawMessage), Params: make(map[string]json.RawMessage)}
	raw := r.RawInputContents
	for _, in := range r.Inputs {
		t, _ := m.Input(in.Name) // Fill refuses what the model has not
		tensor := core.Input{Name: in.Name, Datatype: in.Datatype, Shape: in.Shape, Elements: 1}
		var err *core.Error
		switch {
		case in.Contents != nil && len(r.RawInputContents) > 0:
			err = core.Invalid("contents field must not be specified when using raw_input_contents for '%s' for model '%s'", in.Name, m.Name)
		case in.Contents == nil && len(raw) == 0:
			err = core.Invalid("unable to find data for input tensor '%s' for model '%s' in request.", in.Name, m.Name)
		case in.Contents != nil && t.Datatype == in.Datatype:
			tensor.Value, err = fromContents(in.Contents, t)
		case in.Contents == nil:
			tensor.Raw, raw = append([]byte{}, raw[0]...), raw[1:]
		}
		if err == nil {
			err = f.AddInput(tensor)
		}
		if err != nil {
			return core.Request{}, err
		}
	}
	for _, o := range r.Outputs {
		f.Outputs = append(f.Outputs, o.Name)
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

// fromContents reads the one element of a tensor.
func fromContents(c *pb.InferTensorContents, t core.Tensor) (json.RawMessage, *core.Error) {
	switch {
	case t.Datatype == "BYTES" && len(c.BytesContents) == 1:
		return core.Text(c.BytesContents[0])
	case t.Datatype == "BOOL" && len(c.BoolContents) == 1:
		return strconv.AppendBool(nil, c.BoolContents[0]), nil
	case t.Datatype == "INT32" && len(c.IntContents) == 1:
		return strconv.AppendInt(nil, int64(c.IntContents[0]), 10), nil
	case t.Datatype == "FP32" && len(c.Fp32Contents) == 1:
		return strconv.AppendFloat(nil, float64(c.Fp32Contents[0]), 'g', -1, 32), nil
	}
	return nil, core.Invalid("unexpected explicit tensor data for input tensor '%s': want one element of %s", t.Name, t.Datatype)
}

// encode is one response.
func encode(m core.Model, q core.Request, s core.Step) *pb.ModelInferResponse {
	out := &pb.ModelInferResponse{ModelName: m.Name, ModelVersion: strconv.Itoa(m.Version), Id: q.ID}
	for _, o := range q.Shown(m, s) {
		out.Outputs = append(out.Outputs, &pb.ModelInferResponse_InferOutputTensor{Name: o.Name, Datatype: o.Datatype, Shape: []int64{int64(o.Shape)}})
		out.RawOutputContents = append(out.RawOutputContents, core.BinaryOutput(o))
	}
	if m.Flavour == core.TRTLLM {
		no := &pb.InferParameter{ParameterChoice: &pb.InferParameter_BoolParam{}}
		out.Parameters = map[string]*pb.InferParameter{
			"sequence_id":    {ParameterChoice: &pb.InferParameter_Int64Param{}},
			"sequence_start": no, "sequence_end": no,
		}
	}
	return out
}
