package redirect

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/peek"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asked records what the handler asks, and answers as told.
type asked struct {
	mu     sync.Mutex
	model  regions.ModelName
	has    bool
	client netip.Addr
	times  int
	choice director.Decision
	err    error
}

func (a *asked) Decide(model regions.ModelName, hasModel bool, client netip.Addr) (director.Decision, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.model, a.has, a.client = model, hasModel, client
	a.times++
	d := a.choice
	d.Model, d.Client = model, regions.Client{Unit: regions.Unit(client), Cell: "GB"}
	return d, a.err
}

func (a *asked) last() (regions.ModelName, bool, netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.model, a.has, a.client
}

func euWest() *asked {
	return &asked{choice: director.Decision{ID: "00c0ffee", TTL: 20 * time.Second, Candidates: []director.Candidate{{
		Region: "eu-west", State: director.Ready, Reason: "nearest that can serve", RTT: 12_345,
		Endpoints: []regions.Endpoint{{Scheme: "http", Host: "192.0.2.7", Port: 8080, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}},
	}}}}
}

// options are what tests start from.
func options(d Decider) Options {
	o := DefaultOptions()
	o.Zone, o.Location, o.Decider = "inference.test", ByEndpoint, d
	o.Labels = func(label string) (regions.ModelName, bool) {
		m, ok := map[string]regions.ModelName{"llama": "Llama-3.1", "mistral": "mistral"}[label]
		return m, ok
	}
	return o
}

// serve starts a redirector on loopback and gives its address.
func serve(tb testing.TB, o Options) string {
	tb.Helper()
	h, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	s := httptest.NewServer(h)
	tb.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// dial sends the bytes of a request and leaves the connection open.
func dial(tb testing.TB, addr, request string) net.Conn {
	tb.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		tb.Fatal(err)
	}
	return conn
}

// read takes the next answer from a connection, with its body.
func read(tb testing.TB, from *bufio.Reader) (*http.Response, string) {
	tb.Helper()
	res, err := http.ReadResponse(from, nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return res, string(body)
}

func ask(tb testing.TB, addr, request string) (*http.Response, string) {
	tb.Helper()
	return read(tb, bufio.NewReader(dial(tb, addr, request)))
}

// post is a request with a body.
func post(path, header, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: route.inference.test\r\n%sContent-Length: %d\r\n\r\n%s", path, header, len(body), body)
}

func TestModelIsNamedByPathHostHeaderOrBody(t *testing.T) {
	get := func(path, host, header string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + header + "\r\n"
	}
	const jsonType, host = "Content-Type: application/json\r\n", "route.inference.test"
	filler := strings.Repeat("x", peek.Most)
	for _, c := range []struct {
		name, request string
		want          regions.ModelName
	}{
		{"path", get("/v2/models/mistral/ready", host, ""), "mistral"},
		{"path of v1", get("/v1/models/mistral", host, ""), "mistral"},
		{"path, with a version", get("/v2/models/mistral/versions/3/ready", host, ""), "mistral"},
		{"path, escaped", get("/v2/models/my%20model%2Fbig/ready", host, ""), "my model/big"},
		{"path before host and header", get("/v2/models/mistral", "llama.inference.test", "Rhumb-Model: other\r\n"), "mistral"},
		{"host", get("/v1/completions", "llama.inference.test", ""), "Llama-3.1"},
		{"host, with port, dot and capitals", get("/v1/completions", "LLaMA.Inference.Test.:8080", ""), "Llama-3.1"},
		{"host before header", get("/v1/completions", "llama.inference.test", "Rhumb-Model: other\r\n"), "Llama-3.1"},
		{"host that is no model's", get("/v1/completions", "route.inference.test", ""), ""},
		{"host outside of the zone", get("/v1/completions", "llama.example.com", ""), ""},
		{"host deeper in the zone", get("/v1/completions", "llama.route.inference.test", ""), ""},
		{"header", get("/v1/completions", host, "Rhumb-Model:  other \r\n"), "other"},
		{"header before body", post("/v1/completions", jsonType+"Rhumb-Model: other\r\n", `{"model":"llama"}`), "other"},
		{"body", post("/v1/completions", jsonType, `{"model":"llama"}`), "llama"},
		{"body, with a charset", post("/v1/completions", "Content-Type: application/json; charset=utf-8\r\n", `{"model":"llama"}`), "llama"},
		{"body, without a type", post("/v1/completions", "", `{"model":"llama"}`), "llama"},
		{"body, late", post("/v1/completions", jsonType, `{"n":1,"messages":[{"model":"inner"}],"model":"llama"}`), "llama"},
		{"body, too late", post("/v1/completions", jsonType, `{"prompt":"`+filler+`","model":"llama"}`), ""},
		{"body of another type", post("/v1/completions", "Content-Type: text/plain\r\n", `{"model":"llama"}`), ""},
		{"body, compressed", post("/v1/completions", jsonType+"Content-Encoding: gzip\r\n", `{"model":"llama"}`), ""},
		{"body, a number", post("/v1/completions", jsonType, `{"model":7}`), ""},
		{"body, an object", post("/v1/completions", jsonType, `{"model":{"model":"llama"}}`), ""},
		{"body, a list", post("/v1/completions", jsonType, `["model","llama"]`), ""},
		{"body, cut", post("/v1/completions", jsonType, `{"model":"ll`), ""},
		{"body, empty", post("/v1/completions", jsonType, ``), ""},
		{"nothing", get("/v1/models", host, ""), ""},
		{"statistics of all models", get("/v2/models/stats", host, ""), ""},
	} {
		d := euWest()
		res, body := ask(t, serve(t, options(d)), c.request)
		if res.StatusCode != http.StatusTemporaryRedirect {
			t.Errorf("%s: %s %s", c.name, res.Status, body)
		}
		if model, has, _ := d.last(); model != c.want || has != (c.want != "") {
			t.Errorf("%s: the model is %q (%v), want %q", c.name, model, has, c.want)
		}
	}
}

func TestAnswerOfARedirect(t *testing.T) {
	d := euWest()
	res, body := ask(t, serve(t, options(d)), post("/v2/models/llama/generate?a=%2F&b", "", "{}"))
	for name, want := range map[string]string{
		"Location":       "http://192.0.2.7:8080/v2/models/llama/generate?a=%2F&b",
		"Rhumb-Decision": "00c0ffee", "Rhumb-Degraded": "", "Cache-Control": "no-store",
		"Content-Type": "application/json", "Retry-After": "",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if body != `{"region":"eu-west"}`+"\n" || res.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("%s %s", res.Status, body)
	}
	d.choice.AllLost = true
	res, _ = ask(t, serve(t, options(d)), post("/v2/models/llama/generate", "", "{}"))
	if res.StatusCode != http.StatusTemporaryRedirect || res.Header.Get("Rhumb-Degraded") != "all-lost" {
		t.Errorf("with all lost: %s, degraded %q", res.Status, res.Header.Get("Rhumb-Degraded"))
	}
}

func TestLocationByName(t *testing.T) {
	for _, c := range []struct {
		zone, scheme string
		port         uint16
		want         string
	}{
		{"inference.test", "https", 0, "https://eu-west.route.inference.test/v2/models/m/infer"},
		{"Inference.Test.", "https", 443, "https://eu-west.route.inference.test/v2/models/m/infer"},
		{"inference.test", "http", 80, "http://eu-west.route.inference.test/v2/models/m/infer"},
		{"inference.test", "http", 8080, "http://eu-west.route.inference.test:8080/v2/models/m/infer"},
		{"inference.test", "https", 80, "https://eu-west.route.inference.test:80/v2/models/m/infer"},
	} {
		o := options(euWest())
		o.Zone, o.Location, o.Scheme, o.Port = c.zone, ByName, c.scheme, c.port
		for _, host := range []string{"route.inference.test", "evil.example", "127.0.0.1:8080", ""} {
			res, _ := ask(t, serve(t, o), "GET /v2/models/m/infer HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
			if got := res.Header.Get("Location"); got != c.want {
				t.Errorf("for the host %q: %q, want %q", host, got, c.want)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	noRegion, noEndpoint := euWest(), euWest()
	noRegion.choice.Candidates[0].Region = "x/evil.example"
	noEndpoint.choice.Candidates[0].Endpoints = nil
	for _, c := range []struct {
		name        string
		decider     *asked
		location    Location
		status      int
		text        string
		least, most int // of Retry-After
	}{
		{"unknown model", &asked{err: fmt.Errorf("decide: %w", ErrUnknownModel)}, ByName, 404, `Request for unknown model: 'a"b' is not found`, 0, 0},
		{"drained", &asked{err: ErrBarred}, ByName, 503, "every region is drained; retry later", retryBarred, 3 * retryBarred},
		{"not ready", &asked{err: ErrNotReady}, ByName, 503, "nothing is known of the regions yet; retry later", retryNotReady, 3 * retryNotReady},
		{"another error", &asked{err: errors.New("disk on fire")}, ByName, 503, "nothing is known of the regions yet; retry later", retryNotReady, 3 * retryNotReady},
		{"a region that is no name", noRegion, ByName, 503, "nothing is known of the regions yet; retry later", retryNotReady, 3 * retryNotReady},
		{"a region without an endpoint", noEndpoint, ByEndpoint, 503, "nothing is known of the regions yet; retry later", retryNotReady, 3 * retryNotReady},
	} {
		o := options(c.decider)
		o.Location = c.location
		addr := serve(t, o)
		drawn := map[int]bool{}
		for range 30 {
			res, body := ask(t, addr, "GET /v2/models/a%22b/ready HTTP/1.1\r\nHost: x\r\n\r\n")
			var got struct{ Error string }
			if err := json.Unmarshal([]byte(body), &got); err != nil || got.Error != c.text || res.StatusCode != c.status {
				t.Fatalf("%s: %s %s", c.name, res.Status, body)
			}
			if res.Header.Get("Location") != "" || res.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: header %v", c.name, res.Header)
			}
			after, _ := strconv.Atoi(res.Header.Get("Retry-After"))
			if after < c.least || after > c.most {
				t.Errorf("%s: retry after %d s, want %d to %d", c.name, after, c.least, c.most)
			}
			drawn[after] = true
		}
		if c.most > 0 && len(drawn) < 2 {
			t.Errorf("%s: 30 clients are told to come back in the same second", c.name)
		}
	}
}

// What a client writes must not get out of the region's address.
func TestNoTargetLeadsAstray(t *testing.T) {
	const base = "http://192.0.2.7:8080"
	addr := serve(t, options(euWest()))
	for target, want := range map[string]string{
		"/v2/models/llama/generate":               base + "/v2/models/llama/generate",
		"/v2":                                     base + "/v2",
		"/v2/health/ready":                        base + "/v2/health/ready",
		"/v1/chat/completions":                    base + "/v1/chat/completions",
		"/v1/models?x=//evil.example":             base + "/v1/models?x=//evil.example",
		"/v1/models?u=%0d%0aSet-Cookie:a=b":       base + "/v1/models?u=%0d%0aSet-Cookie:a=b",
		"/v1/models?q=a+b&&c=%zz":                 base + "/v1/models?q=a+b&&c=%zz",
		"/v1/models?":                             base + "/v1/models?",
		"/v1/models?a?b":                          base + "/v1/models?a?b",
		"/v2/models/a%2fb/generate":               base + "/v2/models/a%2fb/generate",
		"/v2/models/a;v=1,2/generate":             base + "/v2/models/a;v=1,2/generate",
		"/v2/models/@evil.example/generate":       base + "/v2/models/@evil.example/generate",
		"/v2/models/ü/generate":                   base + "/v2/models/%C3%BC/generate",
		`/v2/models/..\..\evil/generate`:          base + "/v2/models/..%5C..%5Cevil/generate",
		"/v2/models/a#b/generate":                 base + "/v2/models/a%23b/generate",
		`/v2/models/"<a>/generate`:                base + "/v2/models/%22%3Ca%3E/generate",
		"http://evil.example/v2/models/a/infer":   base + "/v2/models/a/infer",
		"http://evil.example//evil/v2":            "",
		"http://evil.example":                     "",
		"//evil.example/v2/models/a/infer":        "",
		"///evil.example":                         "",
		`/\evil.example`:                          "",
		`\\evil.example`:                          "",
		"/v2//evil.example":                       "",
		"/v2/../admin":                            "",
		"/v2/models/../../admin":                  "",
		"/v2/models/%2e%2E/admin":                 "",
		"/v2/models/.%2e/admin":                   "",
		"/v2/models/./a":                          "",
		"/v2/models/a/":                           "",
		"/v2/models":                              "",
		"/v2/repository/index":                    "",
		"/v2/repository/models/a/load":            "",
		"/v2/systemsharedmemory/status":           "",
		"/v2/logging":                             "",
		"/v2/trace/setting":                       "",
		"/v1":                                     "",
		"/v1/":                                    "",
		"/V2/models/a":                            "",
		"/v22/models/a":                           "",
		"/":                                       "",
		"/metrics":                                "",
		"/healthz":                                "",
		"/rhumb/status":                           "",
		"*":                                       "",
		"/v1/models\tx":                           "", // refused by net/http
		"/v1/models%":                             "", // refused by net/http
		"/v1/models\r\nLocation: //evil.example/": "", // the line break cuts the request line
	} {
		method := "GET"
		if target == "*" {
			method = "OPTIONS"
		}
		res, _ := ask(t, addr, method+" "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if got := res.Header.Values("Location"); want == "" && got != nil || want != "" && (len(got) != 1 || got[0] != want) {
			t.Errorf("%q: location %q, want %q", target, got, want)
		}
		if want == "" && res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusBadRequest && target != "*" {
			t.Errorf("%q: %s", target, res.Status)
		}
	}
}

func TestClientIsThePeerOrWhomProxiesName(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::ffff:10.0.0.0/104"), netip.MustParsePrefix("2001:db8::/32")}
	for _, c := range []struct {
		name    string
		trusted []netip.Prefix
		header  string
		want    string
	}{
		{"nobody is trusted", nil, "X-Forwarded-For: 81.2.69.1\r\n", "127.0.0.1"},
		{"no header", trusted, "", "127.0.0.1"},
		{"one proxy", trusted, "X-Forwarded-For: 81.2.69.1\r\n", "81.2.69.1"},
		{"the client's own claim", trusted, "X-Forwarded-For: 8.8.8.8, 81.2.69.1\r\n", "81.2.69.1"},
		{"two proxies", trusted, "X-Forwarded-For: 8.8.8.8, 81.2.69.1, 10.1.2.3\r\n", "81.2.69.1"},
		{"two fields", trusted, "X-Forwarded-For: 81.2.69.1\r\nX-Forwarded-For: 10.1.2.3\r\n", "81.2.69.1"},
		{"all are proxies", trusted, "X-Forwarded-For: 10.9.9.9,10.1.2.3\r\n", "10.9.9.9"},
		{"a word that is none", trusted, "X-Forwarded-For: 81.2.69.1, unknown, 10.1.2.3\r\n", "10.1.2.3"},
		{"an empty field", trusted, "X-Forwarded-For:\r\n", "127.0.0.1"},
		{"with a port", trusted, "X-Forwarded-For: 81.2.69.1:4711\r\n", "81.2.69.1"},
		{"IPv6", trusted, "X-Forwarded-For: 2a00:1450::1, 2001:db8::1\r\n", "2a00:1450::1"},
		{"IPv6 in brackets", trusted, "X-Forwarded-For: [2a00:1450::1]\r\n", "2a00:1450::1"},
		{"IPv6 with a port", trusted, "X-Forwarded-For: [2a00:1450::1]:4711\r\n", "2a00:1450::1"},
		{"IPv4 in IPv6 form", trusted, "X-Forwarded-For: ::ffff:81.2.69.1\r\n", "81.2.69.1"},
	} {
		d := euWest()
		o := options(d)
		o.TrustedProxies = c.trusted
		ask(t, serve(t, o), "GET /v1/models HTTP/1.1\r\nHost: x\r\n"+c.header+"\r\n")
		if _, _, client := d.last(); client.String() != c.want {
			t.Errorf("%s: %s, want %s", c.name, client, c.want)
		}
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"decider":  func(o *Options) { o.Decider = nil },
		"zone":     func(o *Options) { o.Zone = "a/b" },
		"location": func(o *Options) { o.Location = "there" },
		"scheme":   func(o *Options) { o.Scheme = "ftp" },
	} {
		o := options(euWest())
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}

func TestHandlersShareMetrics(t *testing.T) {
	o := options(euWest())
	o.Registry = prometheus.NewRegistry()
	for range 2 {
		ask(t, serve(t, o), "GET /v2/models/llama HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	ask(t, serve(t, o), "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
	want := `
# HELP rhumb_redirect_requests_total Requests to the redirector, by what became of them and by what named the model.
# TYPE rhumb_redirect_requests_total counter
rhumb_redirect_requests_total{named_by="nothing",result="not_found"} 1
rhumb_redirect_requests_total{named_by="path",result="redirected"} 2
`
	if err := testutil.GatherAndCompare(o.Registry, strings.NewReader(want), "rhumb_redirect_requests_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(o.Registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
