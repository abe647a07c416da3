package socket_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t testing.TB) *socket.Listener {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := socket.New(ln)
	t.Cleanup(func() { l.Kill(false) })
	return l
}

func dial(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// accept returns the pod's end of a fresh connection, and the client's.
func accept(t testing.TB, l *socket.Listener) (*socket.Conn, net.Conn) {
	t.Helper()
	client := dial(t, l)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	tracked := c.(*socket.Conn)
	tracked.Multiplex() // so that closing it is its end
	return tracked, client
}

func TestRefuse(t *testing.T) {
	l := listen(t)
	old, _ := accept(t, l)
	idle := l.Refuse()
	ended := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	if b, err := io.ReadAll(dial(t, l)); len(b) != 0 || err != nil {
		t.Errorf("a new connection read %q, %v", b, err)
	}
	select {
	case <-idle:
		t.Error("idle with a connection open")
	default:
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	<-idle
	_ = old.Close() // a second time is no second end
	if n := len(l.Conns()); n != 0 {
		t.Errorf("%d connections", n)
	}
	l.Kill(false)
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	l.Wait()
}

func TestKillResets(t *testing.T) {
	l := listen(t)
	c, client := accept(t, l)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	l.Silence(true)
	if _, err := c.Write([]byte("y")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after silence: %v", err)
	}
	l.Kill(true)
	l.Wait()
	if err := client.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client read %v", err)
	}
}

// TestEnds: an answer that is not whole was cut, or left by its client.
func TestEnds(t *testing.T) {
	m := core.DefaultModel("llama")
	for _, c := range []struct {
		cut    bool
		end    core.End
		stream bool
		want   core.End
	}{
		{false, core.Completed, true, core.Completed}, {false, core.Failed, false, core.Failed},
		{true, core.Running, true, core.Cut}, {true, core.Completed, true, core.Cut},
		{false, core.Running, true, core.Canceled}, {false, core.Running, false, core.Undelivered},
	} {
		ledger := core.NewLedger([]string{"llama"}, 1)
		s := core.New(core.Options{Models: []core.Model{m}, Ledger: ledger, Faults: core.NewFaults(slog.New(slog.DiscardHandler)), Logger: slog.New(slog.DiscardHandler)})
		conn, _ := accept(t, listen(t))
		j := s.Begin(core.GRPC, m, core.Request{ID: "7"}, c.stream)
		conn.Carry(j)
		j.Wrote(9)
		if conn.Streams() != c.stream {
			t.Errorf("%+v: streams is %v", c, conn.Streams())
		}
		j.Ended(c.end)
		if c.cut {
			conn.Cut(false)
		}
		conn.Settle(j)
		r := ledger.Records()
		if len(r) != 1 || r[0].End != c.want || r[0].Bytes != 9 || r[0].ID != "7" || ledger.Stats("llama").InFlight != 0 || conn.Streams() {
			t.Errorf("%+v: %+v", c, r)
		}
		_ = conn.Close()
	}
}
