package proxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestMetadataIsNoServing: a pod that answers questions for metadata has not shown
// that it generates.
func TestMetadataIsNoServing(t *testing.T) {
	pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(pod.Close)
	g := newRig(t, nil, strings.TrimPrefix(pod.URL, "http://"))
	for i, c := range []struct {
		fields []string
		want   []string
	}{{[]string{"Test-Aside", "yes"}, nil}, {nil, []string{"a:served"}}} {
		if res, _, err := g.post("/v2/models/llama/generate", "{}", c.fields...); err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %v", i+1, err)
		}
		if got := g.saw(); !slices.Equal(got, c.want) {
			t.Errorf("after request %d: saw %v, want %v", i+1, got, c.want)
		}
	}
}
