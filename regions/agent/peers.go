package agent

import (
	"context"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// shareGap is the least time between two records of what this agent has on the
	// pods. Ten agents of a region whose load changes all the time send each other
	// 20 packets of 1 KB a second each, 1.8 MB/s in all; two agents overfill a pod
	// by what comes at them within it.
	shareGap = 50 * time.Millisecond
	// shareEvery is how often it is said again if it does not change: the pool
	// believes it in full for four of them.
	shareEvery = 500 * time.Millisecond
	// shareAfter is for how long the news that nothing is left are repeated, lest a
	// lost packet keep slots taken.
	shareAfter = 2 * time.Second
)

// sharing is what was said of the pods' loads, and when.
type sharing struct {
	loads         []regions.PodLoad
	said, changed time.Time
}

// due reports whether loads are to be said at now, and notes that they were.
func (s *sharing) due(now time.Time, loads []regions.PodLoad) bool {
	switch since := now.Sub(s.said); {
	case since < shareGap:
		return false
	case !slices.Equal(loads, s.loads):
		s.changed = now
	case since < shareEvery || len(loads) == 0 && now.Sub(s.changed) > shareAfter:
		return false
	}
	s.loads, s.said = loads, now
	return true
}

// share tells the other agents of the region, if there are any, what this one has in
// flight on each pod.
func (a *Agent) share(ctx context.Context) error {
	to := gossip.Audience{Role: gossip.RoleAgent, Region: a.opts.Region}
	tick := time.NewTicker(shareGap)
	defer tick.Stop()
	var said sharing
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !a.gossip.Heeds(to) || !said.due(a.opts.Now(), a.pool.Loads()) {
			continue
		}
		payload, err := wire.EncodePods(a.opts.Region, said.loads)
		if err == nil {
			err = a.gossip.Publish(gossip.Record{Kind: wire.Kind_PODS, Payload: payload, Audience: to})
		}
		if err != nil {
			a.log.Error("the load of pods is not shared", "error", err)
		}
	}
}

// heardPeer takes what another agent of the region has in flight. Pods that are not
// known here, or can't be told apart by their names there, are left out.
func (a *Agent) heardPeer(r gossip.Received) {
	_, loads, err := wire.DecodePods(r.Body.Payload)
	if err != nil {
		a.log.Warn("the load of pods not understood", "from", r.Body.Origin, "error", err)
		return
	}
	names := a.podNames()
	var out []regions.PodLoad
	for _, l := range loads {
		if id := names[l.Pod]; id != "" {
			out = append(out, regions.PodLoad{Pod: id, Model: l.Model, InFlight: l.InFlight})
		}
	}
	a.pool.SetPeers(r.Heard, r.Body.Origin, out)
}

// podNames are the pods by what they are called in records of loads; empty for what is
// two pods' name.
func (a *Agent) podNames() map[uint32]regions.PodID {
	a.podsMu.Lock()
	defer a.podsMu.Unlock()
	out := map[uint32]regions.PodID{}
	for _, p := range slices.Concat(a.pods...) {
		h := wire.PodHash(p.ID)
		if other, twice := out[h]; twice && other != p.ID {
			out[h] = ""
			continue
		}
		out[h] = p.ID
	}
	return out
}
