package abuse

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions/gateway/gatewaytest"
)

const post = "POST " + generate + " HTTP/1.1\r\nHost: h\r\n"

// many opens connections, says something on each, goes on saying something every so
// often, and waits until the gateway has closed all. If read is false nothing is
// read before. It tells how long the longest lived, and what was answered.
func (v *victim) many(n int, words, again string, every time.Duration, read bool) (longest time.Duration, answers string) {
	v.t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	statuses := map[string]int{}
	for range n {
		c, err := v.tryDial()
		if err != nil {
			v.t.Fatal(err)
		}
		if tcp, ok := c.(*net.TCPConn); ok && !read {
			_ = tcp.SetReadBuffer(2 << 10)
		}
		all.Go(func() {
			defer func() { _ = c.Close() }()
			began := time.Now()
			closed := make(chan string, 1)
			if read {
				go func() {
					text, err := io.ReadAll(c)
					var late net.Error
					if errors.As(err, &late) && late.Timeout() {
						v.t.Error("the gateway does not close the connection")
					}
					closed <- strings.TrimPrefix(string(text[:min(12, len(text))]), "HTTP/1.1 ")
				}()
			}
			_, err := io.WriteString(c, words)
			status := "never"
			for over := false; !over; {
				select {
				case status = <-closed:
					over = true
				case <-time.After(every):
					// After the gateway has closed, the second write fails at the latest.
					if again != "" || !read {
						_, err = io.WriteString(c, again)
					}
					over = !read && (err != nil || v.pod.open.Load() <= 1)
				}
				if time.Since(began) > patience {
					v.t.Error("the gateway does not close the connection")
					_ = c.Close()
					over = true
				}
			}
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, time.Since(began))
			statuses[status]++
		})
	}
	all.Wait()
	return longest, fmt.Sprint(statuses)
}

// TestSlowClients: slow heads, slow bodies and slow readers are cut, while others
// are served.
func TestSlowClients(t *testing.T) {
	n := times(50, 1000)
	short := func(l *limits) {
		l.clientStall = 10 * time.Second
		if !*heavy {
			l.head.Time, l.bodyStall, l.clientStall = time.Second, time.Second, time.Second
		}
	}
	for _, x := range []struct {
		name, words, again string
		read               bool
	}{
		{"slow heads", post + "X: ", "x", true},
		{"slow bodies", post + "Content-Length: 100000\r\n\r\n", "x", true},
		{"slow chunks", post + "Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", true},
		{"slow readers", post + "Content-Length: 6\r\n\r\n\"pour\"", "", false},
	} {
		t.Run(x.name, func(t *testing.T) {
			v := attack(t, short)
			b := v.beside(fmt.Sprintf("%d %s", n, x.name))
			longest, answers := v.many(n, x.words, x.again, 500*time.Millisecond, x.read)
			b.name += fmt.Sprintf(" (the last cut after %v, answers %s)", longest.Round(time.Second/2), answers)
			b.done(float64(64 + n/5)) // some 100 KiB for each that is served
			v.freed(0)
			eventually(t, func() bool { return v.pod.open.Load() == 0 }, "the pod is let go")
			v.blameless()
		})
	}
}

// TestSlowClientsOfAllKinds: a third each of slow heads, bodies and readers at once.
func TestSlowClientsOfAllKinds(t *testing.T) {
	n := times(20, 333)
	v := attack(t, func(l *limits) {
		l.clientStall = 10 * time.Second
		if !*heavy {
			l.head.Time, l.bodyStall, l.clientStall = time.Second, time.Second, time.Second
		}
	})
	b := v.beside(fmt.Sprintf("%d slow heads, bodies and readers", 3*n))
	var all sync.WaitGroup
	all.Go(func() { v.many(n, post+"X: ", "x", 500*time.Millisecond, true) })
	all.Go(func() { v.many(n, post+"Content-Length: 100000\r\n\r\n", "x", 500*time.Millisecond, true) })
	all.Go(func() { v.many(n, post+"Content-Length: 6\r\n\r\n\"pour\"", "", 500*time.Millisecond, false) })
	all.Wait()
	b.done(float64(64 + 3*n/5))
	v.freed(0)
	eventually(t, func() bool { return v.pod.open.Load() == 0 }, "the pod is let go")
	v.blameless()
}

// TestIdleConnections: thousands of connections that say nothing or nothing more
// hold little, and are closed; of one client only so many are let in.
func TestIdleConnections(t *testing.T) {
	n := times(300, 5000)
	for _, x := range []struct{ name, words string }{
		{"silent connections", ""},
		{"connections idle after a request", "GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"idle connections of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"},
	} {
		t.Run(x.name, func(t *testing.T) {
			v := attack(t, func(l *limits) {
				l.connections.PerClient = 2 * n
				l.head.Idle = 10 * time.Second
				if !*heavy {
					l.head.Time, l.head.Idle = time.Second, time.Second
				}
			})
			b := v.beside(fmt.Sprintf("%d %s", n, x.name))
			longest, _ := v.many(n, x.words, "", time.Second, true)
			b.name += fmt.Sprintf(" (the last closed after %v)", longest.Round(time.Second/2))
			b.done(float64(64 + n/20)) // 50 KiB for each
			v.freed(0)
		})
	}
	t.Run("one client's limit", func(t *testing.T) {
		limit := n * 2 / 5
		v := attack(t, func(l *limits) { l.connections.PerClient = limit })
		b := v.beside(fmt.Sprintf("%d connections, %d allowed", n, limit))
		var open []net.Conn
		for range n {
			c, err := v.tryDial()
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
		eventually(t, func() bool { return v.connections() <= limit }, "there are no more than allowed")
		b.done(64)
		for _, c := range open {
			_ = c.Close()
		}
		v.freed(0)
	})
}

// TestEndlessBodies: a body that does not end is refused when it is too large, and
// is not kept in memory meanwhile.
func TestEndlessBodies(t *testing.T) {
	limit := int64(times(4<<20, 100<<20))
	for name, framing := range map[string]string{
		"chunked": "Transfer-Encoding: chunked\r\n\r\n", "announced": fmt.Sprintf("Content-Length: %d\r\n\r\n", limit+1),
	} {
		t.Run(name, func(t *testing.T) {
			v := attack(t, func(l *limits) { l.body = limit })
			const senders = 8
			b := v.beside(fmt.Sprintf("%d endless bodies, %s", senders, name))
			var all sync.WaitGroup
			var sent atomic.Int64
			for range senders {
				all.Go(func() {
					c := v.dial()
					defer func() { _ = c.Close() }()
					answered := make(chan struct{})
					go func() {
						defer close(answered)
						res, err := http.ReadResponse(bufio.NewReader(c), nil)
						if err != nil {
							t.Errorf("no answer: %v", err)
							return
						}
						_ = res.Body.Close()
						if res.StatusCode != http.StatusRequestEntityTooLarge || !res.Close {
							t.Errorf("got %s, closed %v, want 413 and the end", res.Status, res.Close)
						}
					}()
					_, err := io.WriteString(c, post+framing)
					part := []byte("10000\r\n" + strings.Repeat("x", 0x10000) + "\r\n")
					for err == nil {
						select {
						case <-answered:
							err = io.EOF
						default:
							var n int
							n, err = c.Write(part)
							sent.Add(int64(n))
						}
					}
					<-answered
				})
			}
			all.Wait()
			b.name += fmt.Sprintf(" (%d MiB sent)", sent.Load()>>20)
			b.done(64)
			v.freed(0)
			eventually(t, func() bool { return v.pod.open.Load() == 0 }, "the pod is let go")
			v.blameless()
		})
	}
}

// TestPayloads: each of what deceives or is malformed is answered as it must be, by
// the whole daemon too.
func TestPayloads(t *testing.T) {
	v := attack(t, nil)
	for _, p := range gatewaytest.Payloads() {
		before := v.pod.heard.Load()
		status, closed := v.exchange(p.Text, p.Closed)
		if status != p.Status || closed != p.Closed {
			t.Errorf("%s: %d, closed %v; want %d, closed %v", p.Name, status, closed, p.Status, p.Closed)
		}
		if heard := v.pod.heard.Load() > before; heard != (p.Heard != "") {
			t.Errorf("%s: the pod heard it %v", p.Name, heard)
		}
	}
	v.blameless()
	t.Logf("%d payloads", len(gatewaytest.Payloads()))
}

// exchange sends bytes and reads one answer, and whether the connection ends then.
func (v *victim) exchange(words string, closes bool) (status int, closed bool) {
	v.t.Helper()
	c := v.dial()
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, words) // it may be refused in the middle
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	for ; err == nil && res.StatusCode == http.StatusContinue; res, err = http.ReadResponse(in, nil) {
		_ = res.Body.Close()
	}
	if err != nil {
		return 0, true
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if closes {
		_, err := in.ReadByte()
		return res.StatusCode, err != nil
	}
	return res.StatusCode, res.Close
}

// TestBadBodies: bodies that are malformed, too long, cut or given up, by the
// thousand: the answer is the client's fault, if it is there for one, and no pod
// suffers for it.
func TestBadBodies(t *testing.T) {
	v := attack(t, func(l *limits) { l.body = 2 << 20 })
	b := v.beside(fmt.Sprintf("%d bad bodies", times(300, 10_000)))
	long := strings.Repeat("x", 1<<20+1) // streams through
	kinds := []struct {
		words string
		stays bool // for an answer
	}{
		{post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", true},
		{post + "Transfer-Encoding: chunked\r\n\r\n6\r\n\"hang\"", false},
		{post + "Transfer-Encoding: chunked\r\nIdempotency-Key: x\r\n\r\n6\r\n\"hang\"\r\n0\r\n\r\n", false},
		{post + "Transfer-Encoding: chunked\r\n\r\n100001\r\n" + long + "\r\nzz\r\n", true},
		{post + "Content-Length: 2000000\r\nIdempotency-Key: x\r\n\r\n" + long, false},
		{post + "Content-Length: 2097153\r\n\r\n", true},
		{post + "Content-Length: 9\r\n\r\nhalf", false},
		{post + "Content-Length: 6\r\n\r\n\"hang\"", false},
		{post + "Content-Length: 6\r\n\r\n\"pour\"", false},
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	work := make(chan int)
	for range 16 {
		all.Go(func() {
			for i := range work {
				k := kinds[i%len(kinds)]
				c, err := v.tryDial()
				if err != nil {
					t.Error(err)
					continue
				}
				_, _ = io.WriteString(c, k.words)
				if !k.stays {
					<-time.After(rand.N(20 * time.Millisecond))
					_ = c.Close()
					continue
				}
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Errorf("%.80q: %v", k.words, err)
				} else {
					_ = res.Body.Close()
					mu.Lock()
					statuses[res.StatusCode]++
					mu.Unlock()
				}
				_ = c.Close()
			}
		})
	}
	for i := range times(300, 10_000) {
		work <- i
	}
	close(work)
	all.Wait()
	for status := range statuses {
		if status != http.StatusBadRequest && status != http.StatusRequestEntityTooLarge {
			t.Errorf("answers by status: %v", statuses)
		}
	}
	b.name += fmt.Sprintf(" (answers %v)", statuses)
	b.done(256)
	v.freed(0)
	eventually(t, func() bool { return v.pod.open.Load() == 0 }, "the pod is let go")
	v.blameless()
}

// TestTenMinutes: a stream of ten minutes lives, and normal clients are served,
// while slow clients come in thousands, again and again.
func TestTenMinutes(t *testing.T) {
	if !*heavy {
		t.Skip("ten minutes; run with -args -heavy")
	}
	v := attack(t, func(l *limits) { l.clientStall = 10 * time.Second })
	b := v.beside("ten minutes")
	rounds := 0
	for began := time.Now(); time.Since(began) < 10*time.Minute; rounds++ {
		var all sync.WaitGroup
		for _, x := range []struct {
			words, again string
			read         bool
		}{
			{post + "X: ", "x", true}, {post + "Content-Length: 100000\r\n\r\n", "x", true}, {post + "Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", true},
		} {
			all.Go(func() { _, _ = v.many(333, x.words, x.again, time.Second, x.read) })
		}
		all.Wait()
	}
	b.name += fmt.Sprintf(" (%d rounds of 999 slow clients)", rounds)
	b.done(256)
	v.freed(0)
	v.blameless()
}
