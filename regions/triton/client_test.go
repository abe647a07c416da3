package triton_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/triton"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds a test that hangs.
const patience = 10 * time.Second

// rawServer accepts connections on a loopback port and hands each to serve,
// which owns it until it returns; then it is closed.
func rawServer(t *testing.T, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn.(*net.TCPConn))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return netip.MustParseAddrPort(l.Addr().String())
}

// readRequest reads up to the end of a request's header.
func readRequest(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		if line, err := r.ReadString('\n'); err != nil || line == "\r\n" {
			return
		}
	}
}

// says is a server that reads a request, answers with the given bytes and
// closes.
func says(bytes string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		readRequest(conn)
		_, _ = io.WriteString(conn, bytes)
	}
}

func TestModelReady(t *testing.T) {
	hold := make(chan struct{}) // servers that stay silent wait for the test's end
	silent := func(prefix string) func(*net.TCPConn) {
		return func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, prefix)
			<-hold
		}
	}
	for _, c := range []struct {
		name  string
		serve func(*net.TCPConn)
		want  regions.Sight
		err   string
	}{
		{"ready", says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), regions.SawReady, ""},
		{"ready, no length", says("HTTP/1.1 200 OK\r\n\r\n"), regions.SawReady, ""},
		{"version not ready", says("HTTP/1.1 400 Bad Request\r\nContent-Length: 37\r\n\r\n" + `{"error":"Model version not ready"}  `), regions.SawNotReady, `400 Bad Request: "Model version not ready"`},
		{"400 with an empty body", says("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), regions.SawNotReady, "400"},
		{"unknown model", says("HTTP/1.1 404 Not Found\r\n\r\n" + `{"error":"Request for unknown model: 'llama' is not found"}`), regions.SawNotReady, "unknown model"},
		{"exiting", says("HTTP/1.1 503 Service Unavailable\r\n\r\n" + `{"error":"Server exiting"}`), regions.SawNotReady, "Server exiting"},
		{"restricted", says("HTTP/1.1 403 Forbidden\r\n\r\n"), regions.SawNotReady, "--http-restricted-api"},
		{"redirect is not followed", says("HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\n\r\n"), regions.SawNotReady, "307"},
		{"error's text cut short", says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100\r\n\r\nhalf"), regions.SawNotReady, "503"},
		{"error's text without end", says("HTTP/1.1 400 Bad Request\r\n\r\n" + strings.Repeat("x", 1<<20)), regions.SawNotReady, "400"},
		{"garbage", says("\x16\x03\x01 this is no HTTP\r\n\r\n"), regions.SawNotReady, "read the answer after"},
		{"broken off in the status line", says("HTTP/1.1 20"), regions.SawNotReady, "read the answer after 11 bytes"},
		{"header without end", says("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 8<<20)), regions.SawNotReady, "read the answer"},
		{"closed after the request", says(""), regions.SawClosed, "EOF"},
		{"closed at once", func(*net.TCPConn) {}, regions.SawClosed, ""},
		{"reset after the request", func(conn *net.TCPConn) { readRequest(conn); _ = conn.SetLinger(0) }, regions.SawClosed, ""},
		{"closed with the request unread", closeUnread, regions.SawClosed, ""},
		{"silent", silent(""), regions.SawTimeout, ""},
		{"silent within the answer", silent("HTTP/1.1 200"), regions.SawTimeout, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := rawServer(t, c.serve)
			within := patience
			if c.want == regions.SawTimeout {
				within = 50 * time.Millisecond
				t.Cleanup(func() { hold <- struct{}{} })
			}
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			o := triton.DefaultOptions()
			o.Timeout, o.MaxBody = 0, 64<<10
			got, took, err := triton.New(o).ModelReady(ctx, at, "llama")
			if got != c.want {
				t.Fatalf("saw %v (%v), want %v", got, err, c.want)
			}
			if took <= 0 {
				t.Errorf("it took %v", took)
			}
			if (err == nil) != (c.want == regions.SawReady) {
				t.Fatalf("saw %v with error %v", got, err)
			}
			if err != nil && (!strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), at.String()) || !strings.Contains(err.Error(), "llama")) {
				t.Errorf("error %q should name pod and model and contain %q", err, c.err)
			}
		})
	}
}

// closeUnread closes once the request is in the socket's buffer, without
// reading it all: Linux then sends a reset instead of an orderly end.
func closeUnread(conn *net.TCPConn) {
	var one [1]byte
	_, _ = conn.Read(one[:])
}

func TestRefused(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got, _, err := triton.New(triton.DefaultOptions()).ServerReady(t.Context(), at)
	if got != regions.SawRefused || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("saw %v, %v", got, err)
	}
}

// TestNotThePodsDoing covers failures that must not count against a pod.
func TestNotThePodsDoing(t *testing.T) {
	for _, lack := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, context.Canceled} {
		ctx, cancel := context.WithCancel(t.Context())
		o := triton.DefaultOptions()
		o.Dial = func(context.Context, string, string) (net.Conn, error) {
			if errors.Is(lack, context.Canceled) {
				cancel()
			}
			return nil, &net.OpError{Op: "dial", Err: lack}
		}
		got, _, err := triton.New(o).ModelReady(ctx, netip.MustParseAddrPort("127.0.0.1:8000"), "llama")
		cancel()
		if got != 0 || !errors.Is(err, lack) {
			t.Errorf("%v: saw %v, %v; want no sight of the pod", lack, got, err)
		}
	}
}

func TestCancelledWhileWaiting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	at := rawServer(t, func(conn *net.TCPConn) { readRequest(conn); cancel(); _, _ = io.Copy(io.Discard, conn) })
	if got, _, err := triton.New(triton.DefaultOptions()).ModelReady(ctx, at, "llama"); got != 0 || err == nil {
		t.Fatalf("saw %v, %v; a caller that leaves has seen nothing", got, err)
	}
}

func TestOwnTimeout(t *testing.T) {
	at := rawServer(t, func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	o := triton.DefaultOptions()
	o.Timeout = 20 * time.Millisecond
	if got, _, err := triton.New(o).ModelReady(t.Context(), at, "llama"); got != regions.SawTimeout {
		t.Fatalf("saw %v, %v", got, err)
	}
}

// TestFreshConnections: a server that would keep connections gets a new one per
// call, and is told that it ends.
func TestFreshConnections(t *testing.T) {
	var conns atomic.Int32
	var asked atomic.Pointer[http.Request]
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked.Store(r) }))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	o := triton.DefaultOptions()
	o.Header = http.Header{"X-Key": {"secret"}}
	c, at := triton.New(o), netip.MustParseAddrPort(s.Listener.Addr().String())
	for range 3 {
		if got, _, err := c.ModelReady(t.Context(), at, "Llama 3.1/70b"); got != regions.SawReady {
			t.Fatal(got, err)
		}
	}
	if n := conns.Load(); n != 3 {
		t.Errorf("3 calls used %d connections", n)
	}
	r := asked.Load()
	if r.URL.EscapedPath() != "/v2/models/Llama%203.1%2F70b/ready" || r.Host != at.String() || !r.Close || r.Header.Get("X-Key") != "secret" {
		t.Errorf("asked %s %s of host %s, close %v, header %v", r.Method, r.URL.EscapedPath(), r.Host, r.Close, r.Header)
	}
}
