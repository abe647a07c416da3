package tritontest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within bounds every wait for something that takes microseconds when idle.
const within = 20 * time.Second

// fast is a model that answers as soon as the scheduler lets it.
func fast(name string) Model {
	m := DefaultModel(name)
	m.PrefillPerToken, m.InterToken = 0, 50*time.Microsecond
	return m
}

// stalled is a model that sends a first token and then, in effect, no other.
func stalled(name string) Model {
	m := fast(name)
	m.InterToken = time.Hour
	return m
}

func newPod(t testing.TB, change func(*Options), models ...Model) *Pod {
	t.Helper()
	opts := DefaultOptions()
	opts.Models = models
	if change != nil {
		change(&opts)
	}
	p := New(opts)
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// send writes a request as it stands; a body gets its length.
func send(t testing.TB, c net.Conn, line, body string, headers ...string) {
	t.Helper()
	req := line + " HTTP/1.1\r\nHost: pod\r\n" + strings.Join(append(headers, ""), "\r\n")
	if body != "" {
		req += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	if _, err := io.WriteString(c, req+"\r\n"+body); err != nil {
		t.Fatal(err)
	}
}

// raw makes one request on a connection of its own and returns every byte of
// the answer.
func raw(t testing.TB, addr, line, body string, headers ...string) string {
	t.Helper()
	c := dial(t, addr)
	send(t, c, line, body, append(headers, "Connection: close")...)
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("read answer to %s: %v", line, err)
	}
	return string(answer)
}

// crlf turns a golden answer, written with plain newlines, into wire form: the
// head gets CRLF line ends, the body stays as it is.
func crlf(head, body string) string {
	return strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + body
}

// stream is an open event stream.
type stream struct {
	conn net.Conn
	r    *bufio.Reader
}

// open asks for a stream and returns after its first byte.
func open(t testing.TB, p *Pod, model, body string) *stream {
	t.Helper()
	s := &stream{conn: dial(t, p.Addr())}
	send(t, s.conn, "POST /v2/models/"+model+"/generate_stream", body)
	resp, err := http.ReadResponse(bufio.NewReader(s.conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.conn.Close() // first: closing a body reads it to its end
		_ = resp.Body.Close()
	})
	s.r = bufio.NewReader(resp.Body)
	return s
}

// event reads the next event; io.EOF is the clean end of the body.
func (s *stream) event() (map[string]any, error) {
	line, err := s.r.ReadString('\n')
	if err != nil {
		if line != "" && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	blank, err := s.r.ReadString('\n')
	if err != nil || blank != "\n" {
		return nil, fmt.Errorf("event ends with %q: %w", blank, err)
	}
	var out map[string]any
	return out, json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &out)
}

// text reads the stream to its end.
func (s *stream) text(t testing.TB) (string, []map[string]any) {
	t.Helper()
	var text strings.Builder
	var events []map[string]any
	for {
		e, err := s.event()
		if errors.Is(err, io.EOF) {
			return text.String(), events
		}
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
		piece, _ := e["text_output"].(string)
		text.WriteString(piece)
	}
}

func post(t testing.TB, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

func prompt(text string, tokens int) string {
	return fmt.Sprintf(`{"text_input":%q,"parameters":{"stream":true,"max_tokens":%d}}`, text, tokens)
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	regionstest.Eventually(t, within, cond, what)
}

// wantSums checks that every started request is accounted for exactly once.
func wantSums(t testing.TB, s Stats) {
	t.Helper()
	if sum := s.InFlight + s.Completed + s.Failed + s.Rejected + s.Canceled + s.Undelivered + s.Cut; sum != s.Started {
		t.Errorf("started %d, accounted for %d: %+v", s.Started, sum, s)
	}
}

func TestStartRefusesMistakes(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"zero slots":    func(o *Options) { o.Models[0].Slots = 0 },
		"zero version":  func(o *Options) { o.Models[0].Version = 0 },
		"slash in name": func(o *Options) { o.Models[0].Name = "a/b" },
		"same name":     func(o *Options) { o.Models = append(o.Models, o.Models[0]) },
		"coupled vLLM":  func(o *Options) { o.Models[0].Coupled = true },
		"negative time": func(o *Options) { o.Models[0].InterToken = -1 },
		"no context":    func(o *Options) { o.Models[0].MaxTokens = 0 },
		"no KV cache":   func(o *Options) { o.Models[0].Flavour, o.Models[0].KVBlocks = TRTLLM, 0 },
		"negative exit": func(o *Options) { o.ExitTimeout = -1 },
		"bad address":   func(o *Options) { o.Addr = "nowhere:nothing" },
		"bad metrics":   func(o *Options) { o.MetricsAddr = "nowhere:nothing" },
	} {
		opts := DefaultOptions()
		opts.Models = []Model{fast("llama")}
		change(&opts)
		p := New(opts)
		if err := p.Start(t.Context()); err == nil {
			p.Close()
			t.Errorf("%s: started", name)
		}
	}
}

func TestRunServesUntilItsContextEnds(t *testing.T) {
	opts := DefaultOptions()
	opts.Models = []Model{fast("llama")}
	p := New(opts)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	eventually(t, "pod runs", p.Running)
	if err := p.Start(ctx); !errors.Is(err, ErrRunning) {
		t.Errorf("second start: %v", err)
	}
	if got, _ := post(t, "http://"+p.Addr()+"/v2/models/llama/generate", `{"text_input":"hi"}`); got != http.StatusOK {
		t.Errorf("generate: %d", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if p.Running() {
		t.Error("runs after Run")
	}
}
