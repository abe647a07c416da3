package core

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Input is an input tensor of a request, as a frontend has read it.
type Input struct {
	Name, Datatype string
	Shape          []int64
	Raw            []byte          // its elements in the binary form; nil if Value has them
	Value          json.RawMessage // the last of its elements
	Elements       int             // of which there should be one
}

// AddInput takes over an input. What is wrong with it by the model is found by
// Fill, after the whole request has been read.
func (f *Fields) AddInput(in Input) *Error {
	for _, other := range f.Tensors {
		if other.Name == in.Name {
			return Invalid("%sinput '%s' already exists in request", Request{ID: f.ID}.LogID(), in.Name)
		}
	}
	f.Tensors = append(f.Tensors, in)
	return nil
}

// checkTensors holds the inputs and the outputs asked for against the model.
func (f Fields) checkTensors(m Model) *Error {
	for _, name := range f.Outputs {
		if !has(m.Outputs(), name) {
			return Invalid("unexpected inference output '%s' for model '%s'", name, m.Name)
		}
	}
	for _, in := range f.Tensors {
		if _, ok := m.Input(in.Name); !ok {
			return Invalid("unexpected inference input '%s' for model '%s'", in.Name, m.Name)
		}
	}
	return nil
}

// take makes inputs of the tensors, if they have the model's types and shapes.
func (f Fields) take(m Model) *Error {
	logID := Request{ID: f.ID}.LogID()
	for _, in := range f.Tensors {
		t, _ := m.Input(in.Name) // checked before
		fits := len(in.Shape) == 1 && (t.Shape < 0 || in.Shape[0] == int64(t.Shape))
		switch {
		case in.Datatype != t.Datatype:
			return Invalid("%sinference input '%s' data-type is '%s', but model '%s' expects '%s'", logID, in.Name, in.Datatype, m.Name, t.Datatype)
		case !fits:
			return Invalid("%sunexpected shape for input '%s' for model '%s'. Expected [%d], got [%s]. ",
				logID, in.Name, m.Name, t.Shape, strings.ReplaceAll(strings.Trim(fmt.Sprint(in.Shape), "[]"), " ", ","))
		case in.Raw == nil && t.Datatype == "BYTES" && int64(in.Elements) < in.Shape[0]:
			return Invalid("%sexpected %d string elements for inference input '%s' for model '%s', got %d", logID, in.Shape[0], in.Name, m.Name, in.Elements)
		case in.Raw == nil && t.Datatype == "BYTES" && int64(in.Elements) > in.Shape[0]:
			return Invalid("%sunexpected number of string elements %d for inference input '%s' for model '%s', expecting %d",
				logID, in.Elements, in.Name, m.Name, in.Shape[0])
		}
		f.Inputs[in.Name] = in.Value
		if in.Raw == nil {
			continue
		}
		value, err := element(in.Raw, t, m, logID)
		if err != nil {
			return err
		}
		f.Inputs[in.Name] = value
	}
	return nil
}

func has(all []Tensor, name string) bool {
	for _, t := range all {
		if t.Name == name {
			return true
		}
	}
	return false
}

// Output is an output tensor of a response.
type Output struct {
	Name, Datatype string
	Shape          int
	Text           string // of BYTES; the elements of FP32 are zero
	Count          uint32 // of UINT32
}

// Shown lists the outputs of a response: those that the request asked for, or all.
func (q Request) Shown(m Model, s Step) []Output {
	all := []Output{{Name: "text_output", Datatype: "BYTES", Shape: 1, Text: q.Text(s)}}
	if m.Flavour == TRTLLM {
		all = append(all, Output{Name: "cum_log_probs", Datatype: "FP32", Shape: 1}, Output{Name: "output_log_probs", Datatype: "FP32", Shape: s.Tokens})
	}
	if q.FinishReason {
		all = append(all, Output{Name: "finish_reason", Datatype: "BYTES", Shape: 1, Text: s.Finish})
	}
	if q.NumInput {
		all = append(all, Output{Name: "num_input_tokens", Datatype: "UINT32", Shape: 1, Count: uint32(q.PromptTokens)})
	}
	if q.NumOutput {
		all = append(all, Output{Name: "num_output_tokens", Datatype: "UINT32", Shape: 1, Count: uint32(s.Tokens)})
	}
	if len(q.Outputs) == 0 {
		return all
	}
	var shown []Output
	for _, o := range all {
		for _, name := range q.Outputs {
			if o.Name == name {
				shown = append(shown, o)
				break
			}
		}
	}
	return shown
}

// BinaryOutput is an output in its binary form.
func BinaryOutput(o Output) []byte {
	switch o.Datatype {
	case "BYTES":
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(o.Text))), o.Text...)
	case "UINT32":
		return binary.LittleEndian.AppendUint32(nil, o.Count)
	}
	return make([]byte, 4*o.Shape)
}

// element reads the one element of an input in its binary form.
func element(b []byte, t Tensor, m Model, logID string) (json.RawMessage, *Error) {
	want := 4
	switch t.Datatype {
	case "BYTES":
		if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) != uint64(len(b)-4) {
			return nil, cutText(b, t, m)
		}
		return Text(b[4:])
	case "BOOL":
		if want = 1; len(b) == want {
			return strconv.AppendBool(nil, b[0] != 0), nil
		}
	case "INT32":
		if len(b) == want {
			return strconv.AppendInt(nil, int64(int32(binary.LittleEndian.Uint32(b))), 10), nil
		}
	case "FP32":
		if len(b) == want {
			return strconv.AppendFloat(nil, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), 'g', -1, 32), nil
		}
	}
	return nil, Invalid("%sinput byte size mismatch for input '%s' for model '%s'. Expected %d, got %d", logID, t.Name, m.Name, want, len(b))
}

// cutText is what Triton finds of a text whose length is wrong. It looks when the
// request gets to the backend.
func cutText(b []byte, t Tensor, m Model) *Error {
	if len(b) < 4 {
		return m.broken(Invalid("incomplete string length indicator for inference input '%s', expecting %d bytes but only %d bytes available. "+
			"Please make sure the string length indicator is in one buffer.", t.Name, 4, len(b)))
	}
	return m.broken(Invalid("incomplete string data for inference input '%s', expecting string of length %d but only %d bytes available",
		t.Name, binary.LittleEndian.Uint32(b), len(b)-4))
}

// Text is an element of BYTES as JSON; backends read it as UTF-8.
func Text(b []byte) (json.RawMessage, *Error) {
	if !utf8.Valid(b) {
		return nil, Internal("%s", garbledText(b, strings.ToValidUTF8(string(b), "\uFFFD")))
	}
	quoted, err := json.Marshal(string(b))
	if err != nil {
		return nil, Internal("Error generating stream: %v", err)
	}
	return quoted, nil
}
