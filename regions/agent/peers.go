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
	// 20 packets of 1 KB a second each, 1.8 MB/s in all, and each has 180 signatures
	// a second to check, a hundredth of a core; two agents overfill a pod by what
	// comes at one of them more than at the other within it.
	shareGap = 50 * time.Millisecond
	// shareSize is what of a record fits a packet. A larger one goes over a stream,
	// and less often in proportion to its size, so that no region sends more bytes.
	shareSize = 1000
	// shareEvery is how often it is said again if it does not change: the pool
	// believes it in full for four of them.
	shareEvery = regions.StatusEvery
	// shareAfter is for how long the news that nothing is left are repeated, lest a
	// lost packet keep slots taken.
	shareAfter = 4 * shareEvery
)

// sharing is when what is in flight is said to the other agents.
type sharing struct {
	news bool          // it changed since it was said
	busy bool          // it was something
	last time.Time     // when it was said
	gap  time.Duration // from then until it may be said again
	end  time.Time     // of repeating that it was nothing
}

// said notes that it was, in so many bytes.
func (s *sharing) said(now time.Time, busy bool, size int) {
	if s.news || busy {
		s.end = now.Add(shareAfter)
	}
	s.news, s.busy, s.last = false, busy, now
	s.gap = min(shareGap*time.Duration(1+size/shareSize), shareEvery)
}

// wait is how long from now it is to be said next; it is negative if it need not be
// said again.
func (s *sharing) wait(now time.Time) time.Duration {
	switch {
	case s.news:
		return max(0, s.last.Add(s.gap).Sub(now))
	case s.busy || now.Before(s.end):
		return max(0, s.last.Add(shareEvery).Sub(now))
	default:
		return -1
	}
}

// share tells the other agents of the region, if there are any, what this one has in
// flight on each pod: as soon as that changes, and again while it is anything.
func (a *Agent) share(ctx context.Context) error {
	due := sharing{news: true} // a restarted agent's last word was another
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.pool.Loaded():
			due.news = true
		case <-timer.C:
		}
		now := a.opts.Now()
		if due.wait(now) == 0 {
			busy, size := a.sharePods()
			due.said(now, busy, size)
		}
		if wait := due.wait(now); wait >= 0 {
			timer.Reset(wait)
		}
	}
}

// sharePods says what is in flight, if anything, and gives the size of that.
func (a *Agent) sharePods() (busy bool, size int) {
	to := gossip.Audience{Role: gossip.RoleAgent, Region: a.opts.Region}
	loads := a.pool.Loads()
	if !a.gossip.Heeds(to) {
		return len(loads) > 0, 0
	}
	payload, err := wire.EncodePods(a.opts.Region, loads)
	if err == nil {
		err = a.gossip.Publish(gossip.Record{Kind: wire.Kind_PODS, Payload: payload, Audience: to})
	}
	if err != nil {
		a.log.Error("the load of pods is not shared", "error", err)
	}
	return len(loads) > 0, len(payload)
}

// word is what another agent of the region has in flight, and when it was heard.
type word struct {
	loads []wire.PodLoad
	heard time.Time
}

// heardPeer takes what another agent of the region has in flight.
func (a *Agent) heardPeer(r gossip.Received) {
	_, loads, err := wire.DecodePods(r.Body.Payload)
	if err != nil {
		a.log.Warn("the load of pods not understood", "from", r.Body.Origin, "error", err)
		return
	}
	a.podsMu.Lock()
	defer a.podsMu.Unlock()
	w := word{loads, r.Heard}
	a.peers[r.Body.Origin] = w
	a.tellLocked(r.Body.Origin, w, a.podNamesLocked())
}

// retellLocked tells the pool again what the others have, after the set of pods has
// changed: a pod that is new here may be full of theirs.
func (a *Agent) retellLocked() {
	names := a.podNamesLocked()
	for agent, w := range a.peers {
		a.tellLocked(agent, w, names)
	}
}

// tellLocked tells the pool what another agent has. Pods that are not known here, or
// can't be told apart by their names there, are left out.
func (a *Agent) tellLocked(agent string, w word, names map[uint32]regions.PodID) {
	var out []regions.PodLoad
	for _, l := range w.loads {
		if id := names[l.Pod]; id != "" {
			out = append(out, regions.PodLoad{Pod: id, Model: l.Model, InFlight: l.InFlight})
		}
	}
	a.pool.SetPeers(w.heard, agent, out)
}

// podNamesLocked are the pods by what they are called in records of loads; empty for
// what is two pods' name.
func (a *Agent) podNamesLocked() map[uint32]regions.PodID {
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

// peersKept is how long the word of an agent is kept that says nothing any more: the
// pool has forgotten it by then.
const peersKept = 10 * shareEvery

// forgetPeers drops the word of agents that have left, at once, and that are silent.
func (a *Agent) forgetPeers(now time.Time) {
	a.podsMu.Lock()
	defer a.podsMu.Unlock()
	if len(a.peers) == 0 {
		return
	}
	for agent, w := range a.peers {
		if now.Sub(w.heard) > peersKept {
			delete(a.peers, agent)
		}
	}
	for _, m := range a.gossip.Members() {
		if _, told := a.peers[m.Name]; told && m.State == gossip.MemberLeft {
			delete(a.peers, m.Name)
			a.pool.ForgetPeer(m.Name)
		}
	}
}
