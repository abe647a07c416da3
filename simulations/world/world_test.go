package world

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/gossip/gossiptest"
	"github.com/rhumb-lb/rhumb/simulations/client"
	"github.com/rhumb-lb/rhumb/simulations/layout"
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
		all, err := x.Run(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", x.Name, err)
		}
		for _, m := range all {
			t.Logf("%s, %s: %v", x.Name, m.By, m.After)
			if m.After > bound {
				t.Errorf("%s, %s: %v, more than %v", x.Name, m.By, m.After, bound)
			}
		}
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
	l := layout.Random()
	l.Port = 39999
	if err := Send(t.Context(), l, Order{Do: "heal", Region: "eu-west"}); err == nil || !strings.Contains(err.Error(), "start one with rhumb demo") {
		t.Errorf("got %v", err)
	}
}

func TestTakenAddressIsNamed(t *testing.T) {
	l := layout.Random()
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", l.Gateway(1).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	_, err = New(t.Context(), Options{Layout: l})
	if !errors.Is(err, layout.ErrTaken) || !strings.Contains(err.Error(), l.Gateway(1).String()+" (eu-west gateway)") {
		t.Errorf("got %v", err)
	}
}

// nothingRuns fails if any address of the layout is in use.
func nothingRuns(t *testing.T, l layout.Layout) {
	t.Helper()
	if err := l.TryAll(t.Context()); err != nil {
		t.Errorf("still running: %v", err)
	}
}

// TestCancelWhileItStarts ends a world before its start, and at the start of each
// of its regions: then nothing may be left, and nothing may start any more.
func TestCancelWhileItStarts(t *testing.T) {
	for at := -1; at < len(layout.Places); at++ {
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
	ctx, cancel := context.WithTimeout(t.Context(), 2*client.Patience)
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
	c := client.New(w.opts.Layout)
	defer c.Close()
	for _, h := range client.Homes {
		g, err := c.Generate(t.Context(), w.opts.Layout.RedirectURL(1), client.Question{Model: "llama", Tokens: 8, From: h}, nil)
		if err != nil || g.Region != h.Nearest {
			t.Errorf("%s: %d events from %s: %v", h.Name, g.Events, g.Region, err)
		}
	}
}
