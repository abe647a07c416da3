package redirect

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
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
