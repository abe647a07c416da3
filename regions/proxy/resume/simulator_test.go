package resume_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// simulator is a pod over real sockets.
func simulator(t *testing.T, name string) *tritontest.Pod {
	t.Helper()
	o := tritontest.DefaultOptions()
	m := tritontest.DefaultModel(llama)
	m.PrefillPerToken, m.InterToken = 0, time.Microsecond
	if name == "trtllm" {
		m.Flavour = tritontest.TRTLLM
	}
	o.Models = []tritontest.Model{m}
	pod := tritontest.New(o)
	if err := pod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pod.Close)
	return pod
}

// ask posts a body.
func ask(t *testing.T, addr, path string, body []byte) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+path, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(answer)
}

// asked are the events of a pod's answer.
func asked(t *testing.T, addr, path string, body []byte) (events []string) {
	t.Helper()
	_, answer := ask(t, addr, path, body)
	split := sse.NewSplitter(1 << 20)
	split.Feed([]byte(answer))
	for {
		e, err := split.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e == nil {
			return events
		}
		events = append(events, string(e))
	}
}

// The simulator's own frontends, cut after each event.
func TestSimulatorCutAnywhere(t *testing.T) {
	for _, name := range []string{"vllm", "trtllm"} {
		pod := simulator(t, name)
		for _, c := range []struct{ profile, addr, path, body string }{
			{name, pod.Addr(), "/v2/models/llama/generate_stream", `{"id":"7","text_input":"Set sail","stream":true,"max_tokens":6}`},
			{"openai", pod.OpenAIAddr(), "/v1/completions", `{"model":"llama","prompt":"Set sail","stream":true,"max_tokens":6}`},
		} {
			want := client(t, strings.Join(asked(t, c.addr, c.path, []byte(c.body)), ""), false)
			if want.text != strings.Join(tritontest.Tokens(llama, "Set sail", 6), "") {
				t.Fatalf("%s %s: %+v", name, c.path, want)
			}
			for cut := range 7 {
				s := session(t, c.profile, c.body)
				first := asked(t, c.addr, c.path, s.Body())
				stream := relay(t, s, first[:min(cut, len(first))])
				body, err := s.Continue(start)
				if err == nil {
					stream += relay(t, s, asked(t, c.addr, c.path, body))
				} else if !errors.Is(err, resume.ErrComplete) {
					t.Fatal(err)
				}
				have := client(t, stream+finish(t, s), false)
				if have.text != want.text || have.done != want.done || len(have.ids) != 1 || (have.finish == "") != (want.finish == "") {
					t.Errorf("%s %s cut after %d:\n%+v\nuncut:\n%+v", name, c.path, cut, have, want)
				}
			}
		}
	}
}

// The same over gRPC.
func TestSimulatorInference(t *testing.T) {
	for _, name := range []string{"vllm", "trtllm"} {
		pod := simulator(t, name)
		conn, err := grpc.NewClient(pod.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		for _, wished := range []bool{false, true} {
			r := &inferRequest{ModelName: llama, Id: "7", Parameters: map[string]*inferParameter{"triton_enable_empty_final_response": flag(wished)}}
			addInput(r, false, "text_input", "Set sail")
			addInput(r, false, "stream", true)
			if name == "vllm" {
				r.Parameters["max_tokens"] = whole(6)
			} else {
				addInput(r, false, "max_tokens", 6)
			}
			wantText, wantNames, _, _, wantMarks := heardFrom(t, inferred(t, conn, r))
			for cut := range 7 {
				i := resume.OpenInference(profile(t, name), resume.DefaultLimits(), r)
				first := inferred(t, conn, i.Request())
				have := relayed(t, i, first[:min(cut, len(first))])
				if !i.Done() {
					next, err := i.Continue(start)
					if err == nil {
						have = append(have, relayed(t, i, inferred(t, conn, next))...)
					} else if !errors.Is(err, resume.ErrComplete) {
						t.Fatal(err)
					}
				}
				rest, err := i.Finish()
				if err != nil {
					t.Fatal(err)
				}
				text, names, _, _, marks := heardFrom(t, append(have, rest...))
				if text != wantText || marks != wantMarks || len(names) != len(wantNames) {
					t.Errorf("%s, mark %v, cut after %d: %q, %d marks, %v; uncut %q, %d, %v", name, wished, cut, text, marks, names, wantText, wantMarks, wantNames)
				}
			}
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

// inferred is all that the pod answers on a stream of one request.
func inferred(t *testing.T, conn *grpc.ClientConn, r *inferRequest) (list []*streamResponse) {
	t.Helper()
	stream, err := inferencepb.NewGRPCInferenceServiceClient(conn).ModelStreamInfer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(r); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.ErrorMessage != "" {
			t.Fatal(m.ErrorMessage)
		}
		list = append(list, m)
	}
}
