package triton_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/triton"
)

func TestIndex(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   []triton.IndexEntry
		err    string
	}{
		{
			"three kinds", 200,
			`[{"name":"llama","version":"1","state":"READY"},{"name":"old","version":"1","state":"UNAVAILABLE","reason":"unloaded"},{"name":"never"}]`,
			[]triton.IndexEntry{
				{Name: "llama", Version: "1", State: triton.StateReady},
				{Name: "old", Version: "1", State: triton.StateUnavailable, Reason: "unloaded"},
				{Name: "never"},
			}, "",
		},
		{"empty repository", 200, `[]`, nil, ""},
		{"a member of a later release", 200, `[{"name":"a","colour":"red"}]`, []triton.IndexEntry{{Name: "a"}}, ""},
		{"no JSON", 200, `<html>`, nil, "want a JSON list of models"},
		{"no list", 200, `{"models":[]}`, nil, "want a JSON list of models"},
		{"no name", 200, `[{"name":"a"},{"version":"1"}]`, nil, "entry 2 has no name"},
		{"too long", 200, `["` + strings.Repeat("x", 2000) + `"]`, nil, "longer than 1000 bytes"},
		{"restricted", 403, `{"error":"This API is restricted"}`, nil, "This API is restricted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.Method != http.MethodPost || r.URL.Path != "/v2/repository/index" || string(body) != "{}" {
					t.Errorf("asked %s %s with %q", r.Method, r.URL.Path, body)
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			defer s.Close()
			o := triton.DefaultOptions()
			o.MaxBody = 1000
			got, err := triton.New(o).Index(t.Context(), netip.MustParseAddrPort(s.Listener.Addr().String()))
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			var status *triton.StatusError
			if errors.As(err, &status) != (c.status != 200) {
				t.Errorf("a status error exactly when the status is not 200: %v", err)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// canned is a connection that answers anything with the same bytes.
type canned struct {
	*strings.Reader
	rawConn
}

func (c canned) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func FuzzAnswer(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n[{\"name\":\"llama\"}\r\n1\r\n]\r\n0\r\n\r\n")
	f.Add("HTTP/1.1 400 Bad Request\r\n\r\n{\"error\":\"x\"}")
	f.Add("HTTP/1.1 200")
	f.Add("")
	f.Fuzz(func(t *testing.T, said string) {
		o := triton.DefaultOptions()
		o.Dial, o.MaxBody = dialCanned(said), 1<<10
		c, at := triton.New(o), netip.MustParseAddrPort("192.0.2.1:8000")
		sight, _, err := c.ModelReady(t.Context(), at, "llama")
		switch {
		case said == "" && sight != regions.SawClosed:
			t.Errorf("nothing said, saw %v", sight)
		case said != "" && sight != regions.SawReady && sight != regions.SawNotReady:
			t.Errorf("saw %v, %v", sight, err)
		case sight == regions.SawReady && !strings.HasPrefix(said, "HTTP/"):
			t.Errorf("ready by %q", said)
		case (err == nil) != (sight == regions.SawReady):
			t.Errorf("saw %v with error %v", sight, err)
		}
		entries, err := c.Index(t.Context(), at)
		for _, e := range entries {
			if e.Name == "" || err != nil {
				t.Errorf("entry %v with error %v", e, err)
			}
		}
	})
}
