package world

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/gossip/gossiptest"
	"github.com/rhumb-lb/rhumb/regions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(gossiptest.Patient{M: m}) }

// run runs a world on a random network until the test ends.
func run(t *testing.T) *World {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w, err := NewAnywhere(ctx, Options{})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestTour is the whole main path: see steps.
func TestTour(t *testing.T) {
	w := run(t)
	var out strings.Builder
	err := w.Check(t.Context(), &out)
	t.Log("\n" + out.String())
	if err != nil {
		t.Error(err)
	}
}

// TestFailover bounds generously what `make failover` measures: new answers
// leave a lost region within seconds, on any machine.
func TestFailover(t *testing.T) {
	const bound = 10 * time.Second
	for _, x := range losses {
		all, err := failoverOnce(t.Context(), x)
		if err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		for _, m := range all {
			t.Logf("%s, %s: %v", x.name, m.by, m.after)
			if m.after > bound {
				t.Errorf("%s, %s: %v, more than %v", x.name, m.by, m.after, bound)
			}
		}
	}
}

// TestGone polls a director that gives these answers in turn, and then its last.
func TestGone(t *testing.T) {
	broken := errors.New("SERVFAIL")
	for _, tt := range []struct {
		name    string
		answers []regions.ID
		err     error
		after   time.Duration
		want    string // in the error; empty for none
	}{
		{"at once", []regions.ID{heir}, nil, 0, ""},
		{"later", []regions.ID{victim, victim, heir}, nil, 2 * pollEvery, ""},
		{"back once", []regions.ID{heir, heir, victim, heir}, nil, 3 * pollEvery, ""},
		{"never", []regions.ID{victim}, nil, 0, "not out of the answers"},
		{"to a third region", []regions.ID{victim, "ap-northeast"}, nil, 0, "gave ap-northeast"},
		{"no answer", []regions.ID{victim, ""}, broken, 0, "SERVFAIL"},
	} {
		synctest.Test(t, func(t *testing.T) {
			left := tt.answers
			after, err := gone(t.Context(), time.Now(), func(context.Context) (regions.ID, error) {
				id := left[0]
				left = left[min(1, len(left)-1):]
				if id == "" {
					return "", tt.err
				}
				return id, nil
			})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || after != tt.after {
				t.Errorf("%s: %v, %v, want %v, %q", tt.name, after, err, tt.after, tt.want)
			}
		})
	}
}

func TestOrders(t *testing.T) {
	w := run(t)
	if err := w.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := w.opts.Layout
	for _, tt := range []struct {
		order Order
		want  string // in the error; empty for none
	}{
		{Order{Do: "crash", Region: "eu-west", Pod: 1}, ""},
		{Order{Do: "crash", Region: "eu-west", Pod: 9}, "there are 0 to 2"},
		{Order{Do: "crash", Region: "mars"}, "there are [us-east eu-west ap-northeast]"},
		{Order{Do: "dance", Region: "eu-west"}, "no order"},
		{Order{Do: "lose", Region: "eu-west"}, ""},
		{Order{Do: "drain", Region: "eu-west"}, "heal it first"},
		{Order{Do: "heal", Region: "eu-west"}, ""},
		{Order{Do: "drain", Region: "us-east"}, ""},
		{Order{Do: "undrain", Region: "us-east"}, ""},
		{Order{Do: "darken", Region: "us-east"}, ""},
		{Order{Do: "heal", Region: "us-east"}, ""},
		{Order{Do: "weather", Delay: 5 * time.Second}, "0s to 1s"},
		{Order{Do: "weather", Delay: time.Millisecond, Loss: 10}, ""},
	} {
		err := Send(t.Context(), l, tt.order)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.order, err, tt.want)
		}
	}
	if err := w.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNoDemoThere(t *testing.T) {
	l := RandomLayout()
	l.Port = 39999
	if err := Send(t.Context(), l, Order{Do: "heal", Region: "eu-west"}); err == nil || !strings.Contains(err.Error(), "start one with rhumb demo") {
		t.Errorf("got %v", err)
	}
}

func TestTakenAddressIsNamed(t *testing.T) {
	l := RandomLayout()
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", l.Gateway(1).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	_, err = New(t.Context(), Options{Layout: l})
	if !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), l.Gateway(1).String()+" (eu-west gateway)") {
		t.Errorf("got %v", err)
	}
}

// nothingRuns fails if any address of the layout is in use.
func nothingRuns(t *testing.T, l Layout) {
	t.Helper()
	if err := l.TryAll(t.Context()); err != nil {
		t.Errorf("still running: %v", err)
	}
}

// TestCancelWhileItStarts ends a world before its start, and at the start of each
// of its regions: then nothing may be left, and nothing may start any more.
func TestCancelWhileItStarts(t *testing.T) {
	for at := -1; at < len(places); at++ {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w, err := NewAnywhere(ctx, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if at < 0 {
			cancel()
		} else {
			s := w.sites[at]
			s.listen = func(ctx context.Context, network, address string) (net.Listener, error) {
				cancel()
				return s.gate.listen(ctx, network, address)
			}
		}
		if err := w.Run(ctx); err != nil {
			t.Errorf("canceled at region %d: %v", at, err)
		}
		nothingRuns(t, w.opts.Layout)
		for _, o := range []Order{{Do: "heal", Region: "eu-west"}, {Do: "darken", Region: "eu-west"}, {Do: "drain", Region: "eu-west"}} {
			if err := w.Do(t.Context(), o); !errors.Is(err, errEnded) {
				t.Errorf("%s after the end: %v", o.Do, err)
			}
		}
		nothingRuns(t, w.opts.Layout)
	}
}

// TestNoControl has the address for orders taken between New and Run.
func TestNoControl(t *testing.T) {
	w, err := NewAnywhere(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", w.opts.Layout.Control().String())
	if err != nil {
		t.Fatal(err)
	}
	err = w.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "listen for orders") {
		t.Errorf("got %v", err)
	}
	if err := taken.Close(); err != nil {
		t.Error(err)
	}
	nothingRuns(t, w.opts.Layout)
}

// TestRegionEndsByItself takes the listener of a region's gateway away.
func TestRegionEndsByItself(t *testing.T) {
	w, err := NewAnywhere(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, doors := w.sites[1], make(chan net.Listener, 1)
	s.listen = func(ctx context.Context, network, address string) (net.Listener, error) {
		l, err := s.gate.listen(ctx, network, address)
		doors <- l
		return l, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	if err := w.Ready(ctx); err != nil {
		t.Error(err)
	}
	if err := (<-doors).Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "region eu-west ended by itself: gateway on ") {
		t.Errorf("got %v", err)
	}
	nothingRuns(t, w.opts.Layout)
}

func TestLayoutCheck(t *testing.T) {
	for _, tt := range []struct {
		net  string
		port uint16
		ok   bool
	}{
		{"127.0.0.0/16", 8080, true}, {"127.9.0.0/16", 18080, true}, {"127.9.1.0/16", 8080, false},
		{"10.0.0.0/16", 8080, false}, {"127.0.0.0/8", 8080, false}, {"::1/128", 8080, false},
		{"127.0.0.0/16", 80, false}, {"127.0.0.0/16", 65535, false},
	} {
		l := Layout{Net: netip.MustParsePrefix(tt.net), Port: tt.port}
		if err := l.Check(); (err == nil) != tt.ok {
			t.Errorf("%s %d: %v", tt.net, tt.port, err)
		}
	}
}

// TestWelcomeWorks runs what the welcome offers for the redirect, and that a
// client's place is believed from loopback.
func TestWelcomeWorks(t *testing.T) {
	w := run(t)
	var out strings.Builder
	w.Welcome(&out)
	for _, want := range []string{"+subnet=81.2.69.0/24", "X-Forwarded-For: 81.2.69.1", "--net " + w.opts.Layout.Net.String()} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the welcome lacks %q:\n%s", want, out.String())
		}
	}
	if err := w.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := newClient()
	defer c.CloseIdleConnections()
	for _, h := range homes {
		g, err := generate(t.Context(), c, w.opts.Layout.redirectURL(1), question{model: "llama", tokens: 8, from: h}, nil)
		if err != nil || g.region != h.nearest {
			t.Errorf("%s: %d events from %s: %v", h.name, g.events, g.region, err)
		}
	}
}
