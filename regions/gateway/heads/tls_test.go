package heads

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secure is a server behind a Secure, and what a client needs for it.
func secure(t *testing.T, wait time.Duration) (addr string, trust *tls.Config) {
	t.Helper()
	made := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	made.Close()
	roots := x509.NewCertPool()
	roots.AddCert(made.Certificate())
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: made.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
	s := ListenTLS(l, config, wait, slog.New(slog.DiscardHandler))
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || !r.TLS.HandshakeComplete {
			t.Error("a request does not know that it came over TLS")
		}
		_, _ = io.WriteString(w, r.Proto)
	})}
	var all sync.WaitGroup
	all.Go(s.Run)
	all.Go(func() {
		if err := server.Serve(s); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		_ = server.Close()
		all.Wait()
	})
	return l.Addr().String(), &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// say sends words by themselves and reads what comes until the end.
func say(t *testing.T, c net.Conn, words string) string {
	t.Helper()
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, words); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(c) // a reset after the answer is an end, too
	return string(text)
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOverTLS(t *testing.T) {
	addr, trust := secure(t, time.Minute)
	for want, choose := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2.0": func(p *http.Protocols) { p.SetHTTP2(true) },
	} {
		way := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: trust.Clone()}
		choose(way.Protocols)
		for range 3 {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			res, err := way.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(res.Body); err != nil || string(text) != want {
				t.Errorf("got %q, %v; want %s", text, err, want)
			}
			_ = res.Body.Close()
		}
		way.CloseIdleConnections()
	}
	trust.ServerName = "127.0.0.1"
	lenient := "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n"
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(say(t, tls.Client(dial(t, addr), trust), lenient))), nil)
	if err != nil || res.StatusCode != http.StatusBadRequest || !res.Close {
		t.Errorf("a folded line: %v, %v", res, err)
	}
	_ = res.Body.Close()
}

// TestNoTLS: plain words are answered, and who says nothing is not waited for.
func TestNoTLS(t *testing.T) {
	addr, _ := secure(t, 50*time.Millisecond)
	if text := say(t, dial(t, addr), "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); !strings.HasPrefix(text, "HTTP/1.0 400 ") || !strings.Contains(text, "HTTPS") {
		t.Errorf("plain words got %q", text)
	}
	for _, words := range []string{"", "\x16\x03\x01", "SSH-2.0-x\r\n"} {
		if text := say(t, dial(t, addr), words); strings.Contains(text, "HTTP") {
			t.Errorf("%q got %q", words, text)
		}
	}
}

// TestHandshakesEndWithTheListener: a client in its handshake does not hold up the
// end.
func TestHandshakesEndWithTheListener(t *testing.T) {
	addr, _ := secure(t, time.Hour)
	c := dial(t, addr)
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, "\x16\x03\x01"); err != nil {
		t.Fatal(err)
	}
}
