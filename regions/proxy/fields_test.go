package proxy_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/proxy"
)

func TestFieldsTowardsThePod(t *testing.T) {
	heard := make(chan *http.Request, 1)
	g := newRig(t, nil, startPod(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		heard <- r
		w.Header().Set("Rhumb-Region", "forged")
		w.Header().Set("Rhumb-Decision", "forged")
		w.Header().Set("Connection", "X-Secret")
		w.Header().Set("X-Secret", "1")
	}))
	res, _, err := g.raw("POST /v2/models/llama/generate HTTP/1.1\r\nHost: inference.test\r\n" +
		"Connection: Upgrade, HTTP2-Settings, keep-alive\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n" +
		"Keep-Alive: 300\r\nProxy-Authorization: Basic x\r\nTE: gzip\r\n" +
		"X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n" +
		"Idempotency-Key: k\r\nRhumb-Whatever: x\r\nAuthorization: Bearer k\r\nTriton-Request-Id: 7\r\n" +
		"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	r := <-heard
	for _, gone := range []string{
		"Connection", "Upgrade", "Http2-Settings", "Keep-Alive", "Proxy-Authorization", "Te", "X_forwarded_for",
		"Forwarded", "Idempotency-Key", "Rhumb-Whatever", "Expect",
	} {
		if v, ok := r.Header[gone]; ok {
			t.Errorf("%s: %q went on to the pod", gone, v)
		}
	}
	for name, want := range map[string]string{
		"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "inference.test",
		"Authorization": "Bearer k", "Triton-Request-Id": "7",
	} {
		if got := r.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r.ContentLength != 2 || len(r.TransferEncoding) != 0 {
		t.Errorf("the pod got length %d and encoding %v, want a plain body of 2", r.ContentLength, r.TransferEncoding)
	}
	if got := res.Header.Values(proxy.RegionHeader); len(got) != 1 || got[0] != "here" {
		t.Errorf("%s is %q", proxy.RegionHeader, got)
	}
	for _, gone := range []string{"Rhumb-Decision", "X-Secret", proxy.PodHeader} {
		if v := res.Header.Get(gone); v != "" {
			t.Errorf("%s: %q came from the pod to the client", gone, v)
		}
	}
}

func TestForwardedSchemeAndHostOfATrustedProxyStay(t *testing.T) {
	heard := make(chan http.Header, 1)
	g := newRig(t, nil, startPod(t, func(_ http.ResponseWriter, r *http.Request) { heard <- r.Header.Clone() }))
	if _, _, err := g.post("/v2/models/llama/generate", "{}", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "in.example"); err != nil {
		t.Fatal(err)
	}
	if h := <-heard; h.Get("X-Forwarded-Proto") != "https" || h.Get("X-Forwarded-Host") != "in.example" {
		t.Errorf("the pod heard %v", h)
	}
}

func TestTrailersReachTheClient(t *testing.T) {
	g := newRig(t, nil, startPod(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Sum", "42")
	}))
	res, text, err := g.post("/v2/models/llama/generate", "{}")
	if err != nil || text != "body" || res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("got %q, trailer %v, %v", text, res.Trailer, err)
	}
}
