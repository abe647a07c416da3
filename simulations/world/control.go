package world

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admin"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// Order is one thing to do to a running demo.
type Order struct {
	// Do is crash, lose, darken, heal, drain, undrain or weather.
	Do     string `json:"do"`
	Region string `json:"region,omitempty"`
	Pod    int    `json:"pod,omitempty"`
	// Delay and Loss are the weather's, for all links between members.
	Delay time.Duration    `json:"delay,omitempty"` // ns
	Loss  regions.Permille `json:"loss,omitempty"`
}

// Do carries out an order.
func (w *World) Do(ctx context.Context, o Order) error {
	switch o.Do {
	case "crash":
		return w.Crash(o.Region, o.Pod)
	case "lose":
		return w.Kill(o.Region)
	case "darken":
		return w.Darken(o.Region)
	case "heal":
		return w.Heal(ctx, o.Region)
	case "drain":
		return w.Drain(o.Region, true)
	case "undrain":
		return w.Drain(o.Region, false)
	case "weather":
		return w.Weather(o.Delay, o.Loss)
	default:
		return fmt.Errorf("no order %q", o.Do)
	}
}

// control serves orders to the running demo until ctx is done.
func (w *World) control(ctx context.Context, l net.Listener) error {
	m := admin.NewMux(prometheus.NewRegistry(), func() error { return nil }, slog.New(slog.DiscardHandler))
	m.Handle("POST /api/v1/orders", func(r *http.Request) (any, error) {
		var o Order
		if err := admin.Read(r, &o); err != nil {
			return nil, err
		}
		// The order outlives its caller: what it starts is the world's.
		if err := w.Do(context.WithoutCancel(r.Context()), o); err != nil {
			return nil, admin.Invalid("%w", err)
		}
		return o, nil
	})
	return m.Serve(ctx, l)
}

// ErrRefused is the error for an order that the running demo can't carry out.
var ErrRefused = errors.New("refused")

// Send gives an order to the demo that runs in the layout. The error is an
// [ErrRefused] if it said no.
func Send(ctx context.Context, l layout.Layout, o Order) error {
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+l.Control().String()+"/api/v1/orders", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("no demo answers at %s; start one with rhumb demo, or name its --net and --port: %w", l.Control(), err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var said struct {
		Error string `json:"error"`
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if json.Unmarshal(text, &said) == nil && said.Error != "" {
		return fmt.Errorf("%w: %s", ErrRefused, said.Error)
	}
	return fmt.Errorf("the demo answers %s: %s", resp.Status, text)
}
