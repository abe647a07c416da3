// Package admin is the frame of a daemon's admin API: JSON over HTTP, with
// /metrics and /healthz beside it, closed to web pages and, without a token, to
// other machines.
package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/livetls"
)

const (
	// requestTime bounds reading a request and writing its answer: all are small.
	requestTime = 10 * time.Second

	// maxBody bounds a request's body in bytes; the largest is an override.
	maxBody = 64 << 10
)

// Handler answers one call with a value that becomes JSON, or with an error. An
// [Error] chooses the status, any other is 500.
type Handler func(r *http.Request) (any, error)

// Error is an error with the HTTP status to answer with.
type Error struct {
	Status int
	Err    error
}

// Error is the message for the caller.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the error itself.
func (e *Error) Unwrap() error { return e.Err }

// NotFound says that what the path or a parameter names is not there.
func NotFound(format string, args ...any) error {
	return &Error{http.StatusNotFound, fmt.Errorf(format, args...)}
}

// Invalid says that the call itself can't be understood.
func Invalid(format string, args ...any) error {
	return &Error{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

// Mux is the admin API's routes.
type Mux struct {
	mux   *http.ServeMux
	log   *slog.Logger
	tls   *livetls.Config
	token atomic.Pointer[regions.Token] // nil if none is asked for
}

// NewMux is open to this machine until [Mux.Set] says otherwise. It has /metrics of the registry and /healthz, which is 200 while check
// returns nil and else 503 with the error.
func NewMux(registry *prometheus.Registry, check func() error, log *slog.Logger) *Mux {
	m := &Mux{mux: http.NewServeMux(), log: log, tls: livetls.New(nil)}
	m.mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry}))
	m.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	return m
}

// Handle adds a call; the pattern is that of [http.ServeMux].
func (m *Mux) Handle(pattern string, h Handler) {
	m.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		v, err := h(r)
		status := http.StatusOK
		if err != nil {
			status = http.StatusInternalServerError
			if e, ok := errors.AsType[*Error](err); ok {
				status = e.Status
			}
			v = map[string]string{"error": err.Error()}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(v); err != nil {
			m.log.Debug("admin answer not sent", "error", err)
		}
	})
}

// ServeHTTP refuses who lacks the token and what a web page in an operator's
// browser could send, and serves the rest. A page can reach loopback ports in two
// ways: by a name of its own that resolves to them, which shows in Host, and by a
// cross-site form, which cannot set the content type to JSON. /healthz needs no
// token: kubelets ask it, and it tells no more than that all is well or why not.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := m.token.Load()
	if token != nil && r.URL.Path != "/healthz" && !token.Shown(r.Header.Get("Authorization")) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "send the admin token as Authorization: Bearer TOKEN", http.StatusUnauthorized)
		return
	}
	// A page can't know the token, and names are what certificates are for.
	if token == nil && !addressed(r.Host) {
		http.Error(w, "the admin API is asked by address or as localhost", http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get("Content-Type") != "application/json" {
		http.Error(w, "send JSON, with Content-Type: application/json", http.StatusUnsupportedMediaType)
		return
	}
	m.mux.ServeHTTP(w, r)
}

// Check is the error of changing over to o while the API is served.
func (m *Mux) Check(o Options) error {
	return errors.Join(o.Check(), m.tls.Allows(o.TLS))
}

// Set changes over to the token and certificate of o, which [Mux.Check] must
// allow.
func (m *Mux) Set(o Options) {
	m.tls.Set(o.TLS)
	m.token.Store(regions.NewToken(o.Token))
}

func addressed(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost"
}

// Read decodes a call's body into v. Unknown fields are refused, so that a
// misspelt one does not pass in silence.
func Read(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return Invalid("body: %w", err)
	}
	return nil
}

// Serve serves the API on l until ctx ends.
func (m *Mux) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: m, ReadTimeout: requestTime, WriteTimeout: requestTime, IdleTimeout: requestTime,
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if m.tls.On() {
		l = tls.NewListener(l, m.tls.Server("http/1.1")) // little is asked here
	}
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin API on %s: %w", l.Addr(), err)
	}
	return nil
}

// CheckAddress refuses an address that other machines can reach: without TLS
// and a token the admin API is for this machine only.
func CheckAddress(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("admin address %q: want IP:port, like 127.0.0.1:8088: %w", address, err)
	}
	if !ap.Addr().IsLoopback() {
		return fmt.Errorf("admin address %s: without TLS and a token it must be a loopback address, like 127.0.0.1:%d", address, ap.Port())
	}
	return nil
}
