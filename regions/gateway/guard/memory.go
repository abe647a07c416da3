package guard

import (
	"context"
	"math"
	"runtime/debug"
	counts "runtime/metrics"
	"time"
)

// stage is how short memory is.
type stage int32

const (
	enough stage = iota
	scarce       // idle connections are closed
	full         // and nothing new is let in
)

// Shares of the limit in percent, as Envoy's advice for edge proxies has them. By
// then the collector runs all the time; what holds the memory are bodies,
// buffers and goroutines of connections.
const (
	scarceAt, fullAt = 95, 98
	// checkEvery is often beside the seconds that it takes clients to send
	// gigabytes, and reading the runtime's counts takes microseconds.
	checkEvery = 500 * time.Millisecond
)

// stageAt is the stage with so much alive, in bytes.
func stageAt(alive, limit int64) stage {
	switch {
	case limit <= 0 || alive < limit/100*scarceAt:
		return enough
	case alive < limit/100*fullAt:
		return scarce
	default:
		return full
	}
}

// MemoryLimit is the default of [Limits].Memory: four fifths of what GOMEMLIMIT
// allows the process, the rest being for garbage, or 0 if that allows anything.
// The guard never sets the runtime's limit: that is the process's, and several
// agents may share it.
func MemoryLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return limit / 5 * 4
	}
	return 0
}

// alive is what is alive in the process in bytes: what the last collection left of
// the heap, stacks, and the runtime's own. The whole of the process's memory would
// not do: near GOMEMLIMIT garbage fills it up to the limit before each collection.
func alive() int64 {
	samples := []counts.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/os-stacks:bytes"},
		{Name: "/memory/classes/metadata/mcache/inuse:bytes"},
		{Name: "/memory/classes/metadata/mspan/inuse:bytes"},
		{Name: "/memory/classes/metadata/other:bytes"},
		{Name: "/memory/classes/other:bytes"},
	}
	counts.Read(samples)
	var sum uint64
	for _, s := range samples {
		if s.Value.Kind() == counts.KindUint64 {
			sum += s.Value.Uint64()
		}
	}
	return int64(min(sum, math.MaxInt64))
}

// Run watches the memory until ctx is done.
func (g *Guard) Run(ctx context.Context) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		g.check()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// check looks at the memory once.
func (g *Guard) check() {
	limit, now := g.rules.Load().Memory, g.alive()
	to := stageAt(now, limit)
	if from := stage(g.stage.Swap(int32(to))); from != to {
		g.log.Warn("memory of connections", "from", from.String(), "to", to.String(), "alive", now, "limit", limit)
	}
	g.metrics.stage.Set(float64(to))
	if to == enough {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.makeRoomLocked(&g.all, "memory") {
	}
}

// String names the stage, for logs.
func (s stage) String() string { return [...]string{"enough", "scarce", "full"}[s] }

// Full reports that there is no memory for a request, which came on a connection
// that a guard introduced.
func Full(ctx context.Context) bool {
	c := of(ctx)
	return c != nil && stage(c.guard.stage.Load()) == full
}
