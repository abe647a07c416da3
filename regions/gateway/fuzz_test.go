package gateway_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/heads"
)

// script is a connection whose client says fixed bytes, then nothing more, and
// notes what it is sent.
type script struct {
	mu     sync.Mutex
	said   *bytes.Reader // under mu, like the following
	heard  bytes.Buffer
	closed bool
	ended  chan struct{}
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	return s.said.Read(p)
}

func (s *script) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.ended)
	}
	return nil
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard.Write(p)
}

func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv6loopback, Port: 1} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv6loopback, Port: 2} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// scripts is a listener for them.
type scripts chan net.Conn

func (s scripts) Accept() (net.Conn, error) {
	if c, ok := <-s; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (s scripts) Close() error   { return nil }
func (s scripts) Addr() net.Addr { return &net.TCPAddr{} }

// eater is a forwarder that takes a whole body, as the proxy does, and notes what
// it is given.
type eater struct {
	mu    sync.Mutex
	paths []string // with method; under mu
}

func (e *eater) Forward(w http.ResponseWriter, r *http.Request, _ regions.Request) {
	e.mu.Lock()
	e.paths = append(e.paths, r.Method+" "+r.URL.Path)
	e.mu.Unlock()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, "pod")
}

// complaints are what the server itself says.
type complaints struct {
	mu   sync.Mutex
	text strings.Builder // under mu
}

func (c *complaints) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

var (
	blank     = regexp.MustCompile(`\n\r?\n`)
	framed    = regexp.MustCompile(`(?im)^Transfer-Encoding[ \t]*:`)
	length    = regexp.MustCompile(`(?im)^Content-Length[ \t]*:[ \t]*([0-9]+)[ \t]*\r?$`)
	lenient   = regexp.MustCompile(`(^|[^\r])\n|\n[ \t]`) // ends of lines that are not to be read
	broken    = regexp.MustCompile(`(?m)^HTTP/1\.[01] 50[0234] `)
	forwarded = regexp.MustCompile(`^(GET /v2/models/[^/\\;%]+(/versions/[0-9]+)?(/(ready|config|stats))?|POST /v2/models/[^/\\;%]+(/versions/[0-9]+)?/(infer|generate|generate_stream)|POST /v1/(chat/completions|completions|embeddings))$`)
)

// next is the request behind the one that is fuzzed.
const (
	next     = "GET /v2/models/next/config HTTP/1.1\r\nHost: h\r\n\r\n"
	nextSeen = "GET /v2/models/next/config"
)

// FuzzHead has a client send one head, any bytes as its body, and another request
// behind them, to a real server. Nothing panics, what is forwarded is on the
// allow-list, one head is forwarded once at most, none that net/http reads leniently,
// nothing behind a body is taken for a request where another reader could see its
// end elsewhere, and no answer takes the blame (501 is for an encoding, 505 for a
// version).
func FuzzHead(f *testing.F) {
	for _, seed := range []struct{ head, body string }{
		{post + "Content-Length: 2", "{}"},
		{post + "Content-Length: 200", "{}"},
		{post + "Content-Length: 0\r\nContent-Length: 47", ""},
		{post + chunked + "Content-Length: 3", "2\r\n{}\r\n0\r\n\r\n"},
		{strings.Replace(post, "1.1", "1.0", 1) + chunked + "Connection: keep-alive", "0\r\n\r\n"},
		{post + "Transfer-Encoding:\tgzip, chunked\r\nExpect: 100-continue", "zz"},
		{"GET /v2/models/llama%20x/versions/7/ready HTTP/1.1\nHost: h\nX: a\n b", ""},
		{"GET /v1/models/llama/../../v2/repository/index HTTP/1.1\r\nHost: h", ""},
		{"GET /v2//models/x HTTP/1.1\r\nHost: h\r\nConnection: close, keep-alive", "GET / HTTP/1.1\r\n\r\n"},
		{"POST http://h/v2/models/a/infer HTTP/1.1\r\nHost: h", ""},
		{"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nRhumb-Priority: low\r\nContent-Length: 30", `{"stream":true,"model":"llama"}`},
		{"POST /v1/completions HTTP/1.1\r\nHost: h\r\nRhumb-Max-Wait: 1e3\r\n" + strings.TrimSuffix(chunked, "\r\n"), "11\r\n{\"model\":\"llama\"}\r\n0\r\n\r\n"},
		{"PRI * HTTP/2.0", "SM\r\n\r\n"},
		{"GET /v2/models/a/stats HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer rhumb_a_b\r\nX-Forwarded-For: [::1]:5, ::\r\nUpgrade: h2c", ""},
	} {
		f.Add([]byte(seed.head), []byte(seed.body))
	}
	said, pods := &complaints{}, &eater{}
	log := slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	server := gateway.NewServer(gateway.New(gateway.DefaultOptions(pods)), gateway.DefaultHeadLimits(), log)
	listener, ended := make(scripts), make(chan error, 1)
	go func() { ended <- server.Serve(heads.Listen(listener)) }()
	f.Cleanup(func() {
		close(listener)
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, head, body []byte) {
		head = bytes.Trim(head, "\r\n")
		if end := blank.FindIndex(head); end != nil {
			head = head[:end[0]]
		}
		conn := &script{said: bytes.NewReader(fmt.Appendf(nil, "%s\r\n\r\n%s%s", head, body, next)), ended: make(chan struct{})}
		listener <- conn
		<-conn.ended
		pods.mu.Lock()
		paths := pods.paths
		pods.paths = nil
		pods.mu.Unlock()
		checkForwarded(t, head, body, paths)
		conn.mu.Lock()
		defer conn.mu.Unlock()
		if broken.Match(conn.heard.Bytes()) {
			t.Fatalf("%q is answered with %q", head, conn.heard.Bytes())
		}
		said.mu.Lock()
		defer said.mu.Unlock()
		if text := said.text.String(); strings.Contains(text, "panic") {
			t.Fatalf("%q: %s", head, text)
		}
		said.text.Reset()
	})
}

func checkForwarded(t *testing.T, head, body []byte, paths []string) {
	t.Helper()
	first, after := 0, 0
	for _, p := range paths {
		if !forwarded.MatchString(p) || strings.Contains(p, "/../") || strings.Contains(p, "/./") || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("%q is forwarded as %q", head, p)
		}
		if p == nextSeen && !bytes.Contains(head, []byte("next")) {
			after++
		} else {
			first++
		}
	}
	if len(body) == 0 && (first > 1 || after > 1) {
		t.Fatalf("%q is forwarded as %q", head, paths)
	}
	if first > 0 && len(body) == 0 && lenient.Match(head) {
		t.Fatalf("%q is read, and forwarded as %q", head, paths)
	}
	if after == 0 || bytes.Contains(body, []byte("next")) {
		return
	}
	if framed.Match(head) {
		t.Fatalf("%q has an encoding, and what came behind it was taken for a request", head)
	}
	for _, m := range length.FindAllSubmatch(head, -1) {
		if n, err := strconv.ParseUint(string(m[1]), 10, 63); err != nil || n > uint64(len(body)) {
			t.Fatalf("%q has a body of %s bytes, and what is within %d was taken for a request", head, m[1], len(body)+len(next))
		}
	}
}
