package tritontest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ask makes one request on an open connection and reads the answer.
func ask(t testing.TB, c net.Conn, line, body string) (int, string) {
	t.Helper()
	send(t, c, line, body)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
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

// closedUnread tells whether a fresh connection is accepted and closed without
// a byte; one that is left open is given up soon.
func closedUnread(t testing.TB, addr string) bool {
	t.Helper()
	c := dial(t, addr)
	if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	_ = c.Close()
	return len(b) == 0 && (err == nil || errors.Is(err, syscall.ECONNRESET))
}

func TestShutdownRefusesNewConnectionsAndServesOldOnes(t *testing.T) {
	p := newPod(t, nil, stalled("llama"), fast("mistral"))
	kept := dial(t, p.Addr())
	if code, _ := ask(t, kept, "GET /v2/health/ready", ""); code != 200 {
		t.Fatalf("ready: %d", code)
	}
	s := open(t, p, "llama", prompt("hi", 5))

	done := make(chan error, 1)
	go func() { done <- p.Shutdown(context.WithoutCancel(t.Context())) }()
	eventually(t, "new connections closed without a byte", func() bool { return closedUnread(t, p.Addr()) })

	if code, _ := ask(t, kept, "GET /v2/health/ready", ""); code != 200 {
		t.Errorf("ready on an old connection: %d", code)
	}
	if code, _ := ask(t, kept, "POST /v2/models/mistral/generate", `{"text_input":"hi"}`); code != 200 {
		t.Errorf("new request on an old connection: %d", code)
	}
	if _, err := s.event(); err != nil {
		t.Errorf("old stream: %v", err)
	}
	if !strings.Contains(raw(t, p.MetricsAddr(), "GET /metrics", ""), "nv_inference_count") {
		t.Error("no metrics while draining")
	}
	_ = s.conn.Close()
	eventually(t, "stream canceled", func() bool { return p.Stats("llama").Canceled == 1 })
	select {
	case err := <-done:
		t.Fatalf("ended with an idle connection open: %v", err)
	default:
	}
	_ = kept.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after the end: %v", err)
	}
}

func TestShutdownCutsWhatOutlivesTheExitTimeout(t *testing.T) {
	p := newPod(t, func(o *Options) { o.ExitTimeout = time.Millisecond }, stalled("llama"))
	s := open(t, p, "llama", prompt("hi", 5))
	if err := p.Shutdown(t.Context()); !errors.Is(err, ErrExitTimeout) {
		t.Errorf("shutdown: %v", err)
	}
	if _, err := s.event(); err != nil {
		t.Errorf("what was sent: %v", err)
	}
	if _, err := s.event(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a cut stream ended with %v", err)
	}
	if got := p.Stats("llama"); got.Cut != 1 || got.CutStreams != 1 {
		t.Errorf("stats: %+v", got)
	}
}

func TestCrashResetsAndTheNextLifeIsFoundAtTheSamePlace(t *testing.T) {
	p := newPod(t, nil, stalled("llama"), fast("mistral"))
	addr, meta := p.Addr(), p.MetricsAddr()
	s := open(t, p, "llama", prompt("hi", 5))
	idle := dial(t, addr)
	if code, _ := ask(t, idle, "POST /v2/models/mistral/generate", `{"text_input":"hi"}`); code != 200 {
		t.Fatalf("generate: %d", code)
	}
	p.Crash()
	if got := p.Stats("llama"); got.CutStreams != 1 || got.Cut != 1 || got.InFlight != 0 {
		t.Errorf("stats right after the crash: %+v", got)
	}
	if _, err := s.event(); err != nil {
		t.Errorf("what was sent before: %v", err)
	}
	if _, err := s.event(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the cut stream ended with %v", err)
	}
	if _, err := io.ReadAll(idle); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the idle connection ended with %v", err)
	}
	for _, a := range []string{addr, meta} {
		if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", a); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial %s after the crash: %v", a, err)
		}
	}
	p.Crash() // of nothing
	p.Close()
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}

	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Addr() != addr || p.MetricsAddr() != meta {
		t.Errorf("moved from %s, %s to %s, %s", addr, meta, p.Addr(), p.MetricsAddr())
	}
	if !strings.Contains(raw(t, meta, "GET /metrics", ""), `nv_inference_request_success{model="mistral",version="1"} 0`) {
		t.Error("metrics survived the crash")
	}
	if got := p.Stats("mistral"); got.Completed != 1 {
		t.Errorf("stats did not survive the crash: %+v", got)
	}
}

// TestCrashCountsExactlyTheStreamsThatWereSeen crashes a pod under load: the
// clients that got a byte and no end are those that the pod counts.
func TestCrashCountsExactlyTheStreamsThatWereSeen(t *testing.T) {
	m := fast("llama")
	m.Slots = 20 // the other long ones wait and are unseen
	m.InterToken = time.Millisecond
	p := newPod(t, nil, m)
	const clients = 50
	var seen, unseen, ended int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range clients {
		tokens := 30000 // half a minute: longer than the test
		if i%5 == 0 {
			tokens = 3
		}
		c := dial(t, p.Addr())
		wg.Go(func() {
			send(t, c, "POST /v2/models/llama/generate_stream", prompt("hi", tokens))
			b, _ := io.ReadAll(bufio.NewReader(&untilEnd{Conn: c}))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case len(b) == 0:
				unseen++
			case strings.HasSuffix(string(b), "\r\n0\r\n\r\n"):
				ended++
			default:
				seen++
			}
		})
	}
	eventually(t, "all have arrived and all slots are busy", func() bool {
		s := p.Stats("llama")
		return s.Started == clients && s.Batch == int64(m.Slots)
	})
	p.Crash()
	wg.Wait()
	got := p.Stats("llama")
	if got.CutStreams != seen || got.CutUnseen != unseen || got.Completed != ended || got.Cut != seen+unseen {
		t.Errorf("clients: %d seen, %d unseen, %d ended; pod: %+v", seen, unseen, ended, got)
	}
	wantSums(t, got)
}

// untilEnd reads a connection until the end of a chunked body.
type untilEnd struct {
	net.Conn
	tail string
}

func (u *untilEnd) Read(b []byte) (int, error) {
	if strings.HasSuffix(u.tail, "\r\n0\r\n\r\n") {
		return 0, io.EOF
	}
	n, err := u.Conn.Read(b)
	u.tail += string(b[:n])
	u.tail = u.tail[max(0, len(u.tail)-16):]
	return n, err
}

func TestCutStreamsLeavesThePodAndTheRestAlone(t *testing.T) {
	one := stalled("llama")
	one.Slots = 1
	p := newPod(t, nil, one, fast("mistral"))
	s := open(t, p, "llama", prompt("hi", 5))
	waiting := dial(t, p.Addr()) // has no byte yet, so it is not cut
	send(t, waiting, "POST /v2/models/llama/generate_stream", prompt("ho", 1))
	eventually(t, "second waits", func() bool { return p.Stats("llama").InFlight == 2 })
	if n := p.CutStreams(); n != 1 {
		t.Errorf("cut %d streams", n)
	}
	if _, err := s.event(); err != nil {
		t.Errorf("what was sent before: %v", err)
	}
	if _, err := s.event(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a cut stream ended with %v", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(waiting), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(b), "text_output") {
		t.Errorf("the stream that waited: %q %v", b, err)
	}
	_ = resp.Body.Close()
	eventually(t, "both settled", func() bool { return p.Stats("llama").InFlight == 0 })
	if got := p.Stats("llama"); got.CutStreams != 1 || got.Completed != 1 {
		t.Errorf("stats: %+v", got)
	}
	p.Crash()
	if n := p.CutStreams(); n != 0 {
		t.Errorf("cut %d streams of a dead pod", n)
	}
}

func TestHangStallsEverythingAndThenGoesOn(t *testing.T) {
	m := fast("llama")
	m.Slots = 1
	m.InterToken = time.Millisecond
	p := newPod(t, nil, m)
	s := open(t, p, "llama", prompt("hi", 100))
	p.Hang(true)
	p.Hang(true)
	left := dial(t, p.Addr())
	send(t, left, "GET /v2/health/ready", "")
	_ = left.Close() // leaves no goroutine behind
	c := dial(t, p.Addr())
	send(t, c, "GET /v2/health/ready", "")
	d := dial(t, p.MetricsAddr())
	send(t, d, "GET /metrics", "")
	for _, silent := range []net.Conn{c, d} {
		if err := silent.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := silent.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.EAGAIN) && !isTimeout(err) {
			t.Errorf("a hung pod answered: %d %v", n, err)
		}
		_ = silent.SetReadDeadline(time.Time{})
	}
	p.Hang(false)
	if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("after the hang: %v", err)
	} else {
		_ = resp.Body.Close()
	}
	if text, events := s.text(t); len(events) != 100 || text != strings.Join(Tokens("llama", "hi", 100), "") {
		t.Errorf("after the hang the stream had %d events", len(events))
	}
	p.Hang(true)
	send(t, c, "GET /v2/health/ready", "")
	p.Crash() // ends what hangs
	p.Heal()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestDisconnectCancels(t *testing.T) {
	m := fast("llama")
	m.InterToken = time.Millisecond
	p := newPod(t, nil, m, stalled("stuck"))
	s := open(t, p, "stuck", prompt("hi", 10))
	_ = s.conn.Close()
	eventually(t, "stream canceled", func() bool { return p.Stats("stuck").Canceled == 1 })

	c := dial(t, p.Addr())
	send(t, c, "POST /v2/models/llama/generate", `{"id":"9","text_input":"hi","max_tokens":20000}`)
	eventually(t, "generate has begun", func() bool { return p.Stats("llama").Started == 1 })
	_ = c.Close()
	eventually(t, "generate has ended", func() bool { return p.Stats("llama").InFlight == 0 })
	got := p.Stats("llama")
	if got.Undelivered != 1 || got.Tokens == 20000 {
		t.Errorf("a client left a generate: %+v", got)
	}
	wantSums(t, got)
	log := p.Requests()
	if len(log) != 2 || log[1].ID != "9" || log[0].End != Canceled || log[0].FirstByte.IsZero() {
		t.Errorf("log: %+v", log)
	}
}

// plainConn hides what a TCP connection can do beyond net.Conn.
type plainListener struct{ net.Listener }

func (l plainListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return struct{ net.Conn }{c}, err
}

func TestInjectedListenersServeEveryLife(t *testing.T) {
	var asked []string
	p := newPod(t, func(o *Options) {
		o.MetricsAddr, o.GRPCAddr, o.OpenAIAddr = "", "", ""
		o.Listen = func(ctx context.Context, network, address string) (net.Listener, error) {
			asked = append(asked, address)
			ln, err := new(net.ListenConfig).Listen(ctx, network, address)
			return plainListener{ln}, err
		}
	}, fast("llama"))
	for range 2 {
		if code, _ := post(t, "http://"+p.Addr()+"/v2/models/llama/generate", `{"text_input":"hi"}`); code != 200 {
			t.Errorf("generate: %d", code)
		}
		p.Crash()
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"127.0.0.1:0", p.Addr(), p.Addr()}; strings.Join(asked, " ") != strings.Join(want, " ") {
		t.Errorf("listened on %v, want %v", asked, want)
	}
	if p.MetricsAddr()+p.GRPCAddr()+p.OpenAIAddr() != "" {
		t.Errorf("metrics at %q, gRPC at %q, OpenAI at %q", p.MetricsAddr(), p.GRPCAddr(), p.OpenAIAddr())
	}
}
