package abuse

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
	"github.com/rhumb-lb/rhumb/regions/gateway/heads"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

var heavy = flag.Bool("heavy", false, "attack an agent's process, at full strength")

func TestMain(m *testing.M) { goleak.VerifyTestMain(tests{m}) }

// patience bounds waiting on a loaded machine.
const patience = 2 * time.Minute

// times is how much of something there is.
func times(quick, full int) int {
	if *heavy {
		return full
	}
	return quick
}

// limits are those that tests change.
type limits struct {
	head        gateway.HeadLimits
	connections guard.Limits
	bodyStall   time.Duration // in this process only: an agent's is fixed
	clientStall time.Duration
	body        int64
}

// victim is a gateway under attack, and the pod behind it.
type victim struct {
	t     *testing.T
	addr  string
	pod   *pod
	agent *agent // nil if the gateway is in this process

	registry *prometheus.Registry // nil if it is not
	mu       sync.Mutex
	seen     []regions.Sight // of the pod, that were not well; under mu
}

// attack starts a gateway. tune may be nil.
func attack(t *testing.T, tune func(*limits)) *victim {
	t.Helper()
	l := limits{head: gateway.DefaultHeadLimits(), connections: guard.DefaultLimits(), bodyStall: 30 * time.Second, clientStall: proxy.DefaultLimits().ClientStall, body: proxy.DefaultLimits().Body}
	if tune != nil {
		tune(&l)
	}
	v := &victim{t: t, pod: newPod(t)}
	if *heavy {
		v.agent = startAgent(t, v.pod.addr, l)
		v.addr = v.agent.addr
		return v
	}
	v.registry = prometheus.NewRegistry()
	kept := pool.DefaultOptions()
	kept.Registry = v.registry
	pods := pool.New(kept)
	now := time.Now()
	pods.SetPods(now, []regions.Pod{{ID: "a", HTTP: netip.MustParseAddrPort(v.pod.addr), Models: []regions.PodModel{{Name: "llama", Slots: 4000}}}})
	pods.SetState(now, "a", "llama", regions.PodReady)
	o := proxy.DefaultOptions("here", pods)
	o.Limits.BodyStall, o.Limits.ClientStall, o.Limits.Body = l.bodyStall, l.clientStall, l.body
	o.Observe, o.Registry = v.observe, v.registry
	forward := proxy.New(o)
	watch := guard.New(guard.Options{Limits: l.connections, Registry: v.registry})
	server := httptest.NewUnstartedServer(nil)
	server.Config = gateway.NewServer(gateway.New(gateway.DefaultOptions(forward)), l.head, slog.New(slog.DiscardHandler))
	watch.Attach(server.Config)
	v.addr = server.Listener.Addr().String()
	watched, ended := watch.Listen(server.Listener), make(chan error, 1)
	go func() { ended <- server.Config.Serve(heads.Listen(watched)) }()
	t.Cleanup(func() {
		_ = server.Config.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		forward.CloseIdle()
	})
	return v
}

func (v *victim) observe(o regions.Observation) {
	if o.Sight != regions.SawServed {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.seen = append(v.seen, o.Sight)
	}
}

// metrics are those of the agent, or of the parts in this process, as text.
func (v *victim) metrics() string {
	v.t.Helper()
	if v.agent != nil {
		return v.agent.metrics(v.t)
	}
	shown := httptest.NewRecorder()
	promhttp.HandlerFor(v.registry, promhttp.HandlerOpts{}).ServeHTTP(shown, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/metrics", http.NoBody))
	return shown.Body.String()
}

// dial connects to the gateway.
func (v *victim) dial() net.Conn {
	v.t.Helper()
	c, err := v.tryDial()
	if err != nil {
		v.t.Fatal(err)
	}
	return c
}

func (v *victim) tryDial() (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: patience}).DialContext(context.Background(), "tcp", v.addr)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(2 * patience))
}

// pod is a pod that does as it is told by the request's body.
type pod struct {
	addr  string
	heard atomic.Int64 // requests for inference
	open  atomic.Int64 // of these those that are not answered yet
	dies  atomic.Bool  // it hangs up on all of them
	quit  chan struct{}
}

func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{quit: make(chan struct{})}
	server := httptest.NewUnstartedServer(p)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.Start()
	p.addr = server.Listener.Addr().String()
	t.Cleanup(func() {
		close(p.quit)
		server.Close()
	})
	return p
}

// ServeHTTP answers as it is told, in JSON: "hang" never, "drip" an event now and then,
// "pour" without end, else with the number of bytes that came.
func (p *pod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		return // a probe: it is ready
	}
	p.heard.Add(1)
	p.open.Add(1)
	defer p.open.Add(-1)
	if p.dies.Load() {
		panic(http.ErrAbortHandler)
	}
	var head bytes.Buffer
	n, err := io.Copy(io.Discard, io.TeeReader(r.Body, &capped{&head}))
	if err != nil {
		return
	}
	switch strings.Trim(head.String(), `"`) {
	case "hang":
		p.pause(r, patience*5)
	case "drip":
		w.Header().Set("Content-Type", "text/event-stream")
		for p.pause(r, 20*time.Millisecond) {
			_, _ = io.WriteString(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
		}
	case "pour":
		for p.pause(r, time.Duration(times(0, 100))*time.Millisecond) {
			if _, err := w.Write(pouring); err != nil {
				return
			}
		}
	default:
		_, _ = fmt.Fprint(w, n)
	}
}

// pouring is what a pod pours each time. At full strength it does so ten times a second,
// 160 kB/s, sixteen times a generation's: a thousand that pour as fast as they can starve
// this process, which has the pod in it, so that probes go without an answer for
// seconds and the agent is right to take the pod out.
var pouring = make([]byte, 16<<10)

// pause waits, unless it is all over.
func (p *pod) pause(r *http.Request, d time.Duration) bool {
	select {
	case <-r.Context().Done():
		return false
	case <-p.quit:
		return false
	case <-time.After(d):
		return true
	}
}

// capped keeps no more than a word.
type capped struct{ *bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	_, _ = c.Buffer.Write(p[:min(len(p), max(0, 8-c.Len()))])
	return len(p), nil
}

// bystanders are a normal client and a stream that see nothing of an attack.
type bystanders struct {
	v      *victim
	name   string
	client *http.Client
	stop   chan struct{}
	all    sync.WaitGroup

	mu     sync.Mutex
	took   []time.Duration // under mu
	events atomic.Int64

	before, cpu float64 // of an agent's process: MiB and seconds
	routines    int
}

// beside starts them; name is the attack's in the report.
func (v *victim) beside(name string) *bystanders {
	v.t.Helper()
	b := &bystanders{v: v, name: name, stop: make(chan struct{}), client: &http.Client{Transport: &http.Transport{}}}
	stream := b.ask("/v2/models/llama/generate_stream", "drip")
	b.all.Go(func() {
		defer stream.Body.Close()
		part := make([]byte, 1<<10)
		for {
			if _, err := stream.Body.Read(part); err != nil {
				select {
				case <-b.stop:
				default:
					v.t.Errorf("the stream beside was cut after %d events: %v", b.events.Load(), err)
				}
				return
			}
			b.events.Add(1)
		}
	})
	b.all.Go(func() {
		for {
			select {
			case <-b.stop:
				_ = stream.Body.Close()
				return
			case <-time.After(10 * time.Millisecond):
			}
			began := time.Now()
			res := b.ask("/v2/models/llama/generate", "fine")
			if res == nil {
				return
			}
			text, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || string(text) != "6" {
				v.t.Errorf("a normal client got %d %q, %v", res.StatusCode, text, err)
			}
			b.mu.Lock()
			b.took = append(b.took, time.Since(began))
			b.mu.Unlock()
		}
	})
	b.routines = runtime.NumGoroutine()
	if v.agent != nil {
		b.before, b.cpu = v.agent.begin(), v.agent.cpu()
	}
	return b
}

func (b *bystanders) ask(path, word string) *http.Response {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+b.v.addr+path, strings.NewReader(`"`+word+`"`))
	if err != nil {
		panic(err)
	}
	res, err := b.client.Do(r)
	if err != nil {
		b.v.t.Errorf("a normal client: %v", err)
		return nil
	}
	return res
}

// done ends them once they have seen something, and reports. The most that an
// agent's memory may have grown by is given in MiB.
func (b *bystanders) done(most float64) {
	b.v.t.Helper()
	peak := 0.0
	line := fmt.Sprintf("%-34s", b.name)
	if b.v.agent != nil {
		peak = b.v.agent.peak()
		line += fmt.Sprintf(" memory %3.0f, peak %3.0f MiB, CPU %4.1f s,", b.before, peak, b.v.agent.cpu()-b.cpu)
	}
	events := b.events.Load()
	eventually(b.v.t, func() bool { return b.events.Load() > events+2 }, "the stream beside goes on")
	close(b.stop)
	b.all.Wait()
	b.client.CloseIdleConnections()
	slices.Sort(b.took)
	if len(b.took) == 0 {
		b.v.t.Fatal("no normal client was served")
	}
	b.v.t.Logf("%s beside: %d served, median %v, worst %v; %d events", line, len(b.took),
		b.took[len(b.took)/2].Round(10*time.Microsecond), b.took[len(b.took)-1].Round(time.Millisecond), events)
	if peak-b.before > most {
		b.v.t.Errorf("memory grew by %.0f MiB, %.0f allowed", peak-b.before, most)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, cond func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// freed waits until the gateway has let go of all connections but those of the
// bystanders.
func (v *victim) freed(but int) {
	v.t.Helper()
	eventually(v.t, func() bool { return v.connections() <= but }, "the gateway lets go of all connections")
}

func (v *victim) connections() int { return int(v.metric("rhumb_guard_connections")) }
