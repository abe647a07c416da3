package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
	"github.com/rhumb-lb/rhumb/regions/rpc"
)

// visit is one request on its way through the gateway, and the writer of its
// answer.
type visit struct {
	recorder
	begun  time.Time
	client netip.Addr
	key    *keyring.Key  // nil for nobody's
	guest  regions.Guest // of another region, if it has a From
	route  route
	meet   regions.Affinity
	class  regions.Class
	// maxWait is how long the request may wait for a slot, and timeout for its end; 0
	// if it does not say.
	maxWait, timeout time.Duration
	streams          bool   // the answer is a stream of events
	prompt           []byte // how it begins
	done             bool   // handled to the end, without a panic
}

// recorder notes what is answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// Unwrap lets http.ResponseController reach the server's writer.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader notes the status; interim answers are not the answer's.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write counts the bytes of the body.
func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// record counts a request and writes its line of the access log: requests of
// models as info, the gateway's own answers, which health checks ask for all the
// time, as debug. The query is left out, as are all header fields: they may hold
// secrets.
func (g *Gateway) record(v *visit, r *http.Request) {
	took := g.opts.Now().Sub(v.begun)
	name := v.route.name
	if name == "" {
		name = routeNone
	}
	label := ""
	if v.route.model != "" {
		label = otherModel
		if g.knows(v.route.model) {
			label = string(v.route.model)
		}
	}
	g.metrics.observe(name, label, keyLabel(v.key), v.status, took)
	level := slog.LevelDebug
	if v.route.model != "" {
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.String("route", name),
		slog.String("model", string(v.route.model)), slog.Int("status", v.status), slog.Int64("bytes", v.bytes),
		slog.Duration("took", took), slog.String("client", v.client.String()), slog.String("key", keyLabel(v.key)), slog.Bool("cut", !v.done),
	}
	if rpc.IsCall(r) {
		said := "none"
		if code, ok := rpc.Answered(v.Header()); ok {
			said = code.String()
		}
		g.metrics.calls.WithLabelValues(name, label, said).Inc()
		attrs = append(attrs, slog.String("grpc_status", said))
	}
	g.log.LogAttrs(context.Background(), level, "request", attrs...)
}

// until is when the client gives up, zero if it has not said.
func (v *visit) until() time.Time {
	if v.timeout == 0 {
		return time.Time{}
	}
	return v.begun.Add(v.timeout)
}
