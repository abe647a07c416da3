package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// echo is a forwarder that sends the body back and notes what it is told.
type echo struct {
	mu   sync.Mutex
	reqs []regions.Request // under mu
}

func (e *echo) Forward(w http.ResponseWriter, r *http.Request, req regions.Request) {
	e.mu.Lock()
	e.reqs = append(e.reqs, req)
	e.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "body: "+err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = fmt.Fprintf(w, "%s %d %s", r.URL.Path, r.ContentLength, body)
}

// last is what it was told last.
func (e *echo) last() regions.Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.reqs) == 0 {
		return regions.Request{}
	}
	return e.reqs[len(e.reqs)-1]
}

// post sends a body.
func (d *door) post(path string, body io.Reader, fields ...string) (int, string) {
	d.tb.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, d.server.URL+path, body)
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
	return res.StatusCode, string(text)
}

func TestOpenAI(t *testing.T) {
	pods := &echo{}
	d := open(t, func(o *gateway.Options) { o.Forward = pods })
	fill := strings.Repeat("x", 100<<10)
	for _, tt := range []struct {
		path, body string
		model      regions.ModelName
		streams    bool
	}{
		{"/v1/chat/completions", `{"model":"llama","messages":[]}`, "llama", false},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],"stream":true,"model":"llama"}`, "llama", true},
		{"/v1/completions", `{"model":"llama","prompt":"` + fill + `"}`, "llama", false},
		{"/v1/embeddings", " {\n\"model\" : \"mistr\\u0061l\" } ", "mistral", false},
		{"/v1/embeddings", `{"model":"a/b c"}`, "a/b c", false},
	} {
		for _, length := range []int{len(tt.body), -1} { // told, or chunked
			var body io.Reader = strings.NewReader(tt.body)
			if length < 0 {
				body = io.MultiReader(body)
			}
			status, text := d.post(tt.path, body)
			if want := fmt.Sprintf("%s %d %s", tt.path, length, tt.body); status != http.StatusOK || text != want {
				t.Errorf("%s: %d %.200s, want %.200s", tt.path, status, text, want)
			}
			got := pods.last()
			want := regions.Request{Model: tt.model, Client: got.Client, URI: tt.path, Frontend: regions.OpenAI, Replayable: true, Streams: tt.streams}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %+v, want %+v", tt.path, got, want)
			}
		}
	}
	counted, err := testutil.GatherAndFormat(d.reg, expfmt.TypeTextPlain, "rhumb_gateway_requests_total")
	for _, want := range []string{
		`{code="200",key="",model="llama",route="chat"} 4`, `{code="200",key="",model="llama",route="completions"} 2`,
		`{code="200",key="",model="mistral",route="embeddings"} 2`, `{code="200",key="",model="_other",route="embeddings"} 2`,
	} {
		if err != nil || !strings.Contains(string(counted), want) {
			t.Errorf("%s is missing in\n%s\n%v", want, counted, err)
		}
	}
}

func TestOpenAIRefuses(t *testing.T) {
	pods := &echo{}
	d := open(t, func(o *gateway.Options) { o.Forward = pods })
	fill := strings.Repeat("x", 64<<10)
	for _, tt := range []struct {
		body   string
		fields []string
		status int
		want   string
		param  string
	}{
		{`{"messages":[]}`, nil, 400, `must name its model`, "model"},
		{`{"model":""}`, nil, 400, `must name its model`, "model"},
		{`{"prompt":"` + fill + `","model":"llama"}`, nil, 400, "not within the first 64 KiB", "model"},
		{`{"model":"a","model":"b"}`, nil, 400, `"model" twice`, ""},
		{`{"model":7}`, nil, 400, "must be a string", ""},
		{`["llama"]`, nil, 400, "must be a JSON object", ""},
		{`{"model":"llama"`, nil, 400, "ends before its end", ""},
		{``, nil, 400, "ends before its end", ""},
		{`{"model":"llama"}`, []string{"Content-Encoding", "gzip"}, 415, "without Content-Encoding", ""},
		{`{"model":"llama"}`, []string{"Rhumb-Priority", "urgent"}, 400, "Rhumb-Priority: want high, normal or low", ""},
	} {
		status, text := d.post("/v1/chat/completions", strings.NewReader(tt.body), tt.fields...)
		var got struct {
			Error struct{ Message, Type, Param, Code string }
		}
		if err := json.Unmarshal([]byte(text), &got); err != nil || status != tt.status || got.Error.Type != "invalid_request_error" ||
			!strings.Contains(got.Error.Message, tt.want) || got.Error.Param != tt.param {
			t.Errorf("%.60s: %d %s, %v; want %d %s", tt.body, status, text, err, tt.status, tt.want)
		}
	}
	if n := len(pods.reqs); n != 0 {
		t.Errorf("%d were forwarded", n)
	}
	// What stands behind the first 64 KiB can't be answered beforehand, but goes no further.
	status, text := d.post("/v1/completions", strings.NewReader(`{"model":"llama","prompt":"`+fill+fill+`","model":"mistral"}`))
	if status != http.StatusBadRequest || !strings.Contains(text, `body: the body has "model" twice`) {
		t.Errorf("a second model far behind: %d %.100s", status, text)
	}
}

// TestKeysOfBodies: a key is for the models that bodies name, whatever else they say.
func TestKeysOfBodies(t *testing.T) {
	r, tokens := ring(t, keyring.Key{ID: "one", Models: []regions.ModelName{"llama"}})
	d := open(t, func(o *gateway.Options) { o.Policy.Keys, o.Forward = r, &echo{} })
	key := []string{"Authorization", "Bearer " + tokens[0]}
	for body, want := range map[string]int{
		`{"model":"llama"}`: 200, `{"model":"mistral"}`: 403, `{"model":"nobodys"}`: 403,
		`{"model":"llama","model":"mistral"}`: 400, `{"model":"mistral","mod\u0065l":"llama"}`: 400,
		`{"model":"llama","metadata":{"model":"mistral"}}`: 200,
	} {
		for path := range map[string]bool{"/v1/chat/completions": true, "/v1/completions": true, "/v1/embeddings": true} {
			if status, text := d.post(path, strings.NewReader(body), key...); status != want {
				t.Errorf("%s %s: %d %s, want %d", path, body, status, text, want)
			}
		}
	}
	// Who has no key is told the same, whatever was sent, before any of it is read.
	var first string
	for _, body := range []string{`{"model":"llama"}`, `{"model":"nobodys"}`, `rubbish`, ``} {
		status, text := d.post("/v1/chat/completions", strings.NewReader(body), "X-Api-Key", "rhumb_one_x")
		if first == "" {
			first = text
		}
		if status != http.StatusUnauthorized || text != first || !strings.Contains(text, "authentication_error") {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
}

func TestClassAndWait(t *testing.T) {
	r, tokens := ring(t, keyring.Key{ID: "low", Class: regions.ClassLow}, keyring.Key{ID: "plain"}, keyring.Key{ID: "high", Class: regions.ClassHigh})
	free, kept := &echo{}, &echo{}
	without := open(t, func(o *gateway.Options) { o.Forward = free })
	with := open(t, func(o *gateway.Options) { o.Forward, o.Policy.Keys = kept, r })
	for _, tt := range []struct {
		key    int // -1: the gateway has none
		fields []string
		class  regions.Class
		wait   time.Duration
		bad    string
	}{
		{-1, nil, regions.ClassNormal, 0, ""},
		{-1, []string{"Rhumb-Priority", "high"}, regions.ClassNormal, 0, ""},
		{-1, []string{"rhumb-priority", "low"}, regions.ClassLow, 0, ""},
		{0, nil, regions.ClassLow, 0, ""},
		{0, []string{"Rhumb-Priority", "high"}, regions.ClassLow, 0, ""},
		{1, nil, regions.ClassNormal, 0, ""},
		{1, []string{"Rhumb-Priority", "high"}, regions.ClassNormal, 0, ""},
		{1, []string{"Rhumb-Priority", "low"}, regions.ClassLow, 0, ""},
		{2, nil, regions.ClassHigh, 0, ""},
		{2, []string{"Rhumb-Priority", "normal"}, regions.ClassNormal, 0, ""},
		{2, []string{"Rhumb-Priority", "high"}, regions.ClassHigh, 0, ""},

		{-1, []string{"Rhumb-Max-Wait", "5s"}, 0, 5 * time.Second, ""},
		{-1, []string{"Rhumb-Max-Wait", "5"}, 0, 5 * time.Second, ""},
		{-1, []string{"Rhumb-Max-Wait", "0.25"}, 0, 250 * time.Millisecond, ""},
		{-1, []string{"Rhumb-Max-Wait", "0"}, 0, 1, ""},
		{-1, []string{"Rhumb-Max-Wait", "24h"}, 0, 24 * time.Hour, ""},
		{-1, []string{"Grpc-Timeout", "rubbish"}, 0, 0, ""}, // it says nothing over HTTP

		{-1, []string{"Rhumb-Priority", "HIGH"}, 0, 0, "Rhumb-Priority"},
		{-1, []string{"Rhumb-Priority", "low", "Rhumb-Priority", "high"}, 0, 0, "Rhumb-Priority"},
		{-1, []string{"Rhumb-Max-Wait", "-1"}, 0, 0, "Rhumb-Max-Wait"},
		{-1, []string{"Rhumb-Max-Wait", "soon"}, 0, 0, "Rhumb-Max-Wait"},
		{-1, []string{"Rhumb-Max-Wait", "NaN"}, 0, 0, "Rhumb-Max-Wait"},
		{-1, []string{"Rhumb-Max-Wait", "1e300"}, 0, 0, "Rhumb-Max-Wait"},
		{-1, []string{"Rhumb-Max-Wait", "25h"}, 0, 0, "Rhumb-Max-Wait"},
		{-1, []string{"Rhumb-Max-Wait", "1", "Rhumb-Max-Wait", "1"}, 0, 0, "Rhumb-Max-Wait"},
	} {
		d, pods, fields := without, free, tt.fields
		if tt.key >= 0 {
			d, pods, fields = with, kept, append([]string{"X-Api-Key", tokens[tt.key]}, fields...)
		}
		status, text := d.post("/v2/models/llama/generate", strings.NewReader("{}"), fields...)
		if tt.bad != "" {
			if status != http.StatusBadRequest || !strings.Contains(text, `{"error":"`+tt.bad+`: want `) {
				t.Errorf("%v: %d %s", tt.fields, status, text)
			}
			continue
		}
		if got := pods.last(); status != http.StatusOK || got.Class != tt.class || got.MaxWait != tt.wait {
			t.Errorf("key %d, %v: %d %s, class %v, wait %v; want %v, %v", tt.key, tt.fields, status, text, got.Class, got.MaxWait, tt.class, tt.wait)
		}
	}
}

func TestAffinity(t *testing.T) {
	r, tokens := ring(t, keyring.Key{ID: "team-a"})
	pods := &echo{}
	rules := map[regions.ModelName]regions.Affinity{
		"header": {By: "header", Name: "X-Session"}, "cookie": {By: "cookie", Name: "user"}, "key": {By: "key"},
		"uri": {By: "uri"}, "client": {By: "client"}, "prompt": {By: "prompt"},
	}
	d := open(t, func(o *gateway.Options) {
		o.Forward, o.Policy.Keys = pods, r
		o.Affinity = func(m regions.ModelName) regions.Affinity { return rules[m] }
	})
	long := strings.Repeat("x", 1<<20)
	for _, tt := range []struct{ path, body, want string }{
		{"/v2/models/none/generate", `{}`, ""},
		{"/v2/models/header/infer", `{}`, "s1"},
		{"/v2/models/cookie/generate", `{}`, "u1"},
		{"/v2/models/key/generate", `{}`, "team-a"},
		{"/v1/models/uri/generate?x=1", `{}`, "/v1/models/uri/generate?x=1"},
		{"/v2/models/client/generate", `{}`, "127.0.0.1"},
		{"/v2/models/prompt/generate", `{"text_input":"Once upon"}`, `"Once upon"`},
		{"/v2/models/prompt/generate_stream", `{"x":"` + long + `","text_input":"Once upon"}`, ``}, // too far behind
		{"/v2/models/prompt/generate", `{"text_input":"` + long + `"}`, `"` + long[:255]},
		{"/v2/models/prompt/generate", `{"text_input":"O`, `"O`}, // the pod's to refuse
		{"/v2/models/prompt/generate", `rubbish`, ``},
		{"/v2/models/prompt/generate", ``, ``},
		{"/v2/models/prompt/infer", `{"text_input":"Once upon"}`, ``},
		{"/v1/chat/completions", `{"model":"prompt","messages":[{"role":"user"}]}`, `[{"role":"user"}]`},
		{"/v1/completions", `{"prompt":"Once upon","model":"prompt"}`, `"Once upon"`},
		{"/v1/completions", `{"prompt":"Once upon","model":"none"}`, ``},
		{"/v1/completions", `{"prompt":"Once upon","model":"header"}`, `s1`},
	} {
		status, text := d.post(tt.path, strings.NewReader(tt.body), "X-Api-Key", tokens[0], "X-Session", "s1", "Cookie", "user=u1")
		if got := pods.last().Affinity; status != http.StatusOK || got != tt.want || !strings.HasSuffix(text, tt.body) {
			t.Errorf("%s %.50s: %d %.100s, affinity %q, want %q", tt.path, tt.body, status, text, got, tt.want)
		}
	}
}

// patient is a forwarder that waits for a minute before it wants the body.
type patient struct{ echo }

func (p *patient) Forward(w http.ResponseWriter, r *http.Request, req regions.Request) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	wait(time.Minute)
	p.echo.Forward(w, r, req)
}

// TestSlowHeads: a client that does not send what the gateway has to know is told so
// after a while, and one that goes on sending is waited for; and nobody waits for it
// while it is not read. Over both protocols.
func TestSlowHeads(t *testing.T) {
	for name, choose := range map[string]func(*http.Protocols){
		"1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"h2c": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				door := listenInMemory()
				way := &http.Transport{DialContext: door.dial, Protocols: new(http.Protocols)}
				choose(way.Protocols)
				server := gateway.NewServer(gateway.New(gateway.DefaultOptions(&patient{})), gateway.DefaultHeadLimits(), slog.New(slog.DiscardHandler))
				var g sync.WaitGroup
				g.Go(func() { _ = server.Serve(door) })
				send := func(parts int, pause time.Duration) (int, time.Duration) {
					in, out := io.Pipe()
					var sender sync.WaitGroup
					sender.Go(func() {
						_, _ = io.WriteString(out, `{"model":"llama","prompt":"`)
						for range parts {
							wait(pause)
							if _, err := io.WriteString(out, strings.Repeat("x", 1<<10)); err != nil {
								return
							}
						}
						if parts > 0 {
							_, _ = io.WriteString(out, `"}`)
							_ = out.Close()
						}
					})
					began := time.Now()
					r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gateway/v1/completions", in)
					if err != nil {
						t.Fatal(err)
					}
					res, err := (&http.Client{Transport: way}).Do(r)
					if err != nil {
						t.Fatal(err)
					}
					took := time.Since(began)
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					_ = in.Close()
					sender.Wait()
					return res.StatusCode, took
				}
				if status, took := send(0, 0); status != http.StatusRequestTimeout || took != 30*time.Second {
					t.Errorf("who says no more: %d after %v, want 408 after 30 s", status, took)
				}
				if status, took := send(10, 20*time.Second); status != http.StatusOK || took != 260*time.Second {
					t.Errorf("a slow one: %d after %v, want 200 after 260 s", status, took)
				}
				if status, took := send(200, 0); status != http.StatusOK || took != time.Minute {
					t.Errorf("a large one: %d after %v, want 200 after a minute", status, took)
				}
				if status, _ := send(1, 31*time.Second); status != http.StatusRequestTimeout {
					t.Errorf("one that is too slow: %d, want 408", status)
				}
				way.CloseIdleConnections()
				_ = server.Close()
				g.Wait()
				wait(time.Second)
			})
		})
	}
}
