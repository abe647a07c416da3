package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

// net/http keeps a connection half a second after refusing a body, so that the
// client reads the answer; that goroutine ends by itself.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

func serve(t *testing.T, healthy func() error) (base string) {
	t.Helper()
	m := NewMux(prometheus.NewRegistry(), healthy, slog.New(slog.DiscardHandler))
	m.Handle("GET /api/v1/x/{id}", func(r *http.Request) (any, error) {
		switch id := r.PathValue("id"); id {
		case "none":
			return nil, NotFound("no x named %s", id)
		case "broken":
			return nil, errors.New("it broke")
		default:
			return map[string]string{"id": id}, nil
		}
	})
	m.Handle("POST /api/v1/x", func(r *http.Request) (any, error) {
		var in struct {
			Name string `json:"name"`
		}
		return &in, Read(r, &in)
	})
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return "http://" + l.Addr().String()
}

func TestCalls(t *testing.T) {
	base := serve(t, func() error { return nil })
	const asJSON = "application/json"
	tests := []struct {
		name, method, path, body, host, contentType string
		status                                      int
		want                                        string
	}{
		{name: "value", method: "GET", path: "/api/v1/x/7", status: 200, want: `{"id":"7"}`},
		{name: "not there", method: "GET", path: "/api/v1/x/none", status: 404, want: `{"error":"no x named none"}`},
		{name: "broken", method: "GET", path: "/api/v1/x/broken", status: 500, want: `{"error":"it broke"}`},
		{name: "post", method: "POST", path: "/api/v1/x", body: `{"name":"a"}`, contentType: asJSON, status: 200, want: `{"name":"a"}`},
		{name: "misspelt field", method: "POST", path: "/api/v1/x", body: `{"nmae":"a"}`, contentType: asJSON, status: 400, want: "nmae"},
		{name: "a form", method: "POST", path: "/api/v1/x", body: `{"name":"a"}`, contentType: "text/plain", status: 415},
		{name: "too large", method: "POST", path: "/api/v1/x", body: `{"name":"` + strings.Repeat("a", maxBody) + `"}`, contentType: asJSON, status: 400},
		{name: "a page's own name", method: "GET", path: "/api/v1/x/7", host: "evil.example", status: 403},
		{name: "localhost", method: "GET", path: "/api/v1/x/7", host: "localhost:80", status: 200},
		{name: "health", method: "GET", path: "/healthz", status: 200, want: "ok"},
		{name: "metrics", method: "GET", path: "/metrics", status: 200, want: "promhttp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, base+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = tt.host
			req.Header.Set("Content-Type", tt.contentType)
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
				t.Errorf("got %d %s, want %d %s", resp.StatusCode, body, tt.status, tt.want)
			}
			if resp.Header.Get("Content-Type") == asJSON && !json.Valid(body) {
				t.Errorf("not JSON: %s", body)
			}
		})
	}
}

func TestUnhealthy(t *testing.T) {
	base := serve(t, func() error { return errors.New("no plan yet") })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %d, %v", resp.StatusCode, err)
	}
}

func TestAddress(t *testing.T) {
	for _, ok := range []string{"127.0.0.1:8088", "[::1]:8088", "127.9.9.9:0"} {
		if err := CheckAddress(ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", ":8088", "0.0.0.0:8088", "localhost:8088", "192.0.2.1:8088", "[::]:1"} {
		if CheckAddress(bad) == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

// TestToken: with a token, only who has it is served, whatever the host is called;
// health is told to all. Another token counts at once.
func TestToken(t *testing.T) {
	m := NewMux(prometheus.NewRegistry(), func() error { return nil }, slog.New(slog.DiscardHandler))
	m.Handle("GET /api/v1/x", func(*http.Request) (any, error) { return "y", nil })
	ask := func(path, host, auth string) int {
		r := httptest.NewRequest(http.MethodGet, path, http.NoBody)
		r.Host = host
		if auth != "" {
			r.Header.Set("Authorization", auth)
		}
		w := httptest.NewRecorder()
		m.ServeHTTP(w, r)
		return w.Code
	}
	m.Set(Options{Token: "one"})
	for _, tt := range []struct {
		path, auth string
		want       int
	}{
		{"/api/v1/x", "", 401},
		{"/api/v1/x", "Bearer two", 401},
		{"/api/v1/x", "one", 401},
		{"/api/v1/x", "Bearer one", 200},
		{"/metrics", "", 401},
		{"/metrics", "Bearer one", 200},
		{"/healthz", "", 200},
	} {
		if got := ask(tt.path, "admin.example.com", tt.auth); got != tt.want {
			t.Errorf("%s with %q: %d, want %d", tt.path, tt.auth, got, tt.want)
		}
	}
	m.Set(Options{Token: "two"})
	if got := ask("/api/v1/x", "admin.example.com", "Bearer one"); got != 401 {
		t.Errorf("the old token: %d", got)
	}
	m.Set(Options{})
	if got := ask("/api/v1/x", "admin.example.com", ""); got != 403 {
		t.Errorf("without a token a name of somebody's own: %d", got)
	}
	if err := m.Check(Options{Listen: "0.0.0.0:1", Token: "one"}); err == nil {
		t.Error("a token without TLS opens the API to other machines")
	}
}
