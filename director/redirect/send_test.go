package redirect

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnswerComesBeforeTheBody(t *testing.T) {
	head := "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n%s"
	for _, c := range []struct{ name, path, header, sent string }{
		{"a body that is held back", "/v2/models/llama/generate", "Content-Length: 1000", ""},
		{"a body that waits to be asked for", "/v2/models/llama/generate", "Content-Length: 1000\r\nExpect: 100-continue", ""},
		{"a large body", "/v2/models/llama/generate", "Content-Length: 100000000", `{"text_input":`},
		{"chunks", "/v2/models/llama/generate", "Transfer-Encoding: chunked", "3\r\n{\"a\r\n"},
		{"the model is all that is read", "/v1/completions", "Content-Length: 100000", `{"model":"llama","prompt":"`},
	} {
		d := euWest()
		conn := dial(t, serve(t, options(d)), fmt.Sprintf(head, c.path, c.header, c.sent))
		res, body := read(t, bufio.NewReader(conn)) // a "100 Continue" would be read here
		if res.StatusCode != http.StatusTemporaryRedirect {
			t.Errorf("%s: %s %s", c.name, res.Status, body)
		}
		if model, _, _ := d.last(); model != "llama" {
			t.Errorf("%s: the model is %q", c.name, model)
		}
		_ = conn.Close()
	}
}

func TestConnectionIsKeptOverUnreadBodies(t *testing.T) {
	d := euWest()
	conn := dial(t, serve(t, options(d)), "")
	from := bufio.NewReader(conn)
	for i := range 3 {
		model := "m" + strconv.Itoa(i)
		if _, err := io.WriteString(conn, post("/v2/models/"+model+"/generate", "", strings.Repeat("GET / HTTP/1.1\r\n\r\n", 1000))); err != nil {
			t.Fatal(err)
		}
		if res, body := read(t, from); res.StatusCode != http.StatusTemporaryRedirect || res.Close {
			t.Fatalf("request %d: %s %s, close %v", i, res.Status, body, res.Close)
		}
		if got, _, _ := d.last(); string(got) != model {
			t.Errorf("request %d: the model is %q", i, got)
		}
	}
}

// pipes is a listener in memory, whose connections keep the bubble's time.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestBodyThatNeverComesClosesTheConnection(t *testing.T) {
	for _, c := range []struct {
		name, path, sent string
		status           int
		answered, closed time.Duration
	}{
		{"nobody wants it", "/v2/models/llama/generate", "", http.StatusTemporaryRedirect, 0, lingerWait},
		{"nobody wants the rest", "/v1/completions", `{"model":"llama",`, http.StatusTemporaryRedirect, 0, lingerWait},
		{"it is to name the model", "/v1/completions", `{"prompt":"`, http.StatusRequestTimeout, peekWait, peekWait},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, err := New(options(euWest()))
				if err != nil {
					t.Fatal(err)
				}
				listener, server := make(pipes), &http.Server{Handler: h}
				ended := make(chan error)
				go func() { ended <- server.Serve(listener) }()
				client, conn := net.Pipe()
				listener <- conn
				start := time.Now()
				if _, err := fmt.Fprintf(client, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n%s", c.path, c.sent); err != nil {
					t.Fatal(err)
				}
				from := bufio.NewReader(client)
				if res, body := read(t, from); res.StatusCode != c.status || time.Since(start) != c.answered {
					t.Errorf("%s %s after %v, want %d after %v", res.Status, body, time.Since(start), c.status, c.answered)
				}
				// net/http waits for half a second before it closes for good.
				if b, err := from.ReadByte(); err == nil || time.Since(start) < c.closed || time.Since(start) > c.closed+time.Second {
					t.Errorf("byte %q, error %v after %v, want the end after %v", b, err, time.Since(start), c.closed)
				}
				close(listener)
				if err := <-ended; !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			})
		})
	}
}

// A real client asks the one name and ends up at the region with method, body
// and credentials.
func TestGoClientFollows(t *testing.T) {
	type seen struct{ method, uri, auth, body string }
	arrived := make(chan seen, 1)
	region := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- seen{r.Method, r.Host + r.RequestURI, r.Header.Get("Authorization"), string(body)}
	}))
	t.Cleanup(region.Close)
	o := options(euWest())
	o.Location, o.Scheme, o.Port = ByName, "http", 8080
	redirector := serve(t, o)
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		to := map[string]string{
			"route.inference.test:8080":         redirector,
			"eu-west.route.inference.test:8080": region.Listener.Addr().String(),
		}[addr]
		var d net.Dialer
		return d.DialContext(ctx, network, to)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	for _, c := range []struct {
		name string
		body []byte
	}{
		{"small", []byte(`{"text_input":"hi"}`)},
		{"small again, on kept connections", []byte(`{"text_input":"ho"}`)},
		{"larger than what is read ahead", bytes.Repeat([]byte("x"), 8<<20)},
	} {
		req, err := http.NewRequest(http.MethodPost, "http://route.inference.test:8080/v2/models/llama/generate_stream?x=%2F", bytes.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer key")
		res, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		_ = res.Body.Close()
		want := seen{"POST", "eu-west.route.inference.test:8080/v2/models/llama/generate_stream?x=%2F", "Bearer key", string(c.body)}
		if got := <-arrived; got != want {
			t.Errorf("%s: %s %s, credentials %q, %d bytes", c.name, got.method, got.uri, got.auth, len(got.body))
		}
	}
}

func TestHTTP2(t *testing.T) {
	h, err := New(options(euWest()))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	client := s.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	body, unsent := io.Pipe() // the body never comes
	defer unsent.Close()
	req, err := http.NewRequest(http.MethodPost, s.URL+"/v2/models/llama/generate", body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.ProtoMajor != 2 || res.Header.Get("Location") != "http://192.0.2.7:8080/v2/models/llama/generate" {
		t.Errorf("%s %s %v", res.Proto, res.Status, res.Header)
	}
}
