package proxy

import (
	"cmp"
	"mime"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strings"

	"github.com/rhumb-lb/rhumb/regions"
)

// connectionOptions are what Connection may name: fields that concern one hop
// anyway (RFC 9110 section 7.6.1). Naming any other field would have a proxy on
// the way drop it, Authorization or X-Forwarded-For for example.
var connectionOptions = map[string]bool{
	"close": true, "keep-alive": true, "upgrade": true, "te": true,
	"trailer": true, "http2-settings": true, "proxy-connection": true,
}

// checkFields refuses header fields that mean to deceive somebody on the way.
func checkFields(h http.Header) error {
	for _, v := range h["Connection"] {
		for option := range strings.SplitSeq(v, ",") {
			option = strings.ToLower(textproto.TrimString(option))
			if option != "" && !connectionOptions[option] {
				return &fieldError{http.StatusBadRequest, "Connection names a field that is not for one hop only: send it without"}
			}
		}
	}
	// The server answers anything that contains 100-continue with a 100; other
	// expectations can't be met by a pod (RFC 9110 section 10.1.1).
	if v, ok := h["Expect"]; ok && (len(v) != 1 || !strings.EqualFold(textproto.TrimString(v[0]), "100-continue")) {
		return &fieldError{http.StatusExpectationFailed, "only Expect: 100-continue is understood"}
	}
	return nil
}

var idempotent = [...]string{"Idempotency-Key", "X-Idempotency-Key"}

// rewrite makes the request that goes out. The place is filled in by each
// attempt.
func (x *exchange) rewrite(pr *httputil.ProxyRequest) {
	h := pr.Out.Header
	// Our server sends the 100 when the body is first read.
	h.Del("Expect")
	call := x.req.Frontend == regions.GRPC
	for _, name := range idempotent {
		// These let a client make the transport send a POST twice. Calls have any
		// metadata; the transport does not know a name that is written like this.
		if v, ok := h[name]; ok && call {
			h[strings.ToLower(name)] = v
		}
		delete(h, name)
	}
	for name := range h {
		// Many servers of HTTP/1.1 read X_Forwarded_For as X-Forwarded-For.
		if strings.HasPrefix(name, "Rhumb-") || strings.Contains(name, "_") && !call {
			delete(h, name)
		}
	}
	if x.req.Client.IsValid() {
		h.Set("X-Forwarded-For", x.req.Client.Unmap().WithZone("").String())
	}
	proto := "http"
	if pr.In.TLS != nil {
		proto = "https"
	}
	h.Set("X-Forwarded-Proto", cmp.Or(pr.In.Header.Get("X-Forwarded-Proto"), proto))
	h.Set("X-Forwarded-Host", cmp.Or(pr.In.Header.Get("X-Forwarded-Host"), pr.In.Host))
}

// answer vets the head of an answer and puts Rhumb's fields to it.
func (x *exchange) answer(res *http.Response) error {
	a := x.current
	if a.place.pod != "" {
		for name := range res.Header {
			if strings.HasPrefix(name, "Rhumb-") {
				delete(res.Header, name)
			}
		}
		for name := range res.Trailer {
			if strings.HasPrefix(name, "Rhumb-") && name != ResumedHeader {
				delete(res.Trailer, name)
			}
		}
		x.hearLoad(res.Header)
		res.Header.Set(RegionHeader, string(x.proxy.opts.Region))
		if x.proxy.opts.ExposePod {
			res.Header.Set(PodHeader, string(a.place.pod))
		}
	}
	if kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); kind == "text/event-stream" {
		// Proxies between us and the client must not gather or squeeze events.
		res.Header.Set("X-Accel-Buffering", "no")
		if res.Header.Get("Cache-Control") == "" {
			res.Header.Set("Cache-Control", "no-transform")
		}
	}
	return nil
}

// hearLoad passes on what a pod says of its load. It was asked by us, and the client
// hears it only if it asked too.
func (x *exchange) hearLoad(h http.Header) {
	report := h.Get(loadHeader)
	if report == "" || x.proxy.opts.Load == nil {
		return
	}
	x.proxy.opts.Load(x.current.place.pod, x.req.Model, report)
	if x.in.Header.Get(loadFormatHeader) == "" {
		h.Del(loadHeader)
	}
}
