package triton_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/triton"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

func TestCanary(t *testing.T) {
	const (
		vllm  = `{"inputs":[{"name":"text_input"},{"name":"sampling_parameters"}]}`
		trt   = `{"inputs":[{"name":"text_input"},{"name":"max_tokens"},{"name":"stop_words"}]}`
		api   = `{"inputs":[{"name":"text_input"},{"name":"sampling_param_max_tokens"}]}`
		image = `{"inputs":[{"name":"pixels"}]}`

		askVLLM = `{"parameters":{"max_tokens":1,"stream":false,"temperature":0},"text_input":"say \"hi\""}`
		askTRT  = `{"max_tokens":1,"stop_words":"","text_input":"say \"hi\""}`
		askAPI  = `{"sampling_param_max_tokens":1,"text_input":"say \"hi\""}`
	)
	for _, c := range []struct {
		name, about, asked string
		status             int
		answer             string
		want               regions.Sight
		err                string
	}{
		{"vLLM generates", vllm, askVLLM, 200, `{"text_output":"hi"}`, regions.SawReady, ""},
		{"TensorRT-LLM generates", trt, askTRT, 200, `{"text_output":"hi"}`, regions.SawReady, ""},
		{"its LLM API generates", api, askAPI, 200, `{"text_output":"hi"}`, regions.SawReady, ""},
		{"an error with 200", vllm, askVLLM, 200, `{"error":"engine is dead"}`, regions.SawNotReady, "engine is dead"},
		{"no JSON", vllm, askVLLM, 200, "data: x", regions.SawNotReady, "no JSON"},
		{"a dead process", vllm, askVLLM, 500, `{"error":"Stub process is not healthy."}`, regions.SawNotReady, "Stub process"},
		{"exiting", vllm, askVLLM, 503, `{"error":"Server exiting"}`, regions.SawNotReady, "Server exiting"},
		{"a full queue", vllm, askVLLM, 503, `{"error":"[request id: <id_unknown>] Exceeds maximum queue size"}`, 0, "Exceeds maximum"},
		{"too long in the queue", vllm, askVLLM, 503, `{"error":"Request timeout expired"}`, 0, "timeout expired"},
		{"a question that was not understood", vllm, askVLLM, 400, `{"error":"missing required input"}`, 0, "missing required"},
		{"unloaded meanwhile", vllm, askVLLM, 404, `{"error":"not found"}`, 0, "not found"},
		{"not supported", vllm, askVLLM, 501, `{"error":"decoupled"}`, 0, "decoupled"},
		{"no text to generate", image, "", 200, "", 0, "turn the canary off"},
		{"unknown model", "", "", 200, "", 0, "404"},
	} {
		asked := ""
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPost && r.URL.Path == "/v2/models/llama/generate":
				body, _ := io.ReadAll(r.Body)
				asked = string(body)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.answer)
			case c.about == "" || r.URL.Path != "/v2/models/llama":
				w.WriteHeader(http.StatusNotFound)
			default:
				_, _ = io.WriteString(w, c.about)
			}
		}))
		got, _, err := triton.New(triton.DefaultOptions()).Canary(t.Context(), netip.MustParseAddrPort(s.Listener.Addr().String()), "llama", `say "hi"`)
		s.Close()
		if got != c.want || asked != c.asked || (err == nil) != (c.want == regions.SawReady) || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: saw %v, %v after %s; want %v, %q after %s", c.name, got, err, asked, c.want, c.err, c.asked)
		}
	}
}

// TestCanaryOfASimulatedPod meets both backends well, failing while their health
// says 200, hung, and gone.
func TestCanaryOfASimulatedPod(t *testing.T) {
	engine := tritontest.DefaultModel("llama")
	engine.Flavour = tritontest.TRTLLM
	for _, m := range []tritontest.Model{tritontest.DefaultModel("llama"), engine} {
		flavour := m.Flavour
		o := tritontest.DefaultOptions()
		o.Models = []tritontest.Model{m}
		pod := tritontest.New(o)
		if err := pod.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pod.Close)
		c, at := triton.New(triton.DefaultOptions()), netip.MustParseAddrPort(pod.Addr())
		sees := func(what string, want regions.Sight, within time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			if got, _, err := c.Canary(ctx, at, "llama", "hello"); got != want {
				t.Errorf("flavour %v, %s: saw %v, %v", flavour, what, got, err)
			}
		}
		sees("well", regions.SawReady, patience)
		for _, how := range []struct {
			dead   tritontest.Zombie
			want   regions.Sight
			within time.Duration
		}{{tritontest.Failing, 0, patience}, {tritontest.Hanging, regions.SawTimeout, 50 * time.Millisecond}} {
			pod.Zombie("llama", how.dead)
			sees("its backend is "+how.dead.String(), how.want, how.within)
			if got, _, err := c.ModelReady(t.Context(), at, "llama"); got != regions.SawReady {
				t.Errorf("its backend is %v, and its health says %v, %v", how.dead, got, err)
			}
		}
		pod.Heal()
		sees("it is back", regions.SawReady, patience)
		pod.Hang(true)
		sees("it hangs", regions.SawTimeout, 50*time.Millisecond)
		pod.Hang(false)
		pod.Crash()
		sees("it is gone", regions.SawRefused, patience)
	}
}

func FuzzCanary(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\n\r\n{\"text_output\":\"x\"}")
	f.Add("HTTP/1.1 500 Internal Server Error\r\n\r\n{\"error\":\"x\"}")
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"error\":null}")
	f.Add("HTTP/1.1 200")
	f.Fuzz(func(t *testing.T, said string) {
		o, asked := triton.DefaultOptions(), 0
		o.MaxBody = 1 << 10
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if asked++; asked == 1 {
				return dialCanned("HTTP/1.1 200 OK\r\n\r\n{\"inputs\":[{\"name\":\"text_input\"}]}")(ctx, network, addr)
			}
			return dialCanned(said)(ctx, network, addr)
		}
		sight, _, err := triton.New(o).Canary(t.Context(), netip.MustParseAddrPort("192.0.2.1:8000"), "llama", "hello")
		switch {
		case (sight == regions.SawReady) != (err == nil):
			t.Fatalf("saw %v with error %v", sight, err)
		case sight == regions.SawReady && !strings.HasPrefix(said, "HTTP/"):
			t.Fatalf("well by %q", said)
		case said == "" && sight != regions.SawClosed:
			t.Fatalf("nothing said, saw %v", sight)
		}
	})
}
