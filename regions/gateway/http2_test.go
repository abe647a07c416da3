package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/heads"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// memory is a listener whose connections are pipes, so that time is the test's.
type memory struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func listenInMemory() *memory {
	return &memory{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.done) })
	return nil
}

func (m *memory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case m.conns <- there:
		return here, nil
	case <-m.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bubble is a gateway with the real proxy and server in front of one pod, all in
// memory and in virtual time, and a client of one protocol.
type bubble struct {
	*http.Client
	t          *testing.T
	door       *memory          // the gateway's
	pod        http.HandlerFunc // set before the first request, as is:
	connecting time.Duration    // how long it takes to connect to it
}

// inBubble runs a test over HTTP/1.1 and over HTTP/2 with prior knowledge.
func inBubble(t *testing.T, test func(*bubble)) {
	t.Helper()
	for name, choose := range map[string]func(*http.Protocols){
		"1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"h2c": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				podAt, door := listenInMemory(), listenInMemory()
				way := &http.Transport{DialContext: door.dial, Protocols: new(http.Protocols), ExpectContinueTimeout: time.Hour}
				choose(way.Protocols)
				b := &bubble{Client: &http.Client{Transport: way}, t: t, door: door}
				podServer := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.pod(w, r) })}
				pods := pool.New(pool.DefaultOptions())
				now := time.Now()
				pods.SetPods(now, []regions.Pod{{
					ID: "a", HTTP: netip.MustParseAddrPort("10.0.0.1:8000"),
					Models: []regions.PodModel{{Name: "llama", Slots: 128}},
				}})
				pods.SetState(now, "a", "llama", regions.PodReady)
				o := proxy.DefaultOptions("here", pods)
				o.Limits.Dial = time.Minute
				o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					wait(b.connecting)
					return podAt.dial(ctx, network, addr)
				}
				forward := proxy.New(o)
				server := gateway.NewServer(gateway.New(gateway.DefaultOptions(forward)), gateway.DefaultHeadLimits(), slog.New(slog.DiscardHandler))
				var g sync.WaitGroup
				g.Go(func() { _ = podServer.Serve(podAt) })
				g.Go(func() { _ = server.Serve(heads.Listen(door)) })
				test(b)
				way.CloseIdleConnections()
				_ = server.Close()
				forward.CloseIdle()
				_ = podServer.Close()
				g.Wait()
				wait(time.Second) // a server lingers for half of it on a body that it left
			})
		})
	}
}

func (b *bubble) post(ctx context.Context, body io.Reader, fields ...string) (*http.Response, error) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway/v2/models/llama/generate_stream", body)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	return b.Do(r)
}

// whole reads an answer to its end and closes it.
func whole(res *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	return string(text), err
}

// wait lets virtual time pass.
func wait(d time.Duration) { <-time.After(d) }

// TestSilenceIsNoStall: neither a pod that thinks for minutes, before its first
// token or between two, nor one that takes a body in its own time, makes anybody
// late. Over HTTP/2 a deadline that is left behind would cut the stream.
func TestSilenceIsNoStall(t *testing.T) {
	inBubble(t, func(b *bubble) {
		const pause = 9 * time.Minute // below the limit of 10
		body := bytes.Repeat([]byte("x"), 3<<20)
		b.pod = func(w http.ResponseWriter, r *http.Request) {
			got := 0
			for part := make([]byte, 1<<20); ; wait(pause) {
				n, err := io.ReadFull(r.Body, part)
				got += n
				if err != nil {
					break
				}
			}
			_, _ = fmt.Fprintf(w, "data: %d\n\n", got)
			for i := range 3 {
				_ = http.NewResponseController(w).Flush()
				wait(pause)
				_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			}
		}
		text, err := whole(b.post(b.t.Context(), bytes.NewReader(body)))
		if want := fmt.Sprintf("data: %d\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n", len(body)); err != nil || text != want {
			b.t.Errorf("got %q, %v", text, err)
		}
	})
}

// TestStallsAreEnded: a pod that is silent for longer than allowed, a client that
// sends no more of its body, and one that takes no more of its answer; and another
// request of the same client goes well meanwhile and after.
func TestStallsAreEnded(t *testing.T) {
	inBubble(t, func(b *bubble) {
		const pause = time.Second
		hung := make(chan struct{}, 10)
		b.pod = func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			switch {
			case err != nil:
			case string(body) == `"silent"`:
				<-r.Context().Done()
				hung <- struct{}{}
			case string(body) == `"endless"`:
				// A first part by itself: the gateway flushes it by a timer, which must not
				// wait for the lock of a write that is stuck, or virtual time stops.
				_, _ = io.WriteString(w, "begin")
				_ = http.NewResponseController(w).Flush()
				wait(pause)
				for r.Context().Err() == nil {
					if _, err := w.Write(make([]byte, 64<<10)); err != nil {
						break
					}
				}
				hung <- struct{}{}
			default:
				_, _ = w.Write(body)
			}
		}
		fine := func(when string) {
			b.t.Helper()
			if text, err := whole(b.post(b.t.Context(), strings.NewReader(`"fine"`))); err != nil || text != `"fine"` {
				b.t.Errorf("%s another request got %q, %v", when, text, err)
			}
		}
		began := time.Now()
		silent, err := b.post(b.t.Context(), strings.NewReader(`"silent"`))
		if err != nil || silent.StatusCode != http.StatusGatewayTimeout || time.Since(began) != 10*time.Minute {
			b.t.Errorf("a silent pod: %v, %v after %v, want 504 after 10 minutes", silent, err, time.Since(began))
		}
		_ = silent.Body.Close()
		<-hung
		fine("after a silent pod")

		began = time.Now()
		half, more := io.Pipe()
		go func() { _, _ = io.WriteString(more, "half") }()
		stalled, err := b.post(b.t.Context(), half)
		if err != nil || stalled.StatusCode != http.StatusRequestTimeout || time.Since(began) != 30*time.Second {
			b.t.Errorf("half a body: %v, %v after %v, want 408 after 30 s", stalled, err, time.Since(began))
		}
		_ = stalled.Body.Close()
		fine("after half a body")
		_ = more.Close()

		endless, err := b.post(b.t.Context(), strings.NewReader(`"endless"`))
		if err != nil || endless.StatusCode != http.StatusOK {
			b.t.Fatalf("%v, %v", endless, err)
		}
		began = time.Now()
		fine("beside one that is not read")
		<-hung
		if took := time.Since(began); took < 30*time.Second || took > pause+30*time.Second {
			b.t.Errorf("a pod wrote for %v to a client that does not read, want 30 s after the first part or so", took)
		}
		if n, err := io.Copy(io.Discard, endless.Body); err == nil {
			b.t.Errorf("an answer that was given up ended well after %d bytes", n)
		}
		_ = endless.Body.Close()
		fine("after one that was not read")
	})
}

// TestEachEventByItself: an event is here before the next is made, and the end is
// clean, or one that says that it is none, trailers and all.
func TestEachEventByItself(t *testing.T) {
	inBubble(t, func(b *bubble) {
		steps := make(chan string)
		b.pod = func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Trailer", "X-Tokens")
			_ = http.NewResponseController(w).Flush()
			for {
				select {
				case step := <-steps:
					switch step {
					case "cut":
						panic(http.ErrAbortHandler)
					case "end":
						w.Header().Set("X-Tokens", "2")
						return
					}
					_, _ = fmt.Fprintf(w, "data: %s\n\n", step)
					_ = http.NewResponseController(w).Flush()
				case <-r.Context().Done():
					steps <- "left"
					return
				}
			}
		}
		read := func(last string) (*http.Response, context.CancelFunc) {
			ctx, cancel := context.WithCancel(b.t.Context())
			go func() { steps <- "one" }() // the head comes with the first event
			res, err := b.post(ctx, strings.NewReader("{}"))
			if err != nil {
				b.t.Fatal(err)
			}
			in := bufio.NewReader(res.Body)
			for _, word := range []string{"one", "two"} {
				if word != "one" {
					steps <- word
				}
				line, err := in.ReadString('\n')
				if err != nil || line != "data: "+word+"\n" {
					b.t.Fatalf("got %q, %v", line, err)
				}
				_, _ = in.ReadString('\n')
			}
			if last != "" {
				steps <- last
			}
			return res, cancel
		}
		res, cancel := read("end")
		if _, err := io.ReadAll(res.Body); err != nil || res.Trailer.Get("X-Tokens") != "2" {
			b.t.Errorf("the end: %v, trailer %v", err, res.Trailer)
		}
		cancel()
		_ = res.Body.Close()

		res, cancel = read("cut")
		if text, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(text), `"code":"stream_interrupted"`) {
			b.t.Errorf("a cut stream ended with %q, %v", text, err)
		}
		cancel()
		_ = res.Body.Close()

		res, cancel = read("")
		cancel()
		if said := <-steps; said != "left" { // the pod's generation ends with its client
			b.t.Errorf("the pod said %q", said)
		}
		_ = res.Body.Close()
	})
}

// TestBodyIsAskedFor: who waits for 100 is sent it when the body is wanted, and not
// when it is not.
func TestBodyIsAskedFor(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pod = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Expect") != "" {
				panic("the expectation went on to the pod")
			}
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, n)
		}
		if text, err := whole(b.post(b.t.Context(), strings.NewReader(`"wanted"`), "Expect", "100-continue")); err != nil || text != "8" {
			b.t.Errorf("got %q, %v", text, err)
		}
		// A body of 101 MiB is refused by its announced length; nobody reads of it.
		huge := &counting{r: io.LimitReader(zeros{}, 101<<20)}
		r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, "http://gateway/v2/models/llama/generate", huge)
		if err != nil {
			b.t.Fatal(err)
		}
		r.ContentLength = 101 << 20
		r.Header.Set("Expect", "100-continue")
		res, err := b.Do(r)
		if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge {
			b.t.Fatalf("%v, %v, want 413", res, err)
		}
		_ = res.Body.Close()
		if huge.n != 0 {
			b.t.Errorf("%d bytes were sent of a body that nobody wants", huge.n)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

type counting struct {
	r io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// digits are JSON of a size.
func digits(size int) []byte { return bytes.Repeat([]byte("1"), size) }

// TestBodyMayWaitForItsPod: while a pod is yet to be connected to, nobody waits for
// the client.
func TestBodyMayWaitForItsPod(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.connecting = 50 * time.Second // longer than any deadline of a read
		b.pod = func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, n)
		}
		for _, size := range []int{5 << 20, 100} { // streamed through, and kept
			text, err := whole(b.post(b.t.Context(), bytes.NewReader(digits(size))))
			if err != nil || text != fmt.Sprint(size) {
				b.t.Errorf("%d bytes: got %q, %v", size, text, err)
			}
		}
	})
}

// TestStuckBodiesLeaveRoom: bodies that a hung pod does not take, on the same
// connection over HTTP/2, hold no other request up.
func TestStuckBodiesLeaveRoom(t *testing.T) {
	inBubble(t, func(b *bubble) {
		const stuck = 40
		here, healed := make(chan struct{}), make(chan struct{})
		b.pod = func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength > 1<<20 {
				here <- struct{}{}
				<-healed
				return
			}
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, n)
		}
		ctx, leave := context.WithCancel(b.t.Context())
		var g sync.WaitGroup
		for range stuck {
			g.Go(func() {
				if res, err := b.post(ctx, bytes.NewReader(digits(3<<20))); err == nil {
					_ = res.Body.Close()
				}
			})
		}
		for range stuck {
			<-here
		}
		synctest.Wait() // they have sent what they can
		began := time.Now()
		if text, err := whole(b.post(b.t.Context(), bytes.NewReader(digits(500<<10)))); err != nil || text != fmt.Sprint(500<<10) {
			b.t.Errorf("got %q, %v after %v", text, err, time.Since(began))
		}
		leave()
		g.Wait()
		close(healed)
	})
}

// TestRefusalSparesTheConnection: over HTTP/2 a bad request costs its client
// nothing but the request.
func TestRefusalSparesTheConnection(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pod = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") }
		way := b.Transport.(*http.Transport)
		dials, dial := 0, way.DialContext
		way.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return dial(ctx, network, addr)
		}
		for range 5 {
			r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, "http://gateway/v2//health/live", http.NoBody)
			if err != nil {
				b.t.Fatal(err)
			}
			res, err := b.Do(r)
			if err != nil || res.StatusCode != http.StatusBadRequest {
				b.t.Fatalf("%v, %v", res, err)
			}
			_ = res.Body.Close()
		}
		want := 5
		if way.Protocols.UnencryptedHTTP2() {
			want = 1
		}
		if dials != want {
			b.t.Errorf("%d connections for five bad requests, want %d", dials, want)
		}
	})
}
