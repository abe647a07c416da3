package pool

import (
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// peer is another agent of the region, which gives requests to the same pods.
type peer struct {
	agent string
	at    time.Time // of its newest report
}

// foreign is what a peer has in flight on a seat.
type foreign struct {
	peer     *peer
	inFlight int
}

// SetPeers takes in what another agent of the region has in flight; it replaces
// what that agent said before. Pods and models that are not in the set are
// ignored. What it says counts in full for 2 s and is forgotten after 5 s.
func (p *Pool) SetPeers(now time.Time, agent string, loads []regions.PodLoad) {
	p.mu.Lock()
	from := p.peerLocked(agent)
	from.at = now
	for _, current := range p.pods {
		for _, s := range current.seats {
			s.forget(from)
		}
	}
	for _, l := range loads {
		if s := p.seatLocked(l.Pod, l.Model); s != nil && l.InFlight > 0 {
			s.foreign = append(s.foreign, foreign{from, int(min(l.InFlight, mostForeign))})
		}
	}
	p.mu.Unlock()
	p.freedAll()
}

// mostForeign bounds what one agent can say of one pod: more than any pod runs,
// and far from where sums overflow.
const mostForeign = 1 << 20

func (p *Pool) peerLocked(agent string) *peer {
	i := slices.IndexFunc(p.peers, func(x *peer) bool { return x.agent == agent })
	if i >= 0 {
		return p.peers[i]
	}
	p.peers = append(p.peers, &peer{agent: agent})
	return p.peers[len(p.peers)-1]
}

// forgetPeersLocked drops the agents that have been silent for too long.
func (p *Pool) forgetPeersLocked(now time.Time) {
	p.peers = slices.DeleteFunc(p.peers, func(x *peer) bool {
		gone := now.Sub(x.at) >= goneAfter
		if gone {
			for _, current := range p.pods {
				for _, s := range current.seats {
					s.forget(x)
				}
			}
		}
		return gone
	})
}

func (s *seat) forget(from *peer) {
	s.foreign = slices.DeleteFunc(s.foreign, func(f foreign) bool { return f.peer == from })
}

// others is what the other agents have in flight on the seat, rounded up.
func (s *seat) others(now time.Time) int {
	sum := 0
	for _, f := range s.foreign {
		sum += (f.inFlight*int(fading(now.Sub(f.peer.at))) + int(regions.Whole) - 1) / int(regions.Whole)
	}
	return sum
}

// Loads is what the pool has in flight on each pod of the set, for the other
// agents of the region; sorted by pod and model.
func (p *Pool) Loads() []regions.PodLoad {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []regions.PodLoad
	for id, current := range p.pods {
		for _, s := range current.seats {
			if s.inFlight > 0 {
				out = append(out, regions.PodLoad{Pod: id, Model: s.model.name, InFlight: uint32(s.inFlight)})
			}
		}
	}
	slices.SortFunc(out, func(a, b regions.PodLoad) int { return compareSeats(a.Pod, b.Pod, a.Model, b.Model) })
	return out
}
