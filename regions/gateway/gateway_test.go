package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// notebook is a forwarder that notes what it is given and answers 200.
type notebook struct {
	mu    sync.Mutex
	paths []string
	reqs  []regions.Request
	heads []http.Header
}

func (n *notebook) Forward(w http.ResponseWriter, r *http.Request, req regions.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paths = append(n.paths, r.Method+" "+r.URL.RequestURI())
	n.reqs = append(n.reqs, req)
	n.heads = append(n.heads, r.Header.Clone())
	_, _ = io.WriteString(w, "forwarded")
}

// door is a gateway behind a real server.
type door struct {
	tb     testing.TB
	server *httptest.Server
	notes  *notebook
	reg    *prometheus.Registry
	log    *strings.Builder
}

func open(tb testing.TB, tune func(*gateway.Options)) *door {
	tb.Helper()
	d := &door{tb: tb, notes: &notebook{}, reg: prometheus.NewRegistry(), log: &strings.Builder{}}
	o := gateway.DefaultOptions(d.notes)
	o.Models = func() []regions.ModelName { return []regions.ModelName{"llama", "mistral"} }
	o.Registry, o.Version = d.reg, "1.2.3"
	o.Logger = slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if tune != nil {
		tune(&o)
	}
	d.server = httptest.NewUnstartedServer(nil)
	d.server.Config = gateway.NewServer(gateway.New(o), gateway.DefaultHeadLimits(), slog.New(slog.DiscardHandler))
	d.server.Start()
	tb.Cleanup(d.server.Close)
	return d
}

func (d *door) do(method, path string, fields ...string) (*http.Response, string) {
	d.tb.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, d.server.URL+path, nil)
	if err != nil {
		d.tb.Fatal(err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	res, err := d.server.Client().Do(req)
	if err != nil {
		d.tb.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		d.tb.Fatal(err)
	}
	return res, string(text)
}

func TestRoutes(t *testing.T) {
	d := open(t, nil)
	const notFound, notAllowed = `{"error":"Not Found"}`, `{"error":"Method Not Allowed"}`
	const notOpenAI = `{"error":{"message":"Method Not Allowed","type":"invalid_request_error","param":null,"code":null}}`
	tests := []struct {
		method, path string
		status       int
		want         string // the forwarded request, or else the body
	}{
		{"GET", "/v2/models/llama", 200, "GET /v2/models/llama"},
		{"GET", "/v2/models/llama/versions/3", 200, "GET /v2/models/llama/versions/3"},
		{"GET", "/v2/models/llama/ready", 200, "GET /v2/models/llama/ready"},
		{"GET", "/v2/models/llama/config", 200, "GET /v2/models/llama/config"},
		{"GET", "/v2/models/llama/stats", 200, "GET /v2/models/llama/stats"},
		{"GET", "/v2/models/llama/versions/1/stats", 200, "GET /v2/models/llama/versions/1/stats"},
		{"POST", "/v2/models/llama/infer", 200, "POST /v2/models/llama/infer"},
		{"POST", "/v2/models/llama/generate?x=1", 200, "POST /v2/models/llama/generate?x=1"},
		{"POST", "/v2/models/llama/versions/12/generate_stream", 200, "POST /v2/models/llama/versions/12/generate_stream"},
		{"POST", "/v1/models/llama/generate_stream", 200, "POST /v2/models/llama/generate_stream"},
		{"POST", "/v1/models/llama/versions/1/infer", 200, "POST /v2/models/llama/versions/1/infer"},
		{"GET", "/v1/models/llama/ready", 200, "GET /v2/models/llama/ready"},
		{"GET", "/v2/models/my%20model/ready", 200, "GET /v2/models/my%20model/ready"},
		{"POST", "/v2/models/Llama-3.1/generate", 200, "POST /v2/models/Llama-3.1/generate"},

		// What a client may not ask a pod.
		{"POST", "/v2/repository/index", 404, notFound},
		{"POST", "/v2/repository/models/llama/load", 404, notFound},
		{"POST", "/v2/repository/models/llama/unload", 404, notFound},
		{"GET", "/v2/systemsharedmemory/status", 404, notFound},
		{"POST", "/v2/cudasharedmemory/region/x/register", 404, notFound},
		{"GET", "/v2/logging", 404, notFound},
		{"POST", "/v2/logging", 404, notFound},
		{"GET", "/v2/trace/setting", 404, notFound},
		{"POST", "/v2/models/llama/trace/setting", 404, notFound},
		{"POST", "/v1/models/llama/load", 404, notFound},
		{"GET", "/v2/models/stats", 404, notFound}, // of all models
		{"GET", "/v2/models", 404, notFound},
		{"GET", "/v2/models/", 404, notFound},
		{"GET", "/v2/", 404, notFound},
		{"GET", "/v2/models/llama/", 404, notFound},
		{"GET", "/v2/models/llama/versions", 404, notFound},
		{"GET", "/v2/models/llama/versions/x", 404, notFound},
		{"GET", "/v2/models/llama/versions/1/2", 404, notFound},
		{"GET", "/v2/models/llama/ready/x", 404, notFound},
		{"GET", "/v3/models/llama", 404, notFound},
		{"GET", "/x/v2/models/llama", 404, notFound},
		{"GET", "/metrics", 404, notFound},
		{"GET", "/", 404, notFound},
		{"GET", "/v1/models/", 404, notFound},

		{"GET", "/v2/models/llama/generate", 405, notAllowed},
		{"POST", "/v2/models/llama/ready", 405, notAllowed},
		{"POST", "/v2/models/llama", 405, notAllowed},
		{"DELETE", "/v1/models/llama", 405, notOpenAI},
		{"GET", "/v1/chat/completions", 405, notOpenAI},
		{"POST", "/v1/chat", 404, notFound},
		{"POST", "/v1/responses", 404, notFound},
		{"GET", "/inference.GRPCInferenceService/ServerLive", 405, notAllowed},
		{"POST", "/inference.GRPCInferenceService/ModelInfer", 505, `{"error":"gRPC needs HTTP/2"}`},
		{"POST", "/inference.GRPCInferenceService/RepositoryModelLoad", 404, notFound},
		{"POST", "/v2/health/ready", 405, notAllowed},
		{"PROPFIND", "/v2/models/llama/generate", 405, notAllowed},
		{"OPTIONS", "/v2", 405, notAllowed},

		{"GET", "/v2/health/live", 200, ""},
		{"GET", "/v2/health/ready", 200, ""},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			d.notes.paths, d.notes.reqs = nil, nil
			res, text := d.do(tt.method, tt.path)
			if text == "forwarded" {
				text = d.notes.paths[0]
			}
			if res.StatusCode != tt.status || text != tt.want {
				t.Errorf("got %d %s, want %d %s", res.StatusCode, text, tt.status, tt.want)
			}
			if tt.status == 405 && res.Header.Get("Allow") == "" {
				t.Error("a 405 must say what is allowed")
			}
		})
	}
}

func TestWhatTheForwarderIsTold(t *testing.T) {
	d := open(t, nil)
	for _, tt := range []struct {
		method, path        string
		model               regions.ModelName
		replayable, streams bool
		aside               bool
	}{
		{"POST", "/v2/models/llama/generate", "llama", true, false, false},
		{"POST", "/v1/models/llama/generate_stream", "llama", true, true, false},
		{"POST", "/v2/models/nope/versions/1/infer", "nope", false, false, false},
		{"GET", "/v2/models/llama/stats", "llama", false, false, true},
		{"GET", "/v2/models/llama", "llama", false, false, true},
		{"GET", "/v2/models/llama/ready", "llama", false, false, true},
		{"GET", "/v1/models/llama/config", "llama", false, false, true},
	} {
		d.notes.reqs = nil
		d.do(tt.method, tt.path)
		want := regions.Request{Model: tt.model, Client: netip.MustParseAddr("127.0.0.1"), URI: tt.path, Replayable: tt.replayable, Streams: tt.streams, Aside: tt.aside}
		if got := fmt.Sprint(d.notes.reqs); got != fmt.Sprint([]regions.Request{want}) {
			t.Errorf("%s: got %v, want %v", tt.path, got, want)
		}
	}
}

func TestHealthIsTheRegionsOwn(t *testing.T) {
	d := open(t, func(o *gateway.Options) { o.Ready = func() bool { return false } })
	for path, want := range map[string]int{"/v2/health/live": 200, "/v2/health/ready": 400} {
		res, text := d.do("GET", path)
		if res.StatusCode != want || text != "" {
			t.Errorf("%s: %d %q, want %d and nothing", path, res.StatusCode, text, want)
		}
	}
}

func TestServerMetadata(t *testing.T) {
	_, text := open(t, nil).do("GET", "/v2")
	var got struct {
		Name, Version string
		Extensions    []string
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || got.Version != "1.2.3" || len(got.Extensions) == 0 {
		t.Errorf("got %s, %v", text, err)
	}
}

func TestModelsInOpenAIsShape(t *testing.T) {
	d := open(t, nil)
	var list struct {
		Object string
		Data   []struct {
			ID, Object string
			Created    int64
			OwnedBy    string `json:"owned_by"`
		}
	}
	_, text := d.do("GET", "/v1/models")
	if err := json.Unmarshal([]byte(text), &list); err != nil || list.Object != "list" || len(list.Data) != 2 ||
		list.Data[0].ID != "llama" || list.Data[0].Object != "model" || list.Data[0].Created == 0 || list.Data[0].OwnedBy == "" {
		t.Errorf("list: %s, %v", text, err)
	}
	if res, text := d.do("GET", "/v1/models/mistral"); res.StatusCode != http.StatusOK || !strings.Contains(text, `"id":"mistral","object":"model"`) {
		t.Errorf("one: %d %s", res.StatusCode, text)
	}
	if res, text := d.do("GET", "/v1/models/nope"); res.StatusCode != http.StatusNotFound || !strings.Contains(text, `"code":"model_not_found"`) {
		t.Errorf("unknown: %d %s", res.StatusCode, text)
	}
	if _, text := open(t, func(o *gateway.Options) { o.Models = nil }).do("GET", "/v1/models"); !strings.Contains(text, `"data":[]`) {
		t.Errorf("no models: %s, want an empty list", text)
	}
}

func TestClientAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::ffff:10.0.0.0/104")}
	for _, tt := range []struct {
		name    string
		trusted []netip.Prefix
		fields  []string
		want    string
	}{
		{"nobody is trusted", nil, []string{"X-Forwarded-For", "81.2.69.1"}, "127.0.0.1"},
		{"one hop", trusted, []string{"X-Forwarded-For", "81.2.69.1"}, "81.2.69.1"},
		{"no field", trusted, nil, "127.0.0.1"},
		{"what a client claims stands left", trusted, []string{"X-Forwarded-For", "6.6.6.6, 81.2.69.1"}, "81.2.69.1"},
		{"trusted hops are passed over", trusted, []string{"X-Forwarded-For", "6.6.6.6, 81.2.69.1, 10.1.1.1"}, "81.2.69.1"},
		{"over several fields", trusted, []string{"X-Forwarded-For", "81.2.69.1", "X-Forwarded-For", "10.1.1.1"}, "81.2.69.1"},
		{"all are trusted", trusted, []string{"X-Forwarded-For", "10.1.1.1, 10.1.1.2"}, "10.1.1.1"},
		{"rubbish ends it", trusted, []string{"X-Forwarded-For", "81.2.69.1, rubbish, 10.1.1.1"}, "10.1.1.1"},
		{"nothing but rubbish", trusted, []string{"X-Forwarded-For", "unknown"}, "127.0.0.1"},
		{"with a port", trusted, []string{"X-Forwarded-For", "81.2.69.1:4711"}, "81.2.69.1"},
		{"IPv6 in brackets", trusted, []string{"X-Forwarded-For", "[2001:db8::1]:4711"}, "2001:db8::1"},
		{"IPv6", trusted, []string{"X-Forwarded-For", "2001:db8::1"}, "2001:db8::1"},
		{"IPv4 in IPv6", trusted, []string{"X-Forwarded-For", "::ffff:81.2.69.1"}, "81.2.69.1"},
		{"an underscore is another field", trusted, []string{"X_Forwarded_For", "81.2.69.1"}, "127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := open(t, func(o *gateway.Options) { o.Policy.TrustedProxies = tt.trusted })
			d.do("POST", "/v2/models/llama/generate", tt.fields...)
			if got := d.notes.reqs[0].Client.String(); got != tt.want {
				t.Errorf("client is %s, want %s", got, tt.want)
			}
		})
	}
}

func TestForwardingFieldsOfAStrangerAreDropped(t *testing.T) {
	fields := []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example"}
	d := open(t, nil)
	d.do("POST", "/v2/models/llama/generate", fields...)
	if h := d.notes.heads[0]; h.Get("X-Forwarded-Proto") != "" || h.Get("X-Forwarded-Host") != "" {
		t.Errorf("a stranger's word went on: %v", h)
	}
	d = open(t, func(o *gateway.Options) {
		o.Policy.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	d.do("POST", "/v2/models/llama/generate", fields...)
	if h := d.notes.heads[0]; h.Get("X-Forwarded-Proto") != "https" || h.Get("X-Forwarded-Host") != "evil.example" {
		t.Errorf("a trusted proxy's word was dropped: %v", h)
	}
	d.do("POST", "/v2/models/llama/generate", "X-Forwarded-Proto", "gopher")
	if h := d.notes.heads[1]; h.Get("X-Forwarded-Proto") != "" {
		t.Errorf("scheme %q went on", h.Get("X-Forwarded-Proto"))
	}
}

func TestLogAndMetricsGiveNothingAway(t *testing.T) {
	d := open(t, nil)
	d.do("POST", "/v2/models/llama/generate?key=SECRET", "Authorization", "Bearer SECRET")
	d.do("POST", "/v2/models/made-up-by-a-client/generate")
	d.do("GET", "/v2/health/ready")
	d.do("GET", "/made/up/path")
	d.server.Close()
	if strings.Contains(d.log.String(), "SECRET") {
		t.Errorf("the log holds a secret: %s", d.log)
	}
	lines := strings.Split(strings.TrimSpace(d.log.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines for 4 requests: %s", len(lines), d.log)
	}
	for i, want := range []string{
		"level=INFO msg=request component=gateway method=POST path=/v2/models/llama/generate route=generate model=llama status=200 bytes=9",
		"route=generate model=made-up-by-a-client", "level=DEBUG", "level=DEBUG",
	} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d is %s, want %s", i, lines[i], want)
		}
	}
	want := `
# HELP rhumb_gateway_requests_total Requests by route, model, key and status; model is empty for the gateway's own answers, key without one.
# TYPE rhumb_gateway_requests_total counter
rhumb_gateway_requests_total{code="200",key="",model="",route="health"} 1
rhumb_gateway_requests_total{code="200",key="",model="_other",route="generate"} 1
rhumb_gateway_requests_total{code="200",key="",model="llama",route="generate"} 1
rhumb_gateway_requests_total{code="404",key="",model="",route="none"} 1
`
	if err := testutil.GatherAndCompare(d.reg, strings.NewReader(want), "rhumb_gateway_requests_total"); err != nil {
		t.Error(err)
	}
}

// cutter is a forwarder that gives up in the middle of an answer.
type cutter struct{}

func (cutter) Forward(w http.ResponseWriter, _ *http.Request, _ regions.Request) {
	_, _ = io.WriteString(w, "half")
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestCutAnswerPassesThroughAndIsLogged(t *testing.T) {
	d := open(t, func(o *gateway.Options) { o.Forward = cutter{} })
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, d.server.URL+"/v2/models/llama/generate_stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := d.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("the client got %q and a clean end", text)
	}
	d.server.Close()
	if !strings.Contains(d.log.String(), "cut=true") {
		t.Errorf("log: %s", d.log)
	}
}
