package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/rpc"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	llama    = regions.ModelName("llama")
	patience = 20 * time.Second
)

// rig is a proxy behind a real server, in front of real listeners.
type rig struct {
	tb     testing.TB
	pool   *pool.Pool
	url    string
	addr   string
	client *http.Client
	reg    *prometheus.Registry
	proxy  *proxy.Proxy

	mu     sync.Mutex
	sights []regions.Observation
}

// newRig starts a proxy in front of pods at the given addresses; they are named
// a, b, c … in that order.
func newRig(tb testing.TB, tune func(*proxy.Options), pods ...string) *rig {
	tb.Helper()
	g := &rig{tb: tb, reg: prometheus.NewRegistry()}
	pools := pool.DefaultOptions()
	pools.OnFree = func(m regions.ModelName) {
		if g.proxy != nil { // while it is made
			g.proxy.Free(m)
		}
	}
	g.pool = pool.New(pools)
	var set []regions.Pod
	for i, addr := range pods {
		set = append(set, regions.Pod{
			ID: regions.PodID(rune('a' + i)), HTTP: netip.MustParseAddrPort(addr), GRPC: netip.MustParseAddrPort(addr), OpenAI: netip.MustParseAddrPort(addr),
			Models: []regions.PodModel{{Name: llama, Slots: 8}},
		})
	}
	now := time.Now()
	g.pool.SetPods(now, set)
	for _, p := range set {
		g.pool.SetState(now, p.ID, llama, regions.PodReady)
	}
	o := proxy.DefaultOptions("here", g.pool)
	o.Registry = g.reg
	o.Admit.MaxWait = 100 * time.Millisecond // what is not there at once does not come
	o.Observe = func(seen regions.Observation) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.sights = append(g.sights, seen)
	}
	if tune != nil {
		tune(&o)
	}
	g.proxy = proxy.New(o)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		model := llama
		if m := r.Header.Get("Test-Model"); m != "" {
			model = regions.ModelName(m)
		}
		wait, _ := time.ParseDuration(r.Header.Get("Test-Wait")) // none by default
		var until time.Time
		if left, err := rpc.ParseTimeout(r.Header.Get(rpc.TimeoutHeader)); err == nil {
			until = time.Now().Add(left)
		}
		g.proxy.Forward(w, r, regions.Request{
			Model: model, Client: netip.MustParseAddr("198.51.100.7"),
			Replayable: strings.Contains(r.URL.Path, "/generate") || strings.HasSuffix(r.URL.Path, "/ModelStreamInfer") || r.URL.Path == "/v1/completions",
			Streams:    strings.HasSuffix(r.URL.Path, "/generate_stream") || strings.HasSuffix(r.URL.Path, "/ModelStreamInfer") || r.URL.Path == "/v1/completions",
			Frontend:   frontendOf(r),
			Aside:      r.Header.Get("Test-Aside") != "",
			From:       regions.ID(r.Header.Get(proxy.SpillHeader)),
			MaxWait:    wait,
			Until:      until,
		})
	}))
	server.Config.Protocols = new(http.Protocols) // those of the gateway's server
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	g.url, g.addr = server.URL, server.Listener.Addr().String()
	g.client = &http.Client{Transport: &http.Transport{DisableCompression: true}}
	tb.Cleanup(func() {
		g.client.CloseIdleConnections()
		server.Close()
		g.proxy.CloseIdle()
		g.settled()
	})
	return g
}

// frontendOf is the frontend of a request.
func frontendOf(r *http.Request) regions.Frontend {
	switch {
	case rpc.IsCall(r):
		return regions.GRPC
	case strings.HasPrefix(r.URL.Path, "/v1/"):
		return regions.OpenAI
	default:
		return regions.HTTP
	}
}

// settled checks that every claim was released.
func (g *rig) settled() {
	g.tb.Helper()
	for _, s := range g.metric("rhumb_proxy_in_flight") {
		if s != 0 {
			g.tb.Errorf("%v requests still in flight at the end", s)
		}
	}
}

// metric gives the values of a metric's children.
func (g *rig) metric(name string) (out []float64) {
	g.tb.Helper()
	families, err := g.reg.Gather()
	if err != nil {
		g.tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			out = append(out, m.GetGauge().GetValue()+m.GetCounter().GetValue())
		}
	}
	return out
}

// ended waits until the proxy has counted n requests for llama that ended so.
func (g *rig) ended(end regions.End, n int) {
	g.tb.Helper()
	want := fmt.Sprintf(`rhumb_proxy_requests_total{end=%q,model="llama"} %d`, end.String(), n)
	regionstest.Eventually(g.tb, patience, func() bool {
		text, err := testutil.CollectAndFormat(g.reg, expfmt.TypeTextPlain, "rhumb_proxy_requests_total")
		return err == nil && strings.Contains(string(text), want)
	}, want)
}

// saw lists the sights so far, as "pod:sight".
func (g *rig) saw() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for _, s := range g.sights {
		out = append(out, string(s.Pod)+":"+s.Sight.String())
	}
	slices.Sort(out)
	return out
}

// post sends a request and reads the whole answer.
func (g *rig) post(path, body string, fields ...string) (*http.Response, string, error) {
	g.tb.Helper()
	req := newRequest(g.tb, http.MethodPost, g.url+path, strings.NewReader(body), fields...)
	return g.do(req)
}

func (g *rig) do(req *http.Request) (*http.Response, string, error) {
	res, err := g.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res, string(text), err
}

// newRequest makes a request with fields given as name, value pairs.
func newRequest(tb testing.TB, method, url string, body io.Reader, fields ...string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, body)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	return req
}

// startPod serves a handler as a pod and gives its address.
func startPod(tb testing.TB, h http.HandlerFunc) string {
	tb.Helper()
	server := httptest.NewServer(h)
	tb.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.Listener.Addr().String()
}

// echo answers with its name and the length of what it was sent.
func echo(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s:%d", name, n)
	}
}

// rawPod accepts connections and gives each to serve, which is expected to
// close it.
func rawPod(tb testing.TB, serve func(net.Conn)) string {
	tb.Helper()
	l := listen(tb)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	tb.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// nobody is an address where connections are refused.
func nobody(tb testing.TB) string {
	tb.Helper()
	l := listen(tb)
	defer l.Close()
	return l.Addr().String()
}

// readRequest reads one request off a raw pod's connection, body included.
func readRequest(c net.Conn) error {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

// dial opens a raw connection to the proxy.
func (g *rig) dial() net.Conn {
	g.tb.Helper()
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.addr)
	if err != nil {
		g.tb.Fatal(err)
	}
	g.tb.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		g.tb.Fatal(err)
	}
	return c
}

// raw sends bytes and reads the answer's head and body until the connection or
// the answer ends.
func (g *rig) raw(payload string) (*http.Response, string, error) {
	g.tb.Helper()
	c := g.dial()
	if _, err := io.WriteString(c, payload); err != nil {
		g.tb.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res, string(text), err
}
