package redirect

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// FuzzRequest throws whole requests at the handler: whatever they say, a
// location stays at the region and holds what the client asked for.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET /v2/models/llama/ready?x=1 HTTP/1.1\r\nHost: route.inference.test\r\n\r\n",
		"GET //evil.example/v2/models/a HTTP/1.1\r\nHost: llama.inference.test:80\r\n\r\n",
		"GET http://evil.example/v2/models/a%2f..%5cb HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4, [::1]:5\r\nContent-Length: 15\r\n\r\n{\"model\":\"a\"}  ",
		"POST /v1/\\..\\x#y HTTP/1.0\r\nRhumb-Model: x\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	byEndpoint, byName := options(euWest()), options(euWest())
	byName.Location = ByName
	var handlers []*Handler
	for _, o := range []Options{byEndpoint, byName} {
		h, err := New(o)
		if err != nil {
			f.Fatal(err)
		}
		handlers = append(handlers, h)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for i, host := range []string{"192.0.2.7:8080", "eu-west.route.inference.test"} {
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
			if err != nil {
				return
			}
			r.RemoteAddr = "127.0.0.1:1"
			w := httptest.NewRecorder()
			handlers[i].ServeHTTP(w, r)
			checkLocation(t, r, w, host)
		}
	})
}

func checkLocation(t *testing.T, r *http.Request, w *httptest.ResponseRecorder, host string) {
	t.Helper()
	location := w.Header().Get("Location")
	if (w.Code == http.StatusTemporaryRedirect) != (location != "") {
		t.Fatalf("status %d with the location %q", w.Code, location)
	}
	if location == "" {
		return
	}
	u, err := url.Parse(location)
	if err != nil {
		t.Fatalf("the location %q is no URL: %v", location, err)
	}
	if u.Host != host || u.User != nil || u.Fragment != "" || !strings.HasPrefix(u.Path, "/v1/") && u.Path != "/v2" && !strings.HasPrefix(u.Path, "/v2/") {
		t.Fatalf("the location %q of %q leads astray", location, r.RequestURI)
	}
	if resolved := (&url.URL{Scheme: "http", Host: "x"}).ResolveReference(u); resolved.Path != u.Path {
		t.Fatalf("the location %q of %q is %q to who resolves it", location, r.RequestURI, resolved.Path)
	}
	if u.Path != r.URL.Path {
		t.Fatalf("the path of %q became %q", r.RequestURI, u.Path)
	}
	for _, c := range []byte(location) {
		if c <= ' ' || c >= 0x7f || c == '\\' {
			t.Fatalf("the location %q has the byte %#x", location, c)
		}
	}
}

// FuzzRoute asks with any query, host and credentials: nobody is decided for but
// the asker without the token, every answer is JSON, and no address leads astray.
func FuzzRoute(f *testing.F) {
	for _, seed := range []struct{ query, host, auth string }{
		{"model=llama", "route.inference.test", ""},
		{"client=8.8.8.8", "llama.inference.test", "Bearer " + theToken},
		{"client=81.2.69.0/24&model=a%22b", "x", "Bearer "},
		{"client=fe80::1%25eth0", "", ""},
		{"client=::ffff:8.8.8.0/120&client=1.1.1.1", "", "Bearer " + theToken},
		{"a;b&%zz", "[::1]:80", "Basic eDp5"},
	} {
		f.Add(seed.query, seed.host, seed.auth)
	}
	d := world()
	o := routeOptions(d)
	o.Location = ByName
	h, err := New(o)
	if err != nil {
		f.Fatal(err)
	}
	statuses := []int{http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized}
	own := regions.Unit(netip.MustParseAddr("81.2.69.160"))
	f.Fuzz(func(t *testing.T, query, host, auth string) {
		d.client = netip.Addr{}
		r := &http.Request{
			Method: http.MethodGet, Host: host, RemoteAddr: "81.2.69.160:4711", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			URL: &url.URL{Path: "/v1/route", RawQuery: query}, Header: http.Header{"Authorization": {auth}},
		}
		r.RequestURI = "/v1/route?" + query
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var got ranking
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || !slices.Contains(statuses, w.Code) {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		decided := regions.Unit(d.client)
		if (w.Code == http.StatusOK) != decided.IsValid() || decided.IsValid() && decided != own && auth != "Bearer "+theToken {
			t.Fatalf("%d for %s, who sent %q", w.Code, decided, auth)
		}
		for _, e := range got.Endpoints {
			if e.URL != "https://"+string(e.Region)+".route.inference.test" || got.Client != decided || got.TTL != int64(d.choice.TTL/time.Second) {
				t.Fatalf("%+v", got)
			}
		}
	})
}
