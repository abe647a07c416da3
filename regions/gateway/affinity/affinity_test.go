package affinity_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/affinity"
)

func TestOf(t *testing.T) {
	req := httptest.NewRequest(http.MethodPost, "/v2/models/llama/generate?x=1", http.NoBody)
	req.Header.Set("X-Session", "s1")
	req.Header.Set("Cookie", "other=o; user=u1; user=u2")
	client := netip.MustParseAddr("2001:db8::1")
	for text, want := range map[string]string{
		"": "", "header:x-session": "s1", "header:X-None": "", "cookie:user": "u1", "cookie:none": "", "key": "team-a",
		"uri": "/v2/models/llama/generate?x=1", "client": "2001:db8::1", "prompt": `"Once`,
	} {
		a, err := regions.ParseAffinity(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := affinity.Of(a, req, client, "team-a", []byte(`"Once`)); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
		if affinity.Wants(a) != (text == "prompt") {
			t.Errorf("%s wants a prompt: %v", text, affinity.Wants(a))
		}
	}
	if got := affinity.Of(regions.Affinity{By: "client"}, req, netip.Addr{}, "", nil); got != "" {
		t.Errorf("no address: %q", got)
	}
}
