package answer_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions/proxy/answer"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type (
	request   = inferencepb.ModelInferRequest
	response  = inferencepb.ModelInferResponse
	parameter = inferencepb.InferParameter
)

// half is a client's half of a stream.
type half struct{ io.Reader }

func (h half) Open(func()) io.ReadCloser { return io.NopCloser(h.Reader) }
func (h half) Length() int64             { return -1 }
func (h half) Whole() bool               { return false }

func frame(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// ask is a request for text.
func ask(t testing.TB, id, prompt string) []byte {
	t.Helper()
	return frame(t, &request{
		ModelName: "llama", Id: id,
		Inputs: []*inferencepb.ModelInferRequest_InferInputTensor{
			{Name: "text_input", Datatype: "BYTES", Shape: []int64{1}, Contents: &inferencepb.InferTensorContents{BytesContents: [][]byte{[]byte(prompt)}}},
			{Name: "stream", Datatype: "BOOL", Shape: []int64{1}, Contents: &inferencepb.InferTensorContents{BoolContents: []bool{true}}},
		},
		Parameters: map[string]*parameter{"max_tokens": {ParameterChoice: &inferencepb.InferParameter_Int64Param{Int64Param: 9}}},
	})
}

// say is a response with text.
func say(t testing.TB, id, text string, last bool) []byte {
	t.Helper()
	r := &response{
		ModelName: "llama", Id: id,
		Parameters: map[string]*parameter{"triton_final_response": {ParameterChoice: &inferencepb.InferParameter_BoolParam{BoolParam: last}}},
	}
	outputs := map[string]string{"text_output": text}
	if last {
		outputs["finish_reason"] = "length"
	}
	for name, value := range outputs {
		r.Outputs = append(r.Outputs, &inferencepb.ModelInferResponse_InferOutputTensor{
			Name: name, Datatype: "BYTES", Shape: []int64{1}, Contents: &inferencepb.InferTensorContents{BytesContents: [][]byte{[]byte(value)}},
		})
	}
	return frame(t, &inferencepb.ModelStreamInferResponse{InferResponse: r})
}

func newCalls(t testing.TB, from io.Reader, keep int) *answer.Calls {
	t.Helper()
	p, err := resume.NewProfile("vllm")
	if err != nil {
		t.Fatal(err)
	}
	c := answer.NewCalls(half{from}, answer.CallOptions{Profile: p, Limits: resume.DefaultLimits(), Keep: keep, Resume: true, Replay: true})
	return c
}

// read reads one message of what a pod is sent.
func read(t testing.TB, r io.Reader) *request {
	t.Helper()
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[1:]))
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	m := new(request)
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func promptOf(r *request) string { return string(r.GetInputs()[0].GetContents().GetBytesContents()[0]) }

var start = time.Unix(1_700_000_000, 0)

// TestTurns: requests that are not answered go to the next pod, the others do not, and
// what the client says later goes to the pod that is there then, although the lost one
// was waiting for it.
func TestTurns(t *testing.T) {
	from, client := io.Pipe()
	c := newCalls(t, from, 1<<20)
	first := c.Open(func() {})
	waits := make(chan error, 1)
	go func() {
		for _, id := range []string{"done", "half", "none"} {
			if _, err := client.Write(ask(t, id, "p-"+id)); err != nil {
				waits <- err
			}
		}
	}()
	for _, id := range []string{"done", "half", "none"} {
		if got := read(t, first); got.GetId() != id {
			t.Fatalf("the first pod is sent %q, want %q", got.GetId(), id)
		}
	}
	go func() { _, err := first.Read(make([]byte, 1)); waits <- err }()
	h := c.Hear(append(say(t, "done", "all", true), say(t, "half", " some", false)...))
	if h.Cut != nil || h.End != nil || !h.Some {
		t.Fatalf("%+v", h)
	}
	if out, err := c.Continue(start); err != nil || len(out) > 0 {
		t.Fatalf("%q, %v", out, err)
	}
	second := c.Open(func() {})
	_ = first.Close()
	if err := <-waits; err == nil {
		t.Fatal("the first pod is still sent something")
	}
	if got := read(t, second); got.GetId() != "half" || promptOf(got) != "p-half some" {
		t.Errorf("the second pod is sent %q with %q", got.GetId(), promptOf(got))
	}
	if got := read(t, second); got.GetId() != "none" || promptOf(got) != "p-none" {
		t.Errorf("the second pod is sent %q with %q", got.GetId(), promptOf(got))
	}
	go func() {
		_, err := client.Write(ask(t, "later", "p-later"))
		waits <- errors.Join(err, client.Close())
	}()
	if got := read(t, second); got.GetId() != "later" {
		t.Errorf("the second pod is sent %q", got.GetId())
	}
	if err := <-waits; err != nil {
		t.Fatal(err)
	}
	if n, err := second.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the client's half: %d, %v", n, err)
	}
	c.Done()
}

// TestWhatCannotBeFollowedPasses byte by byte, and is not resumed.
func TestWhatCannotBeFollowedPasses(t *testing.T) {
	odd := map[string][]byte{
		"compressed": {1, 0, 0, 0, 3, 'x', 'y', 'z'},
		"large":      frame(t, &request{ModelName: strings.Repeat("m", 4000)}),
		"no message": {0, 0, 0, 0, 2, 0xff, 0xff},
		"cut":        {0, 0, 0, 0, 9, 1},
		"cut head":   {0, 0},
	}
	for name, extra := range odd {
		t.Run(name, func(t *testing.T) {
			one := ask(t, "a", "one")
			c := newCalls(t, bytes.NewReader(append(bytes.Clone(one), extra...)), 2000)
			w := c.Open(func() {})
			if got := read(t, w); got.GetId() != "a" {
				t.Fatalf("sent %q", got.GetId())
			}
			rest, err := io.ReadAll(w)
			if broken := strings.HasPrefix(name, "cut"); !bytes.Equal(rest, extra) || (err != nil) != broken {
				t.Errorf("passed %q, %v; want %q", rest, err, extra)
			}
			if c.Whole() || c.Refusal() == "" || !c.Owed() {
				t.Error("it is said to be resumable")
			}
			if _, err := c.Continue(start); err == nil {
				t.Error("it goes on elsewhere")
			}
			c.Done()
		})
	}
}

// fail is an error that a pod tells of a request.
func fail(t testing.TB, id, text string) []byte {
	t.Helper()
	return frame(t, &inferencepb.ModelStreamInferResponse{ErrorMessage: text, InferResponse: &response{Id: id}})
}

// final is a response that is nothing but the mark of the last one.
func final(t testing.TB, id string) []byte {
	t.Helper()
	return frame(t, &inferencepb.ModelStreamInferResponse{InferResponse: &response{
		Id: id, Parameters: map[string]*parameter{"triton_final_response": {ParameterChoice: &inferencepb.InferParameter_BoolParam{BoolParam: true}}},
	}})
}

// answers are the responses in what a client gets, as "id:text" or "id!error".
func answers(t *testing.T, b []byte) (all []string) {
	t.Helper()
	for len(b) > 0 {
		n := 5 + int(binary.BigEndian.Uint32(b[1:5]))
		m := new(inferencepb.ModelStreamInferResponse)
		if err := proto.Unmarshal(b[5:n], m); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
		one := m.GetInferResponse().GetId()
		if m.GetErrorMessage() != "" {
			one += "!" + m.GetErrorMessage()
		}
		for _, out := range m.GetInferResponse().GetOutputs() {
			if out.GetName() == "text_output" {
				one += ":" + string(out.GetContents().GetBytesContents()[0])
			}
		}
		all = append(all, one)
	}
	return all
}

// TestRequestsTogether: what a pod says of one request of a stream does nothing to the
// others, whatever they are called.
func TestRequestsTogether(t *testing.T) {
	const busy = "Exceeds maximum queue size"
	for _, tt := range []struct {
		name string
		ids  []string
		as   []string // as the pod has them
		says func(as []string) []byte
		want []string
		cut  bool
	}{
		{"without ids", []string{"", ""}, []string{"", "~1"}, func(as []string) []byte {
			return slices.Concat(say(t, as[1], "b", false), say(t, as[0], "a", true), say(t, as[1], "c", true))
		}, []string{":b", ":a", ":c"}, false},
		{"the same id", []string{"x", "x", "x~1"}, []string{"x", "x~1", "x~1~2"}, func(as []string) []byte {
			return slices.Concat(say(t, as[1], "b", true), say(t, as[2], "c", true), say(t, as[0], "a", true))
		}, []string{"x:b", "x~1:c", "x:a"}, false},
		{"one is refused", []string{"a", "b"}, []string{"a", "b"}, func([]string) []byte {
			return slices.Concat(fail(t, "a", "bad input"), final(t, "a"), say(t, "b", "b", true))
		}, []string{"a!bad input", "b:b"}, false},
		{"there is no room for one", []string{"a", "b"}, []string{"a", "b"}, func([]string) []byte {
			return slices.Concat(fail(t, "a", busy), final(t, "a"), say(t, "b", "b", true))
		}, []string{"b:b"}, false}, // it goes elsewhere then
		{"there is no room for the only one", []string{"a"}, []string{"a"}, func([]string) []byte { return fail(t, "a", busy) }, nil, true},
		{"somebody else's", []string{"a"}, []string{"a"}, func([]string) []byte { return say(t, "z", "z", true) }, []string{"z:z"}, false},
		{"an error of nobody's", []string{"a", "b"}, []string{"a", "b"}, func([]string) []byte {
			return frame(t, &inferencepb.ModelStreamInferResponse{ErrorMessage: "what?"})
		}, []string{"!what?"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var requests []byte
			for _, id := range tt.ids {
				requests = append(requests, ask(t, id, "p")...)
			}
			c := newCalls(t, bytes.NewReader(requests), 1<<20)
			defer c.Done()
			w := c.Open(func() {})
			for _, as := range tt.as {
				if got := read(t, w).GetId(); got != as {
					t.Fatalf("the pod knows it as %q, want %q", got, as)
				}
			}
			h := c.Hear(tt.says(tt.as))
			if got := answers(t, h.Out); !slices.Equal(got, tt.want) || (h.Cut != nil) != tt.cut {
				t.Errorf("the client gets %q, cut %v; want %q", got, h.Cut, tt.want)
			}
		})
	}
}

// TestRequestsTakeSlots: a stream's first request has one, and the others wait for one
// each.
func TestRequestsTakeSlots(t *testing.T) {
	var requests []byte
	for _, id := range []string{"a", "b", "c"} {
		requests = append(requests, ask(t, id, "p")...)
	}
	c := newCalls(t, bytes.NewReader(requests), 1<<20)
	defer c.Done()
	var free atomic.Int32
	c.Hold(answer.Slots{
		Take: func() bool {
			if free.Load() == 0 {
				return false
			}
			free.Add(-1)
			return true
		},
		Give: func() { free.Add(1) },
	})
	free.Store(1)
	w := c.Open(func() {})
	for _, id := range []string{"a", "b"} {
		if got := read(t, w); got.GetId() != id {
			t.Fatalf("sent %q, want %q", got.GetId(), id)
		}
	}
	sent := make(chan string)
	go func() { sent <- read(t, w).GetId() }()
	select {
	case id := <-sent:
		t.Fatalf("%q is sent without a slot", id)
	case <-time.After(5 * poll):
	}
	c.Hear(say(t, "a", "all", true)) // whose slot is taken
	if id := <-sent; id != "c" {
		t.Errorf("sent %q, want c", id)
	}
	c.Hear(slices.Concat(say(t, "b", "all", true), say(t, "c", "all", true)))
	if free.Load() != 1 {
		t.Errorf("%d slots are free at the end, want 1", free.Load())
	}
}

// poll is longer than the time after which a slot is asked for again.
const poll = 25 * time.Millisecond

// TestOver: how a pod may end a stream.
func TestOver(t *testing.T) {
	trailer := func(code int) http.Header { return http.Header{"Grpc-Status": {fmt.Sprint(code)}} }
	for _, tt := range []struct {
		name     string
		heard    []byte
		trailers http.Header
		cut      bool
	}{
		{"whole", say(t, "a", "all", true), trailer(0), false},
		{"not whole", say(t, "a", "some", false), trailer(0), true},
		{"unavailable", say(t, "a", "some", false), trailer(14), true},
		{"internal", nil, trailer(13), true},
		{"of the request", nil, trailer(3), false},
		{"no status", say(t, "a", "all", true), nil, true},
		{"half a message", say(t, "a", "all", true)[:9], trailer(0), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCalls(t, bytes.NewReader(ask(t, "a", "p")), 1<<20)
			read(t, c.Open(func() {}))
			if h := c.Hear(tt.heard); h.Cut != nil || h.End != nil {
				t.Fatalf("%+v", h)
			}
			if h := c.Over(tt.trailers); (h.Cut != nil) != tt.cut || (h.End != nil) == tt.cut {
				t.Errorf("%+v", h)
			}
			c.Done()
		})
	}
}

// FuzzHear cuts any answer anywhere: the client gets the same bytes, and what is not
// understood is passed on.
func FuzzHear(f *testing.F) {
	f.Add(append(say(f, "a", "x", false), say(f, "a", "y", true)...), uint16(3), uint16(40))
	f.Add([]byte{1, 0, 0, 0, 3, 'x', 'y', 'z', 0, 0, 0, 0, 0}, uint16(1), uint16(6))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1, 2}, uint16(5), uint16(6))
	f.Fuzz(func(t *testing.T, stream []byte, i, j uint16) {
		hear := func(parts ...[]byte) (out []byte, err error) {
			c := newCalls(t, bytes.NewReader(ask(t, "a", "p")), 1<<20)
			read(t, c.Open(func() {}))
			defer c.Done()
			for _, p := range parts {
				h := c.Hear(p)
				out = append(out, h.Out...)
				if h.Cut != nil || h.End != nil {
					return out, errors.Join(h.Cut, h.End)
				}
			}
			return out, nil
		}
		a, b := min(int(i), len(stream)), min(int(j), len(stream))
		if a > b {
			a, b = b, a
		}
		whole, err := hear(bytes.Clone(stream))
		parts, other := hear(bytes.Clone(stream[:a]), bytes.Clone(stream[a:b]), bytes.Clone(stream[b:]))
		if !bytes.Equal(whole, parts) || (err == nil) != (other == nil) {
			t.Fatalf("%q gives %q, %v; in parts %q, %v", stream, whole, err, parts, other)
		}
	})
}
