package agent

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// webPair is a certificate for 127.0.0.1, and a configuration that trusts it.
func webPair(t *testing.T) (tls.Certificate, *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler()) // for the certificate that it makes
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s.TLS.Certificates[0], &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// TestProtocols: over each protocol that a client may speak a stream comes event by
// event, and outlasts the agent's graceful end.
func TestProtocols(t *testing.T) {
	t.Parallel()
	pair, trust := webPair(t)
	for _, c := range []struct {
		name, scheme, proto string
		choose              func(*http.Protocols)
	}{
		{"1.1", "http", "HTTP/1.1", func(p *http.Protocols) { p.SetHTTP1(true) }},
		{"h2c", "http", "HTTP/2.0", func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }},
		{"1.1 over TLS", "https", "HTTP/1.1", func(p *http.Protocols) { p.SetHTTP1(true) }},
		{"h2", "https", "HTTP/2.0", func(p *http.Protocols) { p.SetHTTP2(true) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMembers(t)
			o, pods := m.options("eu-west", "llama")
			if c.scheme == "https" {
				o.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
			}
			s := m.start(o, pods)
			way := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols), TLSClientConfig: trust.Clone()}
			c.choose(way.Protocols)
			s.client.Transport, s.scheme = way, c.scheme
			m.sees("eu-west", "it serves", func(r *regions.Region) bool { return !r.Stopping })
			const tokens = 100
			s.slow(true)
			x, err := s.open("llama", "long", tokens)
			if err != nil || !x.next() {
				t.Fatalf("no stream: %v", err)
			}
			if x.res.Proto != c.proto {
				t.Errorf("spoke %s, want %s", x.res.Proto, c.proto)
			}
			s.stop()
			regionstest.Eventually(t, patience, func() bool { return refused(s.Addrs()[0].String()) }, "new connections are refused")
			s.slow(false)
			if events, err := x.rest(); err != nil || events != tokens-1 {
				t.Errorf("the stream gave %d more events, %v; want %d", events, err, tokens-1)
			}
			if err := s.end(); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// TestPlainWordsToTLS: who speaks plain HTTP to a TLS port is told so.
func TestPlainWordsToTLS(t *testing.T) {
	t.Parallel()
	pair, _ := webPair(t)
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	o.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	s := m.start(o, pods)
	s.client.Timeout = time.Minute
	if res, text, err := s.do(http.MethodGet, s.url("/v2/health/live"), ""); err != nil || res.StatusCode != http.StatusBadRequest || !strings.Contains(text, "HTTPS") {
		t.Errorf("%v %q %v", res, text, err)
	}
}
