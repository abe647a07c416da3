package gossip

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// delegate is what memberlist calls. Its methods run on memberlist's goroutines:
// they copy, hand over and return.
type delegate Node

// NodeMeta is what members know of this one before any record: whom to send to.
func (d *delegate) NodeMeta(limit int) []byte {
	meta := &wire.Meta{Protocol: regions.ProtocolVersion, Role: wire.Role_AGENT, Region: string(d.opts.region())}
	if d.opts.role() == RoleDirector {
		meta.Role = wire.Role_DIRECTOR
	}
	b, err := wire.EncodeMeta(meta)
	if err != nil || len(b) > limit {
		d.log.Error("member metadata", "bytes", len(b), "limit", limit, "err", err)
		return nil
	}
	return b
}

// NotifyMsg hands over one of our messages, whose bytes are memberlist's.
func (d *delegate) NotifyMsg(m []byte) {
	if len(m) == 0 {
		return
	}
	select {
	case d.inbox <- inbound{message: slices.Clone(m), at: d.now()}:
	default:
		d.metrics.dropped.WithLabelValues("inbox").Inc()
	}
}

// GetBroadcasts has nothing to add: statuses are sent directly and repaired by
// push/pull.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState is this side of a push/pull.
func (d *delegate) LocalState(bool) []byte {
	b, err := wire.EncodeState(d.store.state(d.opts.Identity.Cert, d.now()))
	if err != nil {
		d.log.Error("state for push/pull", "err", err)
		return nil
	}
	return b
}

// MergeRemoteState hands over the other side of a push/pull.
func (d *delegate) MergeRemoteState(state []byte, _ bool) {
	if len(state) == 0 {
		return
	}
	select {
	case d.states <- inbound{message: slices.Clone(state), at: d.now()}:
	default:
		d.metrics.dropped.WithLabelValues("states").Inc()
	}
}

// logHandler turns memberlist's lines, "[LEVEL] memberlist: text", into records
// of that level.
type logHandler struct{ slog.Handler }

// levels of memberlist's lines. It calls an error what one peer or one lost
// packet causes; to an operator that is at most worth a look.
var levels = []struct {
	prefix string
	level  slog.Level
}{
	{"[DEBUG] ", slog.LevelDebug},
	{"[INFO] ", slog.LevelInfo},
	{"[WARN] ", slog.LevelInfo},
	{"[ERR] ", slog.LevelWarn},
	{"[ERROR] ", slog.LevelWarn},
}

// Enabled is decided by Handle, which knows the level.
func (h logHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle logs one line.
func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	for _, l := range levels {
		if rest, ok := strings.CutPrefix(r.Message, l.prefix); ok {
			r.Message, r.Level = rest, l.level
			break
		}
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	r.Message = "memberlist: " + strings.TrimPrefix(r.Message, "memberlist: ")
	return h.Handler.Handle(ctx, r)
}
