package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// door is a region's endpoint to probe.
type door struct {
	*httptest.Server
	conns, asked atomic.Int64
}

// newDoor answers probes with the status, and anything else as a mistake.
func newDoor(t *testing.T, status int) *door {
	t.Helper()
	d := &door{}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.asked.Add(1)
		if r.Method != http.MethodGet || r.URL.Path != probePath || !r.Close {
			t.Errorf("a probe asks %s %s, close %v", r.Method, r.URL, r.Close)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}))
	d.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			d.conns.Add(1)
		}
	}
	d.Start()
	t.Cleanup(d.Close)
	return d
}

// hole accepts connections and stays silent. It counts those that are open.
func hole(t *testing.T) (endpoint string, open *atomic.Int64) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open = new(atomic.Int64)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			all.Go(func() {
				defer open.Add(-1)
				defer func() { _ = c.Close() }()
				for b := make([]byte, 512); ; { // until the prober has enough
					if _, err := c.Read(b); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return "http://" + l.Addr().String(), open
}

// nobody is an endpoint that refuses connections. It is on a loopback address
// that nobody else is likely to use.
func nobody(t *testing.T) string {
	t.Helper()
	at := netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(254)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))})
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return "http://" + l.Addr().String()
}

func reached(t *testing.T, id regions.ID, raw string) regions.Region {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return regions.Region{ID: id, Endpoints: []regions.Endpoint{{
		Scheme: u.Scheme, Host: u.Hostname(), Port: uint16(port), Addrs: []netip.Addr{netip.MustParseAddr(u.Hostname())},
	}}}
}

// probes runs a prober until the test ends.
type probes struct {
	*prober
	woken atomic.Int64
	stop  context.CancelFunc
	ended chan error
}

func runProber(t *testing.T, dial dialFunc, of func() []regions.Region) *probes {
	t.Helper()
	p := &probes{ended: make(chan error, 1)}
	p.prober = newProber(dial, nil, slog.New(slog.DiscardHandler), func() { p.woken.Add(1) })
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-p.ended; err != nil {
			t.Errorf("the prober ended with %v", err)
		}
	})
	go func() { p.ended <- p.run(ctx, of) }()
	t.Cleanup(p.stop)
	return p
}

func (p *probes) of(id regions.ID) director.Probe {
	for _, x := range p.all() {
		if x.Region == id {
			return x
		}
	}
	return director.Probe{}
}

func TestProber(t *testing.T) {
	t.Parallel()
	well, drained, odd := newDoor(t, http.StatusOK), newDoor(t, http.StatusBadRequest), newDoor(t, http.StatusTemporaryRedirect)
	dark, open := hole(t)
	set := []regions.Region{
		reached(t, "well", well.URL), reached(t, "drained", drained.URL), reached(t, "odd", odd.URL),
		reached(t, "refuses", nobody(t)), reached(t, "dark", dark), {ID: "nowhere"},
	}
	p := runProber(t, new(net.Dialer).DialContext, func() []regions.Region { return set })
	for _, id := range []regions.ID{"well", "drained", "odd"} {
		regionstest.Eventually(t, patience, func() bool { return p.of(id).Answered >= 3 }, string(id)+" answers three times")
	}
	for _, id := range []regions.ID{"refuses", "dark"} {
		regionstest.Eventually(t, patience, func() bool { return p.of(id).Failed >= 3 }, string(id)+" fails three times")
	}
	if p.woken.Load() == 0 {
		t.Error("nobody was woken")
	}
	p.stop()
	for _, d := range []*door{well, drained, odd} {
		if d.asked.Load() != d.conns.Load() {
			t.Errorf("%d probes came on %d connections, want one each", d.asked.Load(), d.conns.Load())
		}
	}
	regionstest.Eventually(t, patience, func() bool { return open.Load() == 0 }, "no connection to the dark region is left open")
	for _, x := range p.all() {
		if x.Failed > 0 && x.Answered > 0 {
			t.Errorf("%+v: both in a row", x)
		}
		if wantFail := x.Region == "refuses" || x.Region == "dark"; wantFail != (x.Failed > 0) {
			t.Errorf("%+v", x)
		}
		if x.Region == "nowhere" {
			t.Error("a region without an endpoint was probed")
		}
	}
}

// TestProberSeesAWreckAndItsRepair has one region answer, go dark, and answer
// again.
func TestProberSeesAWreckAndItsRepair(t *testing.T) {
	t.Parallel()
	d := newDoor(t, http.StatusOK)
	var dark atomic.Bool
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if dark.Load() {
			<-ctx.Done()
			return nil, fmt.Errorf("dial %s: %w", address, ctx.Err())
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	set := []regions.Region{reached(t, "eu", d.URL)}
	p := runProber(t, dial, func() []regions.Region { return set })
	regionstest.Eventually(t, patience, func() bool { return p.of("eu").Answered > 0 }, "it answers")
	dark.Store(true)
	regionstest.Eventually(t, patience, func() bool { return p.of("eu").Failed >= 2 }, "it fails twice")
	dark.Store(false)
	regionstest.Eventually(t, patience, func() bool { return p.of("eu").Answered >= 2 && p.of("eu").Failed == 0 }, "it answers twice again")
}

// TestStoppedProbesFindNothing stops a prober while a probe waits: for the
// stop nobody is to blame.
func TestStoppedProbesFindNothing(t *testing.T) {
	t.Parallel()
	for name, cause := range map[string]error{"stopped": nil, "another part failed": errors.New("another part failed")} {
		t.Run(name, func(t *testing.T) {
			begun := make(chan struct{}, 1)
			dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
				begun <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}
			p := newProber(dial, nil, slog.New(slog.DiscardHandler), func() {})
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan struct{})
			go func() {
				p.probe(ctx, "eu", regions.Endpoint{Scheme: "http", Host: "192.0.2.1", Port: 80})
				close(ended)
			}()
			<-begun
			cancel(cause)
			<-ended
			if got := p.all(); len(got) != 0 {
				t.Errorf("found %+v", got)
			}
		})
	}
}

// TestCountsInARow steps the record without a network.
func TestCountsInARow(t *testing.T) {
	t.Parallel()
	woken := 0
	p := newProber(nil, nil, slog.New(slog.DiscardHandler), func() { woken++ })
	failed := errors.New("refused")
	for i, step := range []struct {
		err              error
		failed, answered int
		wakes            bool // the result may change a verdict
	}{
		{failed, 1, 0, false}, {failed, 2, 0, true}, {failed, 3, 0, false},
		{nil, 0, 1, true}, {nil, 0, 2, true}, {nil, 0, 3, false},
		{failed, 1, 0, false}, {nil, 0, 1, true},
	} {
		before := woken
		p.record("eu", epoch.Add(time.Duration(i)*time.Second), step.err)
		p.record("eu", epoch.Add(time.Duration(i)*time.Second-time.Millisecond), errors.New("of an earlier probe, too late to count"))
		if got := p.all()[0]; got.Failed != step.failed || got.Answered != step.answered {
			t.Errorf("step %d: %+v", i, got)
		}
		if (woken > before) != step.wakes {
			t.Errorf("step %d: woken is %v", i, woken > before)
		}
	}
	if probeEvery+probeEvery+probeTimeout > 2200*time.Millisecond {
		t.Error("a dark region is found later than promised")
	}
}
