package gateway

import (
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestNormalize(t *testing.T) {
	for raw, want := range map[string]string{
		"/v2":                          "/v2",
		"/v2/models/llama/ready":       "/v2/models/llama/ready",
		"/v2/models/my%20model":        "/v2/models/my model",
		"/v2/models/%6Clama":           "/v2/models/llama",
		"/v2/models/llama/":            "/v2/models/llama/",
		"/":                            "/",
		"/v2/models/%C3%A9":            "/v2/models/é",
		"/v2//models":                  "",
		"//v2":                         "",
		"//":                           "",
		"/../":                         "",
		"/v2/./models":                 "",
		"/v2/models/llama/../../x":     "",
		"/v2/models/%2e%2e/x":          "",
		"/v2/models/..%2fx":            "",
		"/v2/models/..%5Cx":            "",
		"/v2/models/%252e%252e":        "",
		"/v2/models/a;b":               "",
		"/v2/models/a%3Bb":             "",
		"/v2/models/a\\b":              "",
		"/v2/models/a%00b":             "",
		"/v2/models/a%0Ab":             "",
		"/v2/models/a%7Fb":             "",
		"/v2/models/a%FFb":             "",
		"/v2/models/a#b":               "",
		"/v2/models/a%zz":              "",
		"v2":                           "",
		"":                             "",
		"*":                            "",
		"http://other.example/v2":      "",
		"/v2/models/llama/generate/..": "",
	} {
		got, ok := normalize(raw)
		if ok != (want != "") || ok && got != want {
			t.Errorf("normalize(%q) = %q, %v; want %q", raw, got, ok, want)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	for _, seed := range []string{"/v2/models/llama/generate", "/v2/%2e%2e/x", "/a%252fb", "/a//b", "/a;b", "/%c0%ae%c0%ae/x", "/x/", "/.."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		p, ok := normalize(raw)
		if !ok {
			return
		}
		// Nothing is left that another reader could understand differently.
		if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "\\;%\x00\r\n") || strings.Contains(p, "//") {
			t.Fatalf("%q passed as %q", raw, p)
		}
		for _, segment := range strings.Split(p, "/") {
			if segment == "." || segment == ".." {
				t.Fatalf("%q passed as %q", raw, p)
			}
		}
		// It is a fixed point: of itself, of cleaning and of encoding again.
		if again, ok := normalize(p); strings.Contains(p, "#") == ok || ok && again != p {
			t.Fatalf("%q: normalize(%q) = %q, %v", raw, p, again, ok)
		}
		if clean := path.Clean(p); clean != strings.TrimSuffix(p, "/") && p != "/" {
			t.Fatalf("%q passed as %q, which cleans to %q", raw, p, clean)
		}
		encoded := (&url.URL{Path: p}).EscapedPath()
		if again, ok := normalize(encoded); !ok || again != p {
			t.Fatalf("%q: normalize(%q) = %q, %v; want %q", raw, encoded, again, ok, p)
		}
		// What is routed is inside of the allow-list, and says the same again.
		if r, err := parse("POST", p); err == nil && r.answer == nil {
			if !strings.HasPrefix(r.path(), "/v2/models/") || strings.Count(string(r.model), "/") != 0 {
				t.Fatalf("%q is routed to %q", raw, r.path())
			}
			if same, err := parse("POST", r.path()); err != nil || same.path() != r.path() {
				t.Fatalf("%q is routed to %q, which is routed to %q, %v", raw, r.path(), same.path(), err)
			}
		}
	})
}
