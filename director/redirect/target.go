package redirect

import (
	"net/http"
	"net/url"
	"strings"
)

// target is what a request asks for, as the client spelled it: its spelling is
// carried on to the region, not what was understood of it.
type target struct {
	path  string
	query string // with its question mark, if there is one
}

// parseTarget takes the target from the request line. It is false for what has no
// path.
func parseTarget(r *http.Request) (target, bool) {
	raw := r.RequestURI
	if raw == "" { // made by a program, not read from a connection
		raw = r.URL.RequestURI()
	}
	if !strings.HasPrefix(raw, "/") { // absolute form (RFC 9112 section 3.2.2), or "*"
		_, rest, ok := strings.Cut(raw, "://")
		slash := strings.IndexByte(rest, '/')
		if !ok || slash < 0 {
			return target{}, false
		}
		raw = rest[slash:]
	}
	t := target{path: raw}
	if i := strings.IndexByte(raw, '?'); i >= 0 {
		t.path, t.query = raw[:i], raw[i:]
	}
	return t, true
}

// served says whether gateways serve the path: the paths of Triton that are for
// clients, and those of OpenAI. Triton's repository, shared memory, trace and
// logging settings are not. A path that is not in its simplest form (empty or
// dot segments, which clients resolve before they follow) is nobody's, and so is
// the director's own [routePath].
func (t target) served() bool {
	part := strings.Split(strings.TrimPrefix(t.path, "/"), "/")
	for _, p := range part {
		switch strings.ReplaceAll(strings.ToLower(p), "%2e", ".") {
		case "", ".", "..":
			return false
		}
	}
	switch part[0] {
	case "v1":
		return len(part) > 1 && t.path != routePath
	case "v2":
		return len(part) == 1 || len(part) > 2 && (part[1] == "models" || part[1] == "health")
	default:
		return false
	}
}

// model is the model that the path names: /v1/models/M... or /v2/models/M...
func (t target) model() string {
	part := strings.Split(t.path, "/")
	if len(part) < 4 || part[2] != "models" || t.path == "/v2/models/stats" {
		return ""
	}
	name, err := url.PathUnescape(part[3])
	if err != nil {
		return ""
	}
	return name
}

// carry is the target for a URL. What RFC 3986 allows in a path and a query is
// kept byte by byte. Other bytes are percent-encoded, which servers read alike: a
// "#" would cut the URL, browsers take a backslash for a slash, and a header
// holds no control characters.
func (t target) carry() string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, part := range []string{t.path, t.query} {
		for i := range len(part) {
			if c := part[i]; inURL(c) {
				b.WriteByte(c)
			} else {
				b.WriteByte('%')
				b.WriteByte(hex[c>>4])
				b.WriteByte(hex[c&15])
			}
		}
	}
	return b.String()
}

// inURL says whether a byte may stand in a path or query: RFC 3986 sections 2.2
// and 2.3, except "#", and with the percent sign of what is encoded already.
func inURL(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("-._~:/?[]@!$&'()*+,;=%", c) >= 0
}
