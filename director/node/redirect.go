package node

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/livetls"
)

// front is the redirector's server, whose handler and certificate can be
// replaced.
type front struct {
	server  *http.Server
	tls     *livetls.Config
	handler atomic.Pointer[redirect.Handler]
}

// newFront serves redirects over HTTP/1.1 and HTTP/2, which over plain TCP is spoken
// by who knows of it beforehand: heads of up to 32 KiB within 5 s, and of bodies only
// what names the model. A client that sends more is not waited for.
func newFront(h *redirect.Handler, c *tls.Config, log *slog.Logger) *front {
	f := &front{tls: livetls.New(c)}
	f.handler.Store(h)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	f.server = &http.Server{
		Protocols:         protocols,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.handler.Load().ServeHTTP(w, r) }),
		TLSConfig:         f.tls.Server("h2", "http/1.1"),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: 60 * time.Second, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return f
}

// serve serves a listener until the server is closed.
func (f *front) serve(l net.Listener) error {
	var err error
	if f.tls.On() {
		err = f.server.ServeTLS(l, "", "")
	} else {
		err = f.server.Serve(l)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("redirect on %s: %w", l.Addr(), err)
	}
	return nil
}

// Decide implements redirect.Decider from the same table as DNS, and counts what
// it decides as demand.
func (a *answerer) Decide(model regions.ModelName, _ bool, client netip.Addr) (director.Decision, error) {
	w := a.world.Load()
	if !w.synced {
		return director.Decision{}, redirect.ErrNotReady
	}
	d, ok := director.Decide(w.table, model, w.geo.Locate(client))
	switch {
	case !ok:
		return director.Decision{}, redirect.ErrUnknownModel
	case d.Barred:
		return director.Decision{}, redirect.ErrBarred
	}
	a.decided(model, d.Client.Cell)
	return d, nil
}

// label finds the model that is served under a label.
func (a *answerer) label(label string) (regions.ModelName, bool) {
	m, ok := a.world.Load().labels[label]
	return m, ok
}
