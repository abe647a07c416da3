package gateway_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// away gives out one other region.
type away struct{ ends chan regions.End }

func (a away) Knows(regions.ModelName) bool { return true }
func (a away) HasPeer(regions.ID) bool      { return true }
func (a away) Spill(time.Time, regions.Request, bool) (proxy.SpillLease, bool) {
	return a, true
}
func (a away) Region() regions.ID { return "there" }
func (a away) Endpoint() regions.Endpoint {
	return regions.Endpoint{Scheme: "http", Host: "there", Port: 8080}
}
func (a away) Done(_ time.Time, out regions.Outcome) { a.ends <- out.End }

// link is a connection that can fall silent: what is written vanishes, and nothing
// comes.
type link struct {
	net.Conn
	dead *atomic.Bool
	cut  chan struct{} // closed with the connection
	once sync.Once
}

func (l *link) Write(p []byte) (int, error) {
	if l.dead.Load() {
		return len(p), nil
	}
	return l.Conn.Write(p)
}

func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if l.dead.Load() {
		<-l.cut
		return 0, net.ErrClosed
	}
	return n, err
}

func (l *link) Close() error {
	l.once.Do(func() { close(l.cut) })
	return l.Conn.Close()
}

// TestRegionThatVanishes: a stream from another region ends within five seconds of
// the last word on its connection, though nobody closes it; one that only thinks for
// minutes does not.
func TestRegionThatVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		door := listenInMemory()
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		there := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			wait(5 * time.Minute)
			_, _ = io.WriteString(w, "data: a thought\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})}
		var g sync.WaitGroup
		g.Go(func() { _ = there.Serve(door) })
		var dead atomic.Bool
		o := proxy.DefaultOptions("here", pool.New(pool.DefaultOptions()))
		o.Spill = away{make(chan regions.End, 1)}
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := door.dial(ctx, network, addr)
			return &link{Conn: c, dead: &dead, cut: make(chan struct{})}, err
		}
		forward := proxy.New(o)
		front, client := listenInMemory(), &http.Transport{}
		client.DialContext = front.dial
		here := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			forward.Forward(w, r, regions.Request{Model: "llama", Replayable: true, Streams: true})
		})}
		g.Go(func() { _ = here.Serve(front) })
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://here/v2/models/llama/generate_stream", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		begun := make([]byte, 7)
		if _, err := io.ReadFull(res.Body, begun); err != nil || string(begun) != "data: a" {
			t.Fatalf("%q, %v", begun, err)
		}
		dead.Store(true)
		at := time.Now()
		if text, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("a stream whose region vanished ended well, with %q", text)
		}
		if took := time.Since(at); took > 5*time.Second {
			t.Errorf("it ended after %v", took)
		}
		if end := <-o.Spill.(away).ends; end != regions.EndPodLost {
			t.Errorf("it ended as %v", end)
		}
		_ = res.Body.Close()
		client.CloseIdleConnections()
		_ = here.Close()
		forward.CloseIdle()
		_ = there.Close()
		g.Wait()
		wait(time.Second)
	})
}
