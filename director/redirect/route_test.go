package redirect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

const theToken = "open sesame"

// world decides for eu-west, with three more behind it of which one is drained.
func world() *asked {
	a := euWest()
	at := func(host string, addrs ...string) []regions.Endpoint {
		e := regions.Endpoint{Scheme: "https", Host: host, Port: 443}
		for _, x := range addrs {
			e.Addrs = append(e.Addrs, netip.MustParseAddr(x))
		}
		return []regions.Endpoint{e}
	}
	a.choice.Candidates = append(a.choice.Candidates,
		director.Candidate{Region: "us-east", State: director.Draining, Reason: "drained", RTT: 80_000, Endpoints: at("us.example.com", "192.0.2.9")},
		director.Candidate{
			Region: "us-west", State: director.Degraded, Reason: "degraded: probes fail", RTT: 140_000, Wait: 2_500,
			Endpoints: append(at("us-west.example.com", "192.0.2.8", "2001:db8::8"), at("more.example.com", "192.0.2.88")...),
		},
		director.Candidate{Region: "ap-south", State: director.Lost, Reason: "lost: silent for 1h0m0s", RTT: 190_000, Endpoints: at("ap.example.com", "192.0.2.6")},
	)
	return a
}

// routeOptions trust loopback, so that the header says who asks.
func routeOptions(d Decider) Options {
	o := options(d)
	o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	o.Token = theToken
	return o
}

// route is a request of a client in Britain.
func route(method, query, header string) string {
	return method + " /v1/route" + query + " HTTP/1.1\r\nHost: route.inference.test\r\nX-Forwarded-For: 81.2.69.160\r\n" + header + "\r\n"
}

func TestRanking(t *testing.T) {
	const endpoints = `[
		{"region":"eu-west","url":"http://192.0.2.7:8080","addresses":["192.0.2.7"],"rtt_ms":12.345,"wait_ms":0,"state":"ready","reason":"nearest that can serve"},
		{"region":"us-west","url":"https://us-west.example.com:443","addresses":["192.0.2.8","2001:db8::8"],"rtt_ms":140,"wait_ms":2.5,"state":"degraded","reason":"degraded: probes fail"},
		{"region":"ap-south","url":"https://ap.example.com:443","addresses":["192.0.2.6"],"rtt_ms":190,"wait_ms":0,"state":"lost","reason":"lost: silent for 1h0m0s"}]`
	const named = `[
		{"region":"eu-west","url":"https://eu-west.route.inference.test:8443","addresses":["192.0.2.7"],"rtt_ms":12.345,"wait_ms":0,"state":"ready","reason":"nearest that can serve"},
		{"region":"us-west","url":"https://us-west.route.inference.test:8443","addresses":["192.0.2.8","2001:db8::8","192.0.2.88"],"rtt_ms":140,"wait_ms":2.5,"state":"degraded","reason":"degraded: probes fail"},
		{"region":"ap-south","url":"https://ap-south.route.inference.test:8443","addresses":["192.0.2.6"],"rtt_ms":190,"wait_ms":0,"state":"lost","reason":"lost: silent for 1h0m0s"}]`
	const head = `{"decision":"00c0ffee","model":"llama","client":"81.2.69.0/24","cell":"GB","ttl":20,`
	for _, c := range []struct {
		name     string
		location Location
		lost     bool
		want     string
		degraded string
	}{
		{"by endpoint", ByEndpoint, false, head + `"endpoints":` + endpoints + "}", ""},
		{"by name", ByName, false, head + `"endpoints":` + named + "}", ""},
		{"all lost", ByEndpoint, true, head + `"degraded":"all-lost","endpoints":` + endpoints + "}", "all-lost"},
	} {
		d := world()
		d.choice.AllLost = c.lost
		o := routeOptions(d)
		o.Location, o.Scheme, o.Port = c.location, "https", 8443
		res, body := ask(t, serve(t, o), route("GET", "?model=llama", ""))
		var want bytes.Buffer
		if err := json.Compact(&want, []byte(c.want)); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusOK || body != want.String()+"\n" {
			t.Errorf("%s: %s\n%s\nwant\n%s", c.name, res.Status, body, want.String())
		}
		for name, want := range map[string]string{
			"Rhumb-Decision": "00c0ffee", "Rhumb-Degraded": c.degraded, "Cache-Control": "no-store", "Location": "",
			"Content-Type": "application/json", "Retry-After": "", "X-Content-Type-Options": "nosniff",
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", c.name, name, got, want)
			}
		}
	}
}

// What the README shows has the fields that an answer has, all of them.
func TestRankingInTheReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```json\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the README has no example of an answer")
	}
	var shown ranking
	dec := json.NewDecoder(strings.NewReader(example))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&shown); err != nil {
		t.Fatal(err)
	}
	answer, err := json.Marshal(shown)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, []byte(example)); err != nil || want.String() != string(answer) {
		t.Errorf("an answer is\n%s\nthe README shows\n%s", answer, want.String())
	}
}

func TestModelOfARoute(t *testing.T) {
	for _, c := range []struct {
		name, query, host, header string
		want                      regions.ModelName
	}{
		{"query", "?model=mistral", "route.inference.test", "", "mistral"},
		{"query, escaped", "?x=1&model=my%20model%2Fbig", "route.inference.test", "", "my model/big"},
		{"query, twice", "?model=a&model=b", "route.inference.test", "", "a"},
		{"query before host and header", "?model=mistral", "llama.inference.test", "Rhumb-Model: other\r\n", "mistral"},
		{"host", "", "llama.inference.test", "", "Llama-3.1"},
		{"host, of an empty query", "?model=", "llama.inference.test", "", "Llama-3.1"},
		{"host before header", "", "llama.inference.test", "Rhumb-Model: other\r\n", "Llama-3.1"},
		{"host that nobody has", "", "gpt.inference.test", "", "gpt"},
		{"header", "", "route.inference.test", "Rhumb-Model: other\r\n", "other"},
		{"nothing", "", "route.inference.test", "", ""},
		{"unknown parameters", "?modell=x&MODEL=y&ttl=7", "route.inference.test", "", ""},
		{"no body is looked at", "", "route.inference.test", "Content-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"model\":\"llama\"}", ""},
	} {
		d := world()
		res, body := ask(t, serve(t, routeOptions(d)), "GET /v1/route"+c.query+" HTTP/1.1\r\nHost: "+c.host+"\r\n"+c.header+"\r\n")
		var got ranking
		if err := json.Unmarshal([]byte(body), &got); err != nil || res.StatusCode != http.StatusOK || got.Model != c.want {
			t.Errorf("%s: %s %s", c.name, res.Status, body)
		}
		if model, has, _ := d.last(); model != c.want || has != (c.want != "") {
			t.Errorf("%s: the model is %q (%v), want %q", c.name, model, has, c.want)
		}
	}
}

func TestWhoMayAskForWhom(t *testing.T) {
	const bearer = "Authorization: Bearer " + theToken + "\r\n"
	for _, c := range []struct {
		name, query, header string
		noToken             bool
		status              int
		client              string // that is decided for; empty if none is
		text                string
	}{
		{"oneself", "", "", false, 200, "81.2.69.160", ""},
		{"oneself by address", "?client=81.2.69.160", "", true, 200, "81.2.69.160", ""},
		{"a neighbour", "?client=81.2.69.7", "", true, 200, "81.2.69.7", ""},
		{"one's unit", "?client=81.2.69.0/24", "", true, 200, "81.2.69.0", ""},
		{"oneself in IPv6 form", "?client=::ffff:81.2.69.160", "", true, 200, "::ffff:81.2.69.160", ""},
		{"another with the token", "?client=8.8.8.8", bearer, false, 200, "8.8.8.8", ""},
		{"another in IPv6", "?client=2001:db8:1::7", bearer, false, 200, "2001:db8:1::7", ""},
		{"another's unit", "?client=2001:db8:1::/48", bearer, false, 200, "2001:db8:1::", ""},
		{"another without the token", "?client=8.8.8.8", "", false, 401, "", "Authorization: Bearer TOKEN"},
		{"another with a wrong token", "?client=8.8.8.8", "Authorization: Bearer open sesam\r\n", false, 401, "", "Authorization: Bearer TOKEN"},
		{"another with half a header", "?client=8.8.8.8", "Authorization: " + theToken + "\r\n", false, 401, "", "Authorization: Bearer TOKEN"},
		{"another with an empty token", "?client=8.8.8.8", "Authorization: Bearer \r\n", false, 401, "", "Authorization: Bearer TOKEN"},
		{"another, no token set", "?client=8.8.8.8", bearer, true, 403, "", "admin.token_file"},
		{"another, none set and none sent", "?client=8.8.8.8", "Authorization: Bearer \r\n", true, 403, "", "admin.token_file"},
		{"a word", "?client=britain", bearer, false, 400, "", "client=192.0.2.1"},
		{"nothing", "?client=", bearer, false, 400, "", "client=192.0.2.1"},
		{"a large network", "?client=81.0.0.0/8", bearer, false, 400, "", "/24 or /48"},
		{"a small network", "?client=81.2.69.0/25", bearer, false, 400, "", "/24 or /48"},
		{"an address of a network", "?client=81.2.69.160/24", bearer, false, 400, "", "/24 or /48"},
		{"a network in IPv6 form", "?client=::ffff:81.2.69.0/120", bearer, false, 400, "", "/24 or /48"},
		{"a bad query", "?client=8.8.8.8%zz", bearer, false, 400, "", "the query can't be read"},
		{"a semicolon", "?model=a;client=8.8.8.8", bearer, false, 400, "", "the query can't be read"},
	} {
		d := world()
		o := routeOptions(d)
		if c.noToken {
			o.Token = ""
		}
		res, body := ask(t, serve(t, o), route("GET", c.query, c.header))
		var got struct{ Error, Client string }
		if err := json.Unmarshal([]byte(body), &got); err != nil || res.StatusCode != c.status || !strings.Contains(got.Error, c.text) {
			t.Errorf("%s: %s %s", c.name, res.Status, body)
		}
		if (res.Header.Get("WWW-Authenticate") == "Bearer") != (c.status == 401) {
			t.Errorf("%s: header %v", c.name, res.Header)
		}
		_, _, client := d.last()
		if c.client == "" && d.times > 0 || c.client != "" && (client.String() != c.client || got.Client != regions.Unit(client).String()) {
			t.Errorf("%s: decided %d times, for %s, says %s", c.name, d.times, client, got.Client)
		}
	}
}

func TestRefusalsOfARoute(t *testing.T) {
	unnamed, drained := world(), world()
	for i := range unnamed.choice.Candidates {
		unnamed.choice.Candidates[i].Endpoints = nil
	}
	for i := range drained.choice.Candidates {
		drained.choice.Candidates[i].State = director.Draining
	}
	for _, c := range []struct {
		name        string
		decider     *asked
		status      int
		text        string
		least, most int // of Retry-After
	}{
		{"unknown model", &asked{err: fmt.Errorf("decide: %w", ErrUnknownModel)}, 404, `Request for unknown model: 'a"b' is not found`, 0, 0},
		{"drained", &asked{err: ErrBarred}, 503, "every region is drained; retry later", retryBarred, 3 * retryBarred},
		{"not ready", &asked{err: ErrNotReady}, 503, "nothing is known of the regions yet; retry later", retryNotReady, 3 * retryNotReady},
		{"no region has an endpoint", unnamed, 503, "nothing is known of the regions yet; retry later", retryNotReady, 3 * retryNotReady},
		{"only drained ones", drained, 503, "nothing is known of the regions yet; retry later", retryNotReady, 3 * retryNotReady},
	} {
		addr, drawn := serve(t, routeOptions(c.decider)), map[int]bool{}
		for range 30 {
			res, body := ask(t, addr, route("GET", "?model=a%22b", ""))
			var got struct{ Error string }
			if err := json.Unmarshal([]byte(body), &got); err != nil || got.Error != c.text || res.StatusCode != c.status {
				t.Fatalf("%s: %s %s", c.name, res.Status, body)
			}
			after, _ := strconv.Atoi(res.Header.Get("Retry-After"))
			if after < c.least || after > c.most || res.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: header %v, want to retry after %d to %d s", c.name, res.Header, c.least, c.most)
			}
			drawn[after] = true
		}
		if c.most > 0 && len(drawn) < 2 {
			t.Errorf("%s: 30 clients are told to come back in the same second", c.name)
		}
	}
}

// A region that can't be named is left out, and the next one is the first.
func TestRankingWithoutTheNameless(t *testing.T) {
	d := world()
	d.choice.Candidates[0].Region = "x/evil.example"
	o := routeOptions(d)
	o.Location = ByName
	res, body := ask(t, serve(t, o), route("GET", "", ""))
	var got ranking
	if err := json.Unmarshal([]byte(body), &got); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %v", res.Status, body, err)
	}
	if len(got.Endpoints) != 2 || got.Endpoints[0].Region != "us-west" || strings.Contains(body, "evil") {
		t.Error(body)
	}
}

func TestMethodsOfARoute(t *testing.T) {
	addr := serve(t, routeOptions(world()))
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"} {
		res, body := ask(t, addr, route(method, "?model=llama", "Content-Length: 0\r\n"))
		if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "GET, HEAD" || body != `{"error":"Method Not Allowed"}`+"\n" {
			t.Errorf("%s: %s %v %s", method, res.Status, res.Header, body)
		}
	}
	asks := func(method string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+"/v1/route", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{DisableKeepAlives: true}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res
	}
	res, head := asks(http.MethodGet), asks(http.MethodHead)
	for _, h := range []http.Header{res.Header, head.Header} {
		h.Del("Date")
	}
	if head.StatusCode != http.StatusOK || head.ContentLength != res.ContentLength || fmt.Sprint(head.Header) != fmt.Sprint(res.Header) {
		t.Errorf("HEAD: %s %v\nGET: %s %v", head.Status, head.Header, res.Status, res.Header)
	}
}

// Both families of loopback, without a proxy: the asker is the peer.
func TestRouteOverBothFamilies(t *testing.T) {
	for listen, unit := range map[string]string{"127.0.0.1:0": "127.0.0.0/24", "[::1]:0": "::/48"} {
		h, err := New(options(world()))
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(h)
		_ = s.Listener.Close()
		if s.Listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp", listen); err != nil {
			t.Fatal(err)
		}
		s.Start()
		for _, query := range []string{"", "?client=" + unit} {
			res, err := s.Client().Get(s.URL + "/v1/route" + query)
			if err != nil {
				t.Fatal(err)
			}
			var got ranking
			err = json.NewDecoder(res.Body).Decode(&got)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != http.StatusOK || got.Client.String() != unit {
				t.Errorf("%s%s: %s, client %s: %v", listen, query, res.Status, got.Client, err)
			}
		}
		s.Close()
	}
}

// A client whose address is not known is decided for all the same, but may ask
// for nobody else.
func TestRouteOfNobody(t *testing.T) {
	d := world()
	o := options(d)
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for query, status := range map[string]int{"": 200, "?client=192.0.2.1": 403} {
		r := httptest.NewRequest(http.MethodGet, "/v1/route"+query, http.NoBody)
		r.RemoteAddr = "@"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != status || status == 200 && !strings.Contains(w.Body.String(), `"client":""`) {
			t.Errorf("%q: %d %s", query, w.Code, w.Body)
		}
	}
}

func TestRoutesAreCounted(t *testing.T) {
	d := world()
	o := routeOptions(d)
	o.Registry = prometheus.NewRegistry()
	addr := serve(t, o)
	for _, request := range []string{
		route("GET", "?model=llama", ""), route("HEAD", "", "Rhumb-Model: llama\r\n"), route("POST", "", "Content-Length: 0\r\n"),
		route("GET", "?client=x", ""), route("GET", "?client=8.8.8.8", ""),
	} {
		conn := dial(t, addr, strings.Replace(request, "\r\n", "\r\nConnection: close\r\n", 1))
		if _, err := bytes.NewBuffer(nil).ReadFrom(conn); err != nil {
			t.Fatal(err)
		}
	}
	d.mu.Lock()
	d.err = ErrUnknownModel
	d.mu.Unlock()
	ask(t, addr, route("GET", "?model=gpt", ""))
	want := `
# HELP rhumb_redirect_requests_total Requests to the redirector, by what became of them and by what named the model.
# TYPE rhumb_redirect_requests_total counter
rhumb_redirect_requests_total{named_by="header",result="ranked"} 1
rhumb_redirect_requests_total{named_by="nothing",result="bad_method"} 1
rhumb_redirect_requests_total{named_by="nothing",result="bad_query"} 1
rhumb_redirect_requests_total{named_by="nothing",result="forbidden"} 1
rhumb_redirect_requests_total{named_by="query",result="ranked"} 1
rhumb_redirect_requests_total{named_by="query",result="unknown_model"} 1
`
	if err := testutil.GatherAndCompare(o.Registry, strings.NewReader(want), "rhumb_redirect_requests_total"); err != nil {
		t.Error(err)
	}
}
