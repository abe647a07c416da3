package affinity_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/gateway/affinity"
)

func TestOf(t *testing.T) {
	req := httptest.NewRequest(http.MethodPost, "/v2/models/llama/generate?x=1", http.NoBody)
	req.Header.Set("X-Session", "s1")
	req.Header.Set("Cookie", "other=o; user=u1; user=u2")
	client := netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		rule affinity.Rule
		want string
	}{
		{affinity.Rule{}, ""},
		{affinity.Rule{By: affinity.Header, Name: "x-session"}, "s1"},
		{affinity.Rule{By: affinity.Header, Name: "X-None"}, ""},
		{affinity.Rule{By: affinity.Cookie, Name: "user"}, "u1"},
		{affinity.Rule{By: affinity.Cookie, Name: "none"}, ""},
		{affinity.Rule{By: affinity.Key}, "team-a"},
		{affinity.Rule{By: affinity.URI}, "/v2/models/llama/generate?x=1"},
		{affinity.Rule{By: affinity.Client}, "2001:db8::1"},
		{affinity.Rule{By: affinity.Prompt}, `"Once`},
	} {
		if _, err := tt.rule.Validate(); err != nil {
			t.Errorf("%+v: %v", tt.rule, err)
		}
		if got := tt.rule.Of(req, client, "team-a", []byte(`"Once`)); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.rule, got, tt.want)
		}
	}
	if got := (affinity.Rule{By: affinity.Client}).Of(req, netip.Addr{}, "", nil); got != "" {
		t.Errorf("no address: %q", got)
	}
}

func TestPromptBytes(t *testing.T) {
	for want, rule := range map[int]affinity.Rule{
		0: {By: affinity.Key}, affinity.DefaultPrompt: {By: affinity.Prompt}, 64: {By: affinity.Prompt, Bytes: 64},
	} {
		if got := rule.PromptBytes(); got != want {
			t.Errorf("%+v: %d, want %d", rule, got, want)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		rule          affinity.Rule
		setting, want string
	}{
		{affinity.Rule{By: "ip"}, "by", "write header, cookie, key, uri, client or prompt"},
		{affinity.Rule{By: affinity.Header}, "name", "give its name"},
		{affinity.Rule{By: affinity.Cookie, Name: "a b"}, "name", "cookie"},
		{affinity.Rule{By: affinity.URI, Name: "x"}, "name", "leave it out"},
		{affinity.Rule{By: affinity.Prompt, Bytes: 5000}, "bytes", "1 to 4096"},
		{affinity.Rule{By: affinity.Prompt, Bytes: -1}, "bytes", "1 to 4096"},
		{affinity.Rule{By: affinity.Key, Bytes: 64}, "bytes", "only a prompt"},
	} {
		setting, err := tt.rule.Validate()
		if err == nil || setting != tt.setting || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %s, %v; want %s, %s", tt.rule, setting, err, tt.setting, tt.want)
		}
	}
}
