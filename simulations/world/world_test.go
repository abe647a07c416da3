package world

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
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
		req, err := request(t.Context(), "http://"+w.opts.Layout.Redirect(1).String(), "llama", "generate_stream", 8, h)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(body), "data: "); n != 8 || resp.StatusCode != http.StatusOK || regions.ID(resp.Header.Get("Rhumb-Region")) != h.nearest {
			t.Errorf("%s: %s from %s with %d events", h.name, resp.Status, resp.Header.Get("Rhumb-Region"), n)
		}
	}
}
