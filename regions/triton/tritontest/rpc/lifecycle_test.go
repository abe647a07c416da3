package rpc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

func tcp(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestShutdownPhases drains a pod with an HTTP connection and a stream: gRPC is
// as ever until the HTTP connection has gone; then new RPCs fail, new requests
// of the stream are refused in it, and what it had goes on to its end.
func TestShutdownPhases(t *testing.T) {
	m := fast("llama")
	m.InterToken = 5 * time.Millisecond
	p := newPod(t, nil, m, stalled("slow"))
	held := tcp(t, p.Addr())
	c := client(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := c.ModelStreamInfer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(ask("slow", "old", "hi", 2)); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || r.InferResponse.Id != "old" {
		t.Fatalf("%v, %v", r, err)
	}
	// The connection is held when the pod has served on it.
	if _, err := io.WriteString(held, "GET /v2/health/live HTTP/1.1\r\nHost: pod\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := held.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(context.WithoutCancel(t.Context())) }()

	eventually(t, "HTTP refuses", func() bool {
		fresh := tcp(t, p.Addr())
		_ = fresh.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := fresh.Read(make([]byte, 1))
		_ = fresh.Close() // one that was served after all would hold up the drain
		return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
	})
	if r, err := client(t, p).ServerReady(t.Context(), &pb.ServerReadyRequest{}); err != nil || !r.Ready {
		t.Errorf("gRPC in the first phase: %v, %v", r, err)
	}
	if err := stream.Send(ask("llama", "first", "hi", 1)); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || r.ErrorMessage != "" || r.InferResponse.Id != "first" {
		t.Errorf("the stream in the first phase: %v, %v", r, err)
	}

	_ = held.Close()
	const refused = "GRPC server is shutting down and has stopped accepting new requests."
	eventually(t, "the stream refuses", func() bool {
		if err := stream.Send(ask("llama", "second", "hi", 1)); err != nil {
			t.Fatal(err)
		}
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r.ErrorMessage == refused && r.InferResponse.Id == "second"
	})
	eventually(t, "new connections are refused", func() bool {
		_, err := client(t, p).ServerReady(t.Context(), &pb.ServerReadyRequest{})
		return status.Code(err) == codes.Unavailable
	})
	select {
	case err := <-done:
		t.Fatalf("ended with a stream open: %v", err)
	default:
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := p.Stats("slow"); s.Canceled != 1 || s.InFlight != 0 {
		t.Errorf("stats: %+v", s)
	}
}

// TestShutdownWhileClientsConnect ends all the same: connections that come when gRPC is
// ending are closed before anything was said on them.
func TestShutdownWhileClientsConnect(t *testing.T) {
	for range 10 {
		p := newPod(t, nil, fast("llama"))
		addr, over := p.GRPCAddr(), make(chan struct{})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					select {
					case <-over:
						return
					default:
					}
					if c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr); err == nil {
						_ = c.Close()
					}
				}
			})
		}
		ended := make(chan error, 1)
		go func() { ended <- p.Shutdown(context.WithoutCancel(t.Context())) }()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(within):
			t.Fatal("it does not end")
		}
		close(over)
		all.Wait()
	}
}

func TestShutdownCutsStreamsAtTheExitTimeout(t *testing.T) {
	p := newPod(t, func(o *tritontest.Options) { o.ExitTimeout = time.Millisecond }, stalled("llama"))
	stream := open(t.Context(), t, p, ask("llama", "1", "hi", 2))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := p.Shutdown(t.Context()); !errors.Is(err, tritontest.ErrExitTimeout) {
		t.Errorf("shutdown: %v", err)
	}
	_, err := stream.Recv()
	wantCode(t, err, codes.Unavailable, "")
	if s := p.Stats("llama"); s.CutStreams != 1 || s.InFlight != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestCrashAndTheNextLife(t *testing.T) {
	p := newPod(t, nil, stalled("llama"), fast("mistral"))
	idle := tcp(t, p.GRPCAddr())
	if _, err := io.ReadFull(idle, make([]byte, 9)); err != nil {
		t.Fatal(err) // the server's settings: the connection was accepted
	}
	stream := open(t.Context(), t, p, ask("llama", "1", "hi", 2))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	addr := p.GRPCAddr()
	p.Crash()
	if s := p.Stats("llama"); s.CutStreams != 1 || s.InFlight != 0 {
		t.Errorf("stats right after the crash: %+v", s)
	}
	_, err := stream.Recv()
	wantCode(t, err, codes.Unavailable, "")
	if _, err := io.ReadAll(idle); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("another connection ended with %v", err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.GRPCAddr() != addr {
		t.Errorf("moved from %s to %s", addr, p.GRPCAddr())
	}
	again := open(t.Context(), t, p, ask("mistral", "1", "hi", 2))
	if err := again.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if all, err := drained(again); err != nil || len(all) != 2 {
		t.Errorf("in the next life: %v, %v", all, err)
	}
}

func TestCutStreams(t *testing.T) {
	p := newPod(t, nil, stalled("llama"))
	stream := open(t.Context(), t, p, ask("llama", "1", "hi", 2))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	other := client(t, p)
	if _, err := other.ServerLive(t.Context(), &pb.ServerLiveRequest{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "cut", func() bool { return p.CutStreams() == 1 })
	_, err := stream.Recv()
	wantCode(t, err, codes.Unavailable, "")
	if _, err := other.ServerLive(t.Context(), &pb.ServerLiveRequest{}); err != nil {
		t.Errorf("another connection: %v", err)
	}
	eventually(t, "counted", func() bool { return p.Stats("llama").CutStreams == 1 })
}

// TestHangAnswersNothing: not even a new connection hears a word.
func TestHangAnswersNothing(t *testing.T) {
	p := newPod(t, nil, fast("llama"))
	c := client(t, p)
	if _, err := c.ServerLive(t.Context(), &pb.ServerLiveRequest{}); err != nil {
		t.Fatal(err)
	}
	p.Hang(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.ServerLive(ctx, &pb.ServerLiveRequest{})
	wantCode(t, err, codes.DeadlineExceeded, "")
	fresh := tcp(t, p.GRPCAddr())
	if err := fresh.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := fresh.Read(make([]byte, 1)); n != 0 || !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	p.Hang(false)
	if _, err := c.ServerLive(t.Context(), &pb.ServerLiveRequest{}); err != nil {
		t.Errorf("after the hang: %v", err)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestZombie is ready and dead.
func TestZombie(t *testing.T) {
	p := newPod(t, nil, stalled("llama"))
	c := client(t, p)
	stream := open(t.Context(), t, p, ask("llama", "1", "hi", 2))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	p.Zombie("llama", tritontest.Hanging)
	if r, err := c.ModelReady(t.Context(), &pb.ModelReadyRequest{Name: "llama"}); err != nil || !r.Ready {
		t.Errorf("ready: %v, %v", r, err)
	}
	if err := stream.Send(ask("llama", "2", "hi", 2)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "taken", func() bool { return p.Stats("llama").InFlight == 2 })
	p.Zombie("llama", tritontest.Failing)
	r, err := stream.Recv()
	if err != nil || r.InferResponse.Id != "2" || r.ErrorMessage == "" {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := c.ModelReady(t.Context(), &pb.ModelReadyRequest{Name: "llama"}); err != nil || !r.Ready {
		t.Errorf("ready: %v, %v", r, err)
	}
	p.Zombie("llama", tritontest.Alive)
	if err := stream.Send(ask("llama", "3", "hi", 2)); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || r.ErrorMessage != "" || r.InferResponse.Id != "3" {
		t.Errorf("%v, %v", r, err)
	}
}

// TestPingStrikes pings as an eager client does, while nothing is sent to it.
// The first ping is none too early; the third strike is the last. The frames are
// those of RFC 9113, sections 4.1, 6.7 and 6.8.
func TestPingStrikes(t *testing.T) {
	const settings, ping, goAway, enhanceYourCalm = 4, 6, 7, 11
	p := newPod(t, nil, fast("llama"))
	c := tcp(t, p.GRPCAddr())
	write := func(kind byte, payload string) {
		t.Helper()
		head := []byte{0, 0, byte(len(payload)), kind, 0, 0, 0, 0, 0}
		if _, err := c.Write(append(head, payload...)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	write(settings, "")
	write(ping, "12345678")
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	for acks := 0; ; {
		head := make([]byte, 9)
		if _, err := io.ReadFull(c, head); err != nil {
			t.Fatalf("after %d answers: %v", acks, err)
		}
		payload := make([]byte, binary.BigEndian.Uint32(append([]byte{0}, head[:3]...)))
		if _, err := io.ReadFull(c, payload); err != nil {
			t.Fatal(err)
		}
		switch head[3] {
		case ping:
			acks++
			write(ping, "12345678")
		case goAway:
			if code := binary.BigEndian.Uint32(payload[4:]); code != enhanceYourCalm || string(payload[8:]) != "too_many_pings" || acks != 4 {
				t.Errorf("code %d %q after %d answers", code, payload[8:], acks)
			}
			return
		}
	}
}

// TestNoHTTP1 is refused as by any HTTP/2 server.
func TestNoHTTP1(t *testing.T) {
	p := newPod(t, nil, fast("llama"))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.GRPCAddr()+"/v2/health/ready", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err == nil {
		_ = resp.Body.Close()
		t.Errorf("answered %s", resp.Status)
	}
}
