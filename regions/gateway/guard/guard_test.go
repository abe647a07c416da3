package guard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// visitor is a connection from some address that notes its end.
type visitor struct {
	net.Conn
	from   net.Addr
	closed bool
}

func (v *visitor) RemoteAddr() net.Addr { return v.from }
func (v *visitor) Close() error         { v.closed = true; return nil }

func from(address string) *visitor {
	return &visitor{from: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 4711))}
}

// TestRoom: a table of steps, each an event on a connection, and who was closed or
// refused by it.
func TestRoom(t *testing.T) {
	type step struct {
		what string // come, speak, rest, end
		who  string
		out  string // who is closed by it; "refused" for who comes itself
	}
	for name, tt := range map[string]struct {
		limits    Limits
		addresses map[string]string
		steps     []step
	}{
		"no limit": {
			Limits{}, map[string]string{"a": "192.0.2.1", "b": "192.0.2.1", "c": "192.0.2.1"},
			[]step{{"come", "a", ""}, {"come", "b", ""}, {"come", "c", ""}},
		},
		"busy ones are never closed": {
			Limits{Connections: 2}, map[string]string{"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"},
			[]step{{"come", "a", ""}, {"speak", "a", ""}, {"come", "b", ""}, {"speak", "b", ""}, {"come", "c", "refused"}, {"end", "a", ""}, {"come", "c", ""}},
		},
		"the longest idle goes first": {
			Limits{Connections: 2}, map[string]string{"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3", "d": "192.0.2.4"},
			[]step{
				{"come", "a", ""}, {"speak", "a", ""}, {"come", "b", ""}, {"speak", "b", ""}, {"rest", "b", ""}, {"rest", "a", ""},
				{"come", "c", "b"}, {"speak", "c", ""}, {"come", "d", "a"},
			},
		},
		"who said nothing goes before who is idle": {
			Limits{Connections: 2}, map[string]string{"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"},
			[]step{{"come", "a", ""}, {"speak", "a", ""}, {"rest", "a", ""}, {"come", "b", ""}, {"come", "c", "b"}},
		},
		"a client makes room among its own": {
			Limits{Connections: 9, PerClient: 2}, map[string]string{"x": "192.0.2.9", "a": "192.0.2.1", "b": "192.0.2.1", "c": "192.0.2.1", "d": "::ffff:192.0.2.1"},
			[]step{
				{"come", "x", ""}, {"come", "a", ""}, {"speak", "a", ""}, {"come", "b", ""}, {"come", "c", "b"},
				{"speak", "c", ""}, {"come", "d", "refused"}, {"rest", "a", ""}, {"come", "d", "a"},
			},
		},
		"a /64 is one client": {
			Limits{PerClient: 1}, map[string]string{"a": "2001:db8:0:1::1", "b": "2001:db8:0:1:ffff::2", "c": "2001:db8:0:2::1"},
			[]step{{"come", "a", ""}, {"speak", "a", ""}, {"come", "b", "refused"}, {"come", "c", ""}},
		},
		"proxies are many clients": {
			Limits{PerClient: 1, Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, map[string]string{"a": "10.0.0.1", "b": "10.0.0.1"},
			[]step{{"come", "a", ""}, {"speak", "a", ""}, {"come", "b", ""}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := New(Options{Limits: tt.limits})
			here, conns := map[string]*visitor{}, map[string]*conn{}
			for who, address := range tt.addresses {
				here[who] = from(address)
			}
			for i, s := range tt.steps {
				out := ""
				switch v := here[s.who]; s.what {
				case "come":
					if conns[s.who] = g.enter(v); conns[s.who] == nil {
						out = "refused"
					}
				case "speak":
					g.changed(conns[s.who], http.StateActive)
				case "rest":
					g.changed(conns[s.who], http.StateIdle)
				case "end":
					_ = conns[s.who].Close()
					v.closed = false
				}
				for who, v := range here {
					if v.closed {
						out, v.closed = who, false
						_ = conns[who].Close() // the server notices later
						v.closed = false
					}
				}
				if out != s.out {
					t.Fatalf("step %d, %s %s: out is %q, want %q", i, s.what, s.who, out, s.out)
				}
			}
		})
	}
}

// TestNothingIsKept: whatever order things happen in, no count and no client is
// left when all connections have ended.
func TestNothingIsKept(t *testing.T) {
	g := New(Options{Limits: Limits{Connections: 50, PerClient: 3}})
	var all []*conn
	for i := range 500 {
		if c := g.enter(from(fmt.Sprintf("192.0.2.%d", i%40))); c != nil {
			all = append(all, c)
		}
		for k, c := range all {
			if on := introduce(t.Context(), c); (i+k)%5 == 0 {
				ForPeer(on)
			} else {
				ForModel(on, regions.ModelName(fmt.Sprint((i+k)%7)))
			}
			g.changed(c, []http.ConnState{http.StateActive, http.StateIdle}[(i+k)%2])
			if (i+k)%17 == 0 {
				_ = c.Close()
			}
		}
	}
	for _, c := range all {
		_ = c.Close()
		_ = c.Close()
		g.changed(c, http.StateIdle)
		ForModel(introduce(t.Context(), c), "llama") // a request that goes on
	}
	if len(all) < 50 || g.Connections() != 0 || len(g.conns) != 0 || len(g.clients) != 0 || len(g.uses) != 0 || g.all.idle.Len() != 0 || g.all.silent.Len() != 0 {
		t.Errorf("%d of %d connections, %d clients, %d idle, %d silent are left", g.Connections(), len(all), len(g.clients), g.all.idle.Len(), g.all.silent.Len())
	}
}

// TestLeaveAsksAShareOnce: of the clients of the model that a row is for, and of nobody
// else, however often it comes.
func TestLeaveAsksAShareOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		g := New(Options{Registry: reg})
		const n = 2000
		come := func(model regions.ModelName) {
			for range n {
				ForModel(introduce(t.Context(), g.enter(from("192.0.2.1"))), model)
			}
		}
		come("llama")
		come("mistral")
		for range n {
			ForPeer(introduce(t.Context(), g.enter(from("192.0.2.1"))))
			g.enter(from("192.0.2.1")) // nothing was asked for yet
		}
		asked := func(of func(*conn) bool) (now, ever int) {
			for c := range g.conns {
				if of(c) && c.asked != "" {
					ever++
				}
				if of(c) && time.Now().UnixNano() >= c.leave.Load() {
					now++
				}
			}
			return now, ever
		}
		llama := func(c *conn) bool { return c.isFor("llama") }
		all := func(*conn) bool { return true }
		others := func(c *conn) bool { return !llama(c) }
		g.Leave("llama", 0, time.Minute)
		if now, ever := asked(all); now != 0 || ever != 0 {
			t.Fatalf("%d, %d were asked of none", now, ever)
		}
		for range 30 { // a row each second says the same
			g.Leave("llama", 300, time.Minute)
			<-time.After(time.Second)
		}
		// Six standard deviations of a share of 0.3, and of a half of that.
		if now, ever := asked(llama); ever < 477 || ever > 723 || now < ever/2-75 || now > ever/2+75 {
			t.Errorf("%d of %d were asked, of these %d within half of the time; want some 600 and 300", ever, n, now)
		}
		<-time.After(30 * time.Second)
		if now, ever := asked(llama); now != ever {
			t.Errorf("%d of %d were asked in time", now, ever)
		}
		if now, ever := asked(others); now != 0 || ever != 0 {
			t.Errorf("%d, %d of another model, of other regions, or of nobody yet were asked", now, ever)
		}
		come("llama") // some of whom are asked by the next row
		g.Leave("llama", 300, time.Minute)
		g.LeaveAll(time.Minute)
		g.Leave("llama", 0, time.Minute) // LeaveAll is for good
		<-time.After(time.Minute)
		if now, _ := asked(all); now != 5*n {
			t.Errorf("%d of %d were asked, want all", now, 5*n)
		}
		if got := testutil.ToFloat64(g.metrics.asked); got < 5*n+2*477 || got > 5*n+2*723 {
			t.Errorf("%v counted", got)
		}
	})
}

// TestLeaveFollowsTheNewestShare: steps of rows over time, and how many of a thousand
// connections are asked by then, and how many are due; of the latter none is taken back.
func TestLeaveFollowsTheNewestShare(t *testing.T) {
	type step struct {
		at    int // seconds
		model regions.ModelName
		share regions.Permille
		come  int // connections for llama that come before
		asked int
		due   int
	}
	for name, tt := range map[string]struct {
		age   time.Duration
		steps []step
	}{
		"a share that falls": {0, []step{
			{0, "llama", 400, 1000, 400, 0}, {15, "llama", 100, 0, 250, 200}, {40, "llama", 100, 0, 250, 250},
		}},
		"a share that is gone": {0, []step{
			{0, "llama", 1000, 1000, 1000, 0}, {15, "llama", 0, 0, 500, 500}, {50, "llama", 0, 0, 500, 500},
		}},
		"a share that comes again": {0, []step{
			{0, "llama", 400, 1000, 400, 0}, {0, "llama", 0, 0, 0, 0}, {1, "llama", 400, 0, 400, 0}, {31, "llama", 400, 0, 400, 400},
		}},
		"a share that rises": {0, []step{
			{0, "llama", 100, 1000, 100, 0}, {30, "llama", 300, 0, 300, 100}, {60, "llama", 300, 0, 300, 300},
		}},
		"those that come later": {0, []step{
			{0, "llama", 100, 1000, 100, 0}, {30, "llama", 100, 1000, 200, 100}, {60, "llama", 100, 0, 200, 200},
		}},
		"another model's": {0, []step{
			{0, "llama", 200, 1000, 200, 0}, {1, "mistral", 1000, 0, 200, 7}, {2, "mistral", 0, 0, 200, 13}, {30, "llama", 200, 0, 200, 200},
		}},
		"age goes on": {5 * time.Minute, []step{
			{0, "llama", 1000, 1000, 1000, 0}, {0, "llama", 0, 0, 0, 0}, {239, "llama", 0, 0, 0, 0}, {361, "llama", 0, 0, 0, 1000},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := New(Options{Limits: Limits{Age: tt.age}})
				began := time.Now()
				for i, s := range tt.steps {
					<-time.After(time.Until(began.Add(time.Duration(s.at) * time.Second)))
					for range s.come {
						c := g.enter(from("192.0.2.1"))
						c.draw = regions.Permille(len(g.conns)-1) % regions.Whole // one of each
						ForModel(introduce(t.Context(), c), "llama")
					}
					g.Leave(s.model, s.share, 30*time.Second)
					asked, due := 0, 0
					for c := range g.conns {
						if c.asked != "" {
							asked++
						}
						if c.isDue() {
							due++
						}
					}
					// What is due is so by a moment that is drawn: six standard deviations of a half of a thousand.
					if far := max(asked-s.asked, s.asked-asked, due-s.due, s.due-due); far > 95 || s.at%30 == 0 && far > 0 {
						t.Errorf("step %d: %d are asked, %d due; want %d and %d", i, asked, due, s.asked, s.due)
					}
				}
			})
		})
	}
}

// TestNamesAreNotKept: what a client says that its request is for takes no more room
// than a name.
func TestNamesAreNotKept(t *testing.T) {
	g := New(Options{})
	c := g.enter(from("192.0.2.1"))
	on := introduce(t.Context(), c)
	ForModel(on, "llama")
	ForModel(on, regions.ModelName(strings.Repeat("x", maxModel+1)))
	if !c.isFor("llama") {
		t.Error("a name that is too long was kept")
	}
	head := strings.Repeat("x", maxModel) + strings.Repeat("y", 32<<10)
	ForModel(on, regions.ModelName(head[:maxModel]))
	if kept := string(c.use.Load().model); kept != head[:maxModel] || unsafe.StringData(kept) == unsafe.StringData(head) {
		t.Error("the whole head was kept")
	}
	ForPeer(on)
	if c.isFor(regions.ModelName(head[:maxModel])) {
		t.Error("a peer's connection is still its client's")
	}
	ForModel(t.Context(), "llama") // no connection is known
	ForPeer(t.Context())
}

func TestAgesDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{Limits: Limits{Age: 5 * time.Minute}})
		low, high := time.Hour, time.Duration(0)
		for range 1000 {
			age := time.Until(time.Unix(0, g.enter(from("192.0.2.1")).leave.Load()))
			low, high = min(low, age), max(high, age)
		}
		if low < 4*time.Minute || low > 250*time.Second || high > 6*time.Minute || high < 350*time.Second {
			t.Errorf("ages from %v to %v, want from 4 to 6 minutes", low, high)
		}
	})
}

func TestStages(t *testing.T) {
	for _, tt := range []struct {
		alive, limit int64
		want         stage
	}{
		{1 << 40, 0, enough}, {0, 1000, enough}, {949, 1000, enough}, {950, 1000, scarce}, {979, 1000, scarce}, {980, 1000, full}, {1 << 62, 1000, full},
	} {
		if got := stageAt(tt.alive, tt.limit); got != tt.want {
			t.Errorf("%d of %d alive: %v, want %v", tt.alive, tt.limit, got, tt.want)
		}
	}
}

func TestShortOfMemory(t *testing.T) {
	said, now := &strings.Builder{}, int64(0)
	g := New(Options{Limits: Limits{Memory: 1000}, Logger: slog.New(slog.NewTextHandler(said, nil)), alive: func() int64 { return now }})
	idle, silent, busy := from("192.0.2.1"), from("192.0.2.2"), from("192.0.2.3")
	g.changed(g.enter(idle), http.StateActive)
	for c := range g.conns {
		g.changed(c, http.StateIdle)
	}
	g.enter(silent)
	at := g.enter(busy)
	g.changed(at, http.StateActive)
	on := introduce(t.Context(), at)
	g.check()
	if idle.closed || silent.closed || Full(on) {
		t.Error("connections were closed with enough memory")
	}
	now = 960
	g.check()
	if !idle.closed || !silent.closed || busy.closed || Full(on) || g.enter(from("192.0.2.4")) == nil {
		t.Errorf("at 96 %%: idle closed %v, silent %v, busy %v; full %v", idle.closed, silent.closed, busy.closed, Full(on))
	}
	now = 990
	g.check()
	if !Full(on) || busy.closed || g.enter(from("192.0.2.5")) != nil {
		t.Error("at 99 % something is still let in")
	}
	now = 10
	g.check()
	if Full(on) || g.enter(from("192.0.2.6")) == nil || Full(t.Context()) {
		t.Error("memory is there again, and nothing is let in")
	}
	for _, want := range []string{"to=scarce", "to=full", "from=full to=enough"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the log lacks %q: %s", want, said)
		}
	}
}

func TestWhatIsAliveIsCounted(t *testing.T) {
	before := alive()
	if before < 100<<10 || before > 4<<30 {
		t.Fatalf("%d bytes alive", before)
	}
}

func TestRequestsGivenUp(t *testing.T) {
	debt, n := 0.0, 0
	for debt <= maxGivenUp {
		debt, n = owed(debt, time.Millisecond), n+1
	}
	if n < 200 || n > 220 {
		t.Errorf("cut after %d at a thousand a second, want a little over 200", n)
	}
	debt = 0
	for range 10_000 {
		if debt = owed(debt, time.Second/givenUpForgets); debt > 2 {
			t.Fatalf("debt of %v at the allowed rate", debt)
		}
	}
}

// port is a real server with a guard.
type port struct {
	t     *testing.T
	guard *Guard
	url   string
	trust *tls.Config
}

func serve(t *testing.T, secure bool, l Limits, h http.HandlerFunc) *port {
	t.Helper()
	p := &port{t: t, guard: New(Options{Limits: l})}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: h, Protocols: protocols, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), ReadHeaderTimeout: patience}
	p.guard.Attach(server)
	p.url = "http://" + listener.Addr().String()
	watched := p.guard.Listen(listener)
	run := func() error { return server.Serve(watched) }
	if secure {
		made := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
		defer made.Close()
		pair, roots := made.TLS.Certificates[0], x509.NewCertPool()
		roots.AddCert(made.Certificate())
		p.url, p.trust = "https://"+listener.Addr().String(), &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
		run = func() error { return server.ServeTLS(watched, "", "") }
	}
	ended := make(chan error, 1)
	go func() { ended <- run() }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		regionstest.Eventually(t, patience, func() bool { return p.guard.Connections() == 0 }, "all connections are counted out")
	})
	return p
}

// client speaks one protocol and counts its connections.
func (p *port) client(choose func(*http.Protocols)) (client *http.Client, dials func() int) {
	p.t.Helper()
	var mu sync.Mutex
	n := 0
	way := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		n++
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, addr)
	}, TLSClientConfig: p.trust.Clone()}
	choose(way.Protocols)
	p.t.Cleanup(way.CloseIdleConnections)
	return &http.Client{Transport: way}, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// eachProtocol runs a test over HTTP/1.1 and HTTP/2, with TLS and without.
func eachProtocol(t *testing.T, test func(t *testing.T, secure bool, choose func(*http.Protocols))) {
	t.Helper()
	for _, c := range []struct {
		name   string
		secure bool
		choose func(*http.Protocols)
	}{
		{"1.1", false, func(p *http.Protocols) { p.SetHTTP1(true) }},
		{"h2c", false, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }},
		{"1.1 over TLS", true, func(p *http.Protocols) { p.SetHTTP1(true) }},
		{"h2", true, func(p *http.Protocols) { p.SetHTTP2(true) }},
	} {
		t.Run(c.name, func(t *testing.T) { test(t, c.secure, c.choose) })
	}
}

// TestAskedToLeave: after being asked a client's next answer is its connection's
// last, and a stream on it goes on to its end. It loses no request by it.
func TestAskedToLeave(t *testing.T) {
	eachProtocol(t, func(t *testing.T, secure bool, choose func(*http.Protocols)) {
		more := make(chan struct{})
		p := serve(t, secure, Limits{}, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Peer") != "" {
				ForPeer(r.Context())
			} else {
				ForModel(r.Context(), "llama")
			}
			_, _ = io.WriteString(w, "one ")
			if r.URL.Path == "/stream" {
				_ = http.NewResponseController(w).Flush()
				<-more
			}
			_, _ = io.WriteString(w, "two")
		})
		client, dials := p.client(choose)
		get := func(path string, fields ...string) *http.Response {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range fields {
				r.Header.Set(f, "x")
			}
			res, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		read := func(res *http.Response) {
			t.Helper()
			text, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || string(text) != "one two" {
				t.Errorf("got %q, %v", text, err)
			}
		}
		stream := get("/stream")
		old := stream.ProtoMajor == 1
		for range 3 {
			read(get("/"))
		}
		want := 1 // of HTTP/2; HTTP/1.1 has one that streams and one for the rest
		if old {
			want = 2
		}
		if dials() != want {
			t.Fatalf("%d connections, want %d", dials(), want)
		}
		p.guard.Leave("mistral", regions.Whole, 0)
		p.guard.Leave("llama", regions.Whole, 0)
		read(get("/", "Peer"))        // another region's gateway is not asked
		read(get("/", "Rhumb-Spill")) // the last of its connection: who says so is not believed for it
		if dials() != want {
			t.Errorf("%d connections, want still %d", dials(), want)
		}
		regionstest.Eventually(t, patience, func() bool {
			read(get("/"))
			return dials() == want+1
		}, "the client opens another connection")
		for range 3 {
			read(get("/"))
		}
		if dials() != want+1 {
			t.Errorf("%d connections, want %d: those that came since were not asked", dials(), want+1)
		}
		close(more)
		read(stream)
		regionstest.Eventually(t, patience, func() bool { return p.guard.Connections() == 1 || old && p.guard.Connections() == 2 }, "the old connection is closed after its stream")
	})
}

// TestOldConnections: by age the same happens.
func TestOldConnections(t *testing.T) {
	eachProtocol(t, func(t *testing.T, secure bool, choose func(*http.Protocols)) {
		p := serve(t, secure, Limits{Age: time.Nanosecond}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") })
		client, dials := p.client(choose)
		for range 4 {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(res.Body); err != nil || string(text) != "fine" {
				t.Errorf("got %q, %v", text, err)
			}
			_ = res.Body.Close()
			regionstest.Eventually(t, patience, func() bool { return p.guard.Connections() == 0 }, "the connection is closed")
		}
		if dials() != 4 {
			t.Errorf("%d connections for four requests, want as many", dials())
		}
	})
}

// TestResetsAreCut: a client that gives up request after request loses its
// connection, and one that finishes them keeps it, however many there are.
func TestResetsAreCut(t *testing.T) {
	for _, exempt := range []bool{false, true} {
		l := Limits{}
		if exempt {
			l.Exempt = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		}
		p := serve(t, false, l, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hang" {
				<-r.Context().Done()
			}
		})
		client, dials := p.client(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
		ask := func(path string, giveUp bool) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			if giveUp {
				time.AfterFunc(time.Millisecond, cancel)
			}
			if res, err := client.Do(r); err == nil {
				_ = res.Body.Close()
			}
		}
		for range 1000 {
			ask("/", false)
		}
		if dials() != 1 {
			t.Fatalf("%d connections for finished requests, want 1", dials())
		}
		if exempt {
			for range 300 {
				ask("/hang", true)
			}
		} else {
			regionstest.Eventually(t, patience, func() bool { ask("/hang", true); return dials() > 1 }, "the connection is cut")
		}
		if cut := testutil.ToFloat64(p.guard.metrics.closed.WithLabelValues("resets")); exempt == (cut > 0) || exempt && dials() != 1 {
			t.Errorf("exempt %v: %v connections cut, %d dialled", exempt, cut, dials())
		}
	}
}

// TestRefusedAtTheDoor: what there is no room for is told at once, over real
// sockets, and the next one is let in when there is.
func TestRefusedAtTheDoor(t *testing.T) {
	hold := make(chan struct{})
	p := serve(t, false, Limits{Connections: 2}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-hold
	})
	client, _ := p.client(func(p *http.Protocols) { p.SetHTTP1(true) })
	get := func() (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		return client.Do(r)
	}
	var busy []*http.Response
	for range 2 {
		res, err := get()
		if err != nil {
			t.Fatal(err)
		}
		busy = append(busy, res)
	}
	for range 5 {
		if res, err := get(); err == nil {
			_ = res.Body.Close()
			t.Fatal("a third connection was let in")
		}
	}
	if got := testutil.ToFloat64(p.guard.metrics.refused.WithLabelValues("connections")); got < 5 {
		t.Errorf("%v refusals counted, want 5", got)
	}
	close(hold)
	for _, res := range busy {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	res, err := get()
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
}
