package resume

import (
	"bytes"
	"strconv"
	"time"

	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// Parameters of Triton's gRPC protocol: the mark of a request's last response, and
// the wish for one even if it has nothing else.
const (
	finalMark = "triton_final_response"
	finalWish = "triton_enable_empty_final_response"
)

// Inference is a Session of gRPC's ModelStreamInfer: one request on a stream, told
// from others by its id. Text goes by tensors of type BYTES. It is resumed by the
// same rules, as if it came as the JSON that generate_stream would map to the same
// inputs and parameters. Messages that it is given are not changed.
type Inference struct {
	session *Session
	in      *inferencepb.ModelInferRequest
	wished  bool // the client wants the last response marked
	frame   *inferencepb.ModelInferResponse
	final   bool // the pod's last response was seen
	marked  bool // the client has a response with the mark
}

// OpenInference reads the client's request, and keeps it.
func OpenInference(p Profile, l Limits, r *inferencepb.ModelInferRequest) *Inference {
	i := &Inference{in: r, wished: r.GetParameters()[finalWish].GetBoolParam()}
	if p.Name == openai {
		p = Profile{} // has no gRPC
	}
	i.session = open(p, l, false, describe(r))
	return i
}

// describe is the JSON of a request's inputs and parameters, nil for what has no
// such form.
func describe(r *inferencepb.ModelInferRequest) []byte {
	raw := r.GetRawInputContents()
	if len(raw) > 0 && len(raw) != len(r.GetInputs()) || len(r.GetInputs())+len(r.GetParameters()) > 2*maxMembers {
		return nil
	}
	b := append(appendQuoted([]byte(`{"id":`), r.GetId()), `,"parameters":{`...)
	first := true
	for name, p := range r.GetParameters() {
		value, ok := parameterJSON(p)
		if !ok {
			return nil
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(append(appendQuoted(b, name), ':'), value...)
	}
	b = append(b, '}')
	for n := range r.GetInputs() {
		in := r.GetInputs()[n]
		value, ok := input(r, n).json()
		if !ok || len(in.GetParameters()) > 0 || len(raw) > 0 && in.GetContents() != nil {
			return nil
		}
		b = append(append(appendQuoted(append(b, ','), in.GetName()), ':'), value...)
	}
	text := len(r.GetOutputs()) == 0
	for _, out := range r.GetOutputs() {
		text = text || out.GetName() == "text_output"
		if len(out.GetParameters()) > 0 {
			return nil
		}
	}
	if !text {
		return nil
	}
	return append(b, '}')
}

func parameterJSON(p *inferencepb.InferParameter) ([]byte, bool) {
	switch v := p.GetParameterChoice().(type) {
	case *inferencepb.InferParameter_BoolParam:
		return strconv.AppendBool(nil, v.BoolParam), true
	case *inferencepb.InferParameter_Int64Param:
		return strconv.AppendInt(nil, v.Int64Param, 10), true
	case *inferencepb.InferParameter_Uint64Param:
		return strconv.AppendUint(nil, v.Uint64Param, 10), true
	case *inferencepb.InferParameter_DoubleParam:
		return number(v.DoubleParam), true
	case *inferencepb.InferParameter_StringParam:
		return appendQuoted(nil, v.StringParam), true
	}
	return nil, false
}

// input is a request's tensor.
func input(r *inferencepb.ModelInferRequest, n int) tensor {
	in := r.GetInputs()[n]
	t := tensor{datatype: in.GetDatatype(), shape: in.GetShape(), contents: in.GetContents(), isRaw: len(r.GetRawInputContents()) > 0}
	if t.isRaw {
		t.raw = r.GetRawInputContents()[n]
	}
	return t
}

// Wished tells that the client wants the last response marked.
func (i *Inference) Wished() bool { return i.wished }

// Refusal is as for a Session.
func (i *Inference) Refusal() Reason { return i.session.Refusal() }

// Detail is as for a Session.
func (i *Inference) Detail() string { return i.session.Detail() }

// Counts are as for a Session.
func (i *Inference) Counts() Counts { return i.session.Counts() }

// Stopped is as for a Session.
func (i *Inference) Stopped() bool { return i.session.Stopped() }

// Done tells that the pod has marked its last response: what Finish gives is next.
// A pod's stream of several requests does not end there.
func (i *Inference) Done() bool { return i.final }

// Request is what the first pod is sent: a copy of the client's request that asks for
// what is missing, or itself if nothing is. The mark of the last response is always
// asked for, since nothing else tells the end.
func (i *Inference) Request() *inferencepb.ModelInferRequest {
	if i.session.request.reason != "" {
		if i.wished {
			return i.in
		}
		r := shallow(i.in)
		r.Parameters[finalWish] = parameterOf([]byte("true"))
		return r
	}
	return i.changed(i.session.request.first())
}

// Continue makes the request for the next pod, as for a Session.
func (i *Inference) Continue(now time.Time) (*inferencepb.ModelInferRequest, error) {
	body, err := i.session.Continue(now)
	if err != nil {
		return nil, err
	}
	i.final = false
	return i.changed(body), nil
}

// changed is the client's request with what a body has other than it.
func (i *Inference) changed(body []byte) *inferencepb.ModelInferRequest {
	r := shallow(i.in)
	now, ok := parseObject(body)
	if !ok {
		return r // not one that we made
	}
	was := i.session.request
	for _, m := range now.members {
		value := body[m.at:m.to]
		if m.name == "parameters" || m.name == "id" || bytes.Equal(value, was.top.value(m.name)) {
			continue
		}
		i.setInput(r, m.name, value)
	}
	if params, ok := parseObject(now.value("parameters")); ok {
		for _, m := range params.members {
			if value := params.text[m.at:m.to]; !bytes.Equal(value, was.nested.value(m.name)) {
				r.Parameters[m.name] = parameterOf(value)
			}
		}
	}
	r.Parameters[finalWish] = parameterOf([]byte("true"))
	if len(r.GetOutputs()) > 0 {
		for _, field := range i.session.strip {
			r.Outputs = append(r.Outputs, &inferencepb.ModelInferRequest_InferRequestedOutputTensor{Name: field})
		}
	}
	return r
}

// shallow is a copy whose lists may be changed.
func shallow(r *inferencepb.ModelInferRequest) *inferencepb.ModelInferRequest {
	c := &inferencepb.ModelInferRequest{
		ModelName: r.GetModelName(), ModelVersion: r.GetModelVersion(), Id: r.GetId(),
		Parameters:       make(map[string]*inferencepb.InferParameter, len(r.GetParameters())+1),
		Inputs:           append([]*inferencepb.ModelInferRequest_InferInputTensor(nil), r.GetInputs()...),
		Outputs:          append([]*inferencepb.ModelInferRequest_InferRequestedOutputTensor(nil), r.GetOutputs()...),
		RawInputContents: append([][]byte(nil), r.GetRawInputContents()...),
	}
	for name, p := range r.GetParameters() {
		c.Parameters[name] = p
	}
	c.ProtoReflect().SetUnknown(r.ProtoReflect().GetUnknown())
	return c
}

func parameterOf(value []byte) *inferencepb.InferParameter {
	if text, ok := asString(value); ok {
		return &inferencepb.InferParameter{ParameterChoice: &inferencepb.InferParameter_StringParam{StringParam: text}}
	}
	if n, ok := asCount(value); ok {
		return &inferencepb.InferParameter{ParameterChoice: &inferencepb.InferParameter_Int64Param{Int64Param: int64(n)}}
	}
	return &inferencepb.InferParameter{ParameterChoice: &inferencepb.InferParameter_BoolParam{BoolParam: string(value) == "true"}}
}

// setInput sets an input, or puts it in. What vLLM takes as a parameter of sampling
// goes there.
func (i *Inference) setInput(r *inferencepb.ModelInferRequest, name string, value []byte) {
	prompt := i.in.GetInputs()
	at, shape := -1, []int64{1}
	for n, in := range prompt {
		if in.GetName() == name {
			at = n
		}
		if in.GetName() == i.session.request.dialect.prompt {
			shape = in.GetShape()
		}
	}
	if at < 0 && name == i.session.request.dialect.limit {
		r.Parameters[name] = parameterOf(value)
		return
	}
	t := tensor{datatype: "BOOL", isRaw: len(r.GetRawInputContents()) > 0}
	if at >= 0 {
		t, shape = input(i.in, at), i.in.GetInputs()[at].GetShape()
	}
	t, ok := t.pack(value)
	if !ok {
		return
	}
	in := &inferencepb.ModelInferRequest_InferInputTensor{Name: name, Datatype: t.datatype, Shape: shape, Contents: t.contents}
	switch {
	case at < 0:
		r.Inputs = append(r.Inputs, in)
		if t.isRaw {
			r.RawInputContents = append(r.RawInputContents, t.raw)
		}
	case t.isRaw:
		r.RawInputContents[at] = t.raw
	default:
		r.Inputs[at] = in
	}
}

// Response takes one response of the pod and gives what the client gets for it: the
// same message where nothing has to be changed, nil for none. An error in it is a
// *PodError; out is then the pod's response, nil where the client is to get Terminal.
func (i *Inference) Response(r *inferencepb.ModelStreamInferResponse) (out *inferencepb.ModelStreamInferResponse, err error) {
	if r.GetErrorMessage() != "" {
		return r, NewPodError(r.GetErrorMessage())
	}
	s, in := i.session, r.GetInferResponse()
	mark := in.GetParameters()[finalMark].GetBoolParam()
	i.final = i.final || mark
	if s.request.reason != "" {
		i.marked = i.marked || mark
		if mark && len(in.GetOutputs()) == 0 && !i.wished {
			return nil, nil
		}
		return r, nil
	}
	if s.stopped || mark && len(in.GetOutputs()) == 0 {
		return nil, nil // Finish gives the mark
	}
	data, ok := outputs(in, s.request.dialect)
	if !ok {
		s.lose(ReasonEvent)
		i.marked = i.marked || mark
		return r, nil
	}
	i.marked = i.marked || mark
	s.final = mark
	if i.frame == nil {
		i.frame = in
	}
	event := sse.Append(nil, data)
	told, err := s.Event(event)
	switch {
	case err != nil && told == nil:
		return nil, err
	case err != nil, bytes.Equal(told, event):
		return r, err
	}
	return &inferencepb.ModelStreamInferResponse{InferResponse: i.answer(in, told)}, nil
}

// outputs are the tensors of a response that are understood, as an event's JSON.
func outputs(r *inferencepb.ModelInferResponse, d *dialect) ([]byte, bool) {
	raw := r.GetRawOutputContents()
	if len(raw) > 0 && len(raw) != len(r.GetOutputs()) {
		return nil, false
	}
	b := []byte{'{'}
	for n, out := range r.GetOutputs() {
		switch out.GetName() {
		case d.text, d.finish, d.tokens, d.input:
		default:
			continue
		}
		value, ok := output(r, n).json()
		if !ok {
			return nil, false
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(appendQuoted(b, out.GetName()), ':'), value...)
	}
	return append(b, '}'), true
}

func output(r *inferencepb.ModelInferResponse, n int) tensor {
	out := r.GetOutputs()[n]
	t := tensor{datatype: out.GetDatatype(), shape: out.GetShape(), contents: out.GetContents(), isRaw: len(r.GetRawOutputContents()) > 0}
	if t.isRaw {
		t.raw = r.GetRawOutputContents()[n]
	}
	return t
}

// answer is a response with the values of an event, and without the tensors that
// the event lacks.
func (i *Inference) answer(r *inferencepb.ModelInferResponse, event []byte) *inferencepb.ModelInferResponse {
	d := i.session.request.dialect
	o, ok := parseObject(sse.Parse(event).Data)
	if !ok {
		return r // not one that we made
	}
	c := &inferencepb.ModelInferResponse{ModelName: r.GetModelName(), ModelVersion: r.GetModelVersion(), Id: r.GetId(), Parameters: r.GetParameters()}
	c.ProtoReflect().SetUnknown(r.ProtoReflect().GetUnknown())
	for n, out := range r.GetOutputs() {
		t := output(r, n)
		switch name := out.GetName(); name {
		case d.text, d.finish, d.tokens, d.input:
			value := o.value(name)
			if value == nil {
				continue
			}
			if was, _ := t.json(); !bytes.Equal(was, value) {
				packed, ok := t.pack(value)
				if !ok {
					continue
				}
				t = packed
				out = &inferencepb.ModelInferResponse_InferOutputTensor{
					Name: name, Datatype: out.GetDatatype(), Shape: out.GetShape(), Parameters: out.GetParameters(), Contents: t.contents,
				}
			}
		}
		c.Outputs = append(c.Outputs, out)
		if t.isRaw {
			c.RawOutputContents = append(c.RawOutputContents, t.raw)
		}
	}
	return c
}

// Finish gives what the client has to get at the end, as for a Session: at Done,
// when Stopped, when nothing is missing, or when the pod's stream has ended cleanly.
func (i *Inference) Finish() ([]*inferencepb.ModelStreamInferResponse, error) {
	s := i.session
	if s.request.reason == "" && s.finish == "" && !i.final {
		return nil, ErrCut // the mark was asked for
	}
	event, err := s.Finish()
	if err != nil {
		return nil, err
	}
	var list []*inferencepb.ModelStreamInferResponse
	if len(event) > 0 && i.frame != nil {
		list = append(list, &inferencepb.ModelStreamInferResponse{InferResponse: i.answer(i.frame, event)})
	}
	if i.wished && !i.marked && s.request.reason == "" {
		i.marked = true
		list = append(list, &inferencepb.ModelStreamInferResponse{InferResponse: &inferencepb.ModelInferResponse{
			ModelName: i.in.GetModelName(), ModelVersion: i.frame.GetModelVersion(), Id: i.in.GetId(),
			Parameters: map[string]*inferencepb.InferParameter{finalMark: parameterOf([]byte("true"))},
		}})
	}
	return list, nil
}

// Terminal is the response that ends a request which can't go on.
func (i *Inference) Terminal(cause string) *inferencepb.ModelStreamInferResponse {
	return i.Failed(cause + " (stream_interrupted, not resumable)")
}

// Failed is the response that ends a request of which nothing was answered.
func (i *Inference) Failed(cause string) *inferencepb.ModelStreamInferResponse {
	return &inferencepb.ModelStreamInferResponse{
		ErrorMessage:  cause,
		InferResponse: &inferencepb.ModelInferResponse{ModelName: i.in.GetModelName(), Id: i.in.GetId()},
	}
}
