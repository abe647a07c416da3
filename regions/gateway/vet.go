package gateway

import (
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
)

// maxFields is how many header fields a request may have. Browsers and SDKs
// send 10 to 30.
const maxFields = 100

// Deadlines of what the gateway itself reads and writes: its answers are small,
// and the server drains up to 256 KiB of a body that nobody read before it
// answers. The proxy sets its own for what it forwards.
const (
	ownWrite = 30 * time.Second
	ownRead  = 10 * time.Second
)

// health is where the paths begin that need no key and are answered always.
const health = "/v2/health/"

// overloaded refuses for want of memory. A client that comes again should come to
// another agent, so its connection ends. The time is short: clients' bodies, which
// hold the memory, last for seconds.
func overloaded() error {
	return &refusal{status: http.StatusServiceUnavailable, text: "the gateway is out of memory, try again", hangUp: true, retry: 1}
}

// bound gives the connection deadlines for this request, and has it closed
// after requests whose framing this code can't vouch for: the server reads a
// body that came with both Content-Length and Transfer-Encoding as chunked, and
// one with Transfer-Encoding over HTTP/1.0 as none, without saying so. What
// some other reader would take for the body's rest must then not be taken for
// the next request (RFC 9112 section 6.1 demands the close).
func bound(v *visit, r *http.Request) {
	ctl := http.NewResponseController(v)
	_ = ctl.SetWriteDeadline(time.Now().Add(ownWrite))
	if r.ContentLength != 0 {
		_ = ctl.SetReadDeadline(time.Now().Add(ownRead))
	}
	if r.ProtoMajor == 1 && (len(r.TransferEncoding) > 0 || r.ProtoMinor == 0) {
		v.Header().Set("Connection", "close")
	}
}

// vet checks a request's form and returns its path. Without memory for it a request
// is refused before anything of it is looked at, but for those for health: what asks
// them would restart the agent.
func vet(r *http.Request) (string, error) {
	if guard.Full(r.Context()) && !strings.HasPrefix(r.RequestURI, health) {
		return "", overloaded()
	}
	fields := 1 // Host, which the server has taken out
	for _, v := range r.Header {
		fields += len(v)
	}
	if fields > maxFields {
		return "", &refusal{status: http.StatusRequestHeaderFieldsTooLarge, text: "too many header fields", hangUp: true}
	}
	// The absolute form is for forward proxies. The server takes the host from
	// it and drops the Host field unseen, so that a difference can't be told.
	if !strings.HasPrefix(r.RequestURI, "/") {
		return "", badRequest("the request line must hold a path")
	}
	// Over HTTP/2 the host is in :authority, and Host beside it may differ (RFC 9113
	// section 8.3.1).
	if _, ok := r.Header["Host"]; ok {
		return "", badRequest("the host must be named once")
	}
	raw, _, _ := strings.Cut(r.RequestURI, "?")
	p, ok := normalize(raw)
	if !ok {
		return "", badRequest("the request's path must be in its simplest form")
	}
	return p, nil
}

// normalize decodes a raw path once and reports whether it is in its simplest
// form, in which every reader on the way to a pod sees the same path: without
// empty, "." and ".." segments, parameters (";"), backslashes, controls, encoded
// slashes and what a second decoding would change. A trailing slash stays: it is
// another path.
func normalize(raw string) (string, bool) {
	if lower := strings.ToLower(raw); strings.Contains(lower, "%2f") || strings.Contains(lower, "%5c") || strings.Contains(raw, "#") {
		return "", false
	}
	p, err := url.PathUnescape(raw)
	if err != nil || !utf8.ValidString(p) || !strings.HasPrefix(p, "/") {
		return "", false
	}
	for _, c := range p {
		if c < ' ' || c == 0x7f || c == ';' || c == '\\' || c == '%' {
			return "", false
		}
	}
	clean := path.Clean(p)
	if clean != "/" && strings.HasSuffix(p, "/") {
		clean += "/"
	}
	return p, clean == p
}
