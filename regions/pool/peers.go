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

// foreign is what a peer has in flight on a seat, by its newest report, and what
// this agent had there then.
type foreign struct {
	peer     *peer
	inFlight int
	own      int
}

// SetPeers takes in what another agent of the region has in flight, as heard at
// now; it replaces what that agent said before. Pods and models that are not in the
// set are ignored. What it says counts in full for 2 s and is forgotten after 3 s.
func (p *Pool) SetPeers(now time.Time, agent string, loads []regions.PodLoad) {
	p.mu.Lock()
	from := p.peerLocked(agent)
	from.at = now
	for _, current := range p.pods {
		for _, s := range current.seats {
			*s.of(from) = foreign{peer: from, own: s.inFlight}
		}
	}
	for _, l := range loads {
		if s := p.seatLocked(l.Pod, l.Model); s != nil {
			s.of(from).inFlight = int(min(l.InFlight, mostForeign))
		}
	}
	p.mu.Unlock()
	p.freedAll()
}

// ForgetPeer drops what another agent has said: it has left, and has nothing in
// flight any more.
func (p *Pool) ForgetPeer(agent string) {
	p.mu.Lock()
	p.forgetLocked(func(x *peer) bool { return x.agent == agent })
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
	p.forgetLocked(func(x *peer) bool { return now.Sub(x.at) >= goneAfter })
}

func (p *Pool) forgetLocked(gone func(*peer) bool) {
	p.peers = slices.DeleteFunc(p.peers, func(x *peer) bool {
		if !gone(x) {
			return false
		}
		for _, current := range p.pods {
			for _, s := range current.seats {
				s.foreign = slices.DeleteFunc(s.foreign, func(f foreign) bool { return f.peer == x })
			}
		}
		return true
	})
}

// of is what a peer has on the seat.
func (s *seat) of(from *peer) *foreign {
	for i := range s.foreign {
		if s.foreign[i].peer == from {
			return &s.foreign[i]
		}
	}
	s.foreign = append(s.foreign, foreign{peer: from, own: s.inFlight})
	return &s.foreign[len(s.foreign)-1]
}

// unsaid is how long after its report a peer is taken to do as this agent does:
// five of the shortest gaps between two reports, so that a few may be lost, or wait
// for a processor as they do in a burst. An agent that is silent for longer has
// nothing new to say. Half of a line that could be served waits for it until then,
// which is half as long as lines at which requests are sent elsewhere.
const unsaid = 250 * time.Millisecond

// others is what the other agents have in flight on the seat by their own word,
// rounded up.
func (s *seat) others(now time.Time) int {
	sum := 0
	for i := range s.foreign {
		f := &s.foreign[i]
		sum += (f.inFlight*int(fading(now.Sub(f.peer.at))) + int(regions.Whole) - 1) / int(regions.Whole)
	}
	return sum
}

// unheard is what the other agents are taken to have claimed on the seat since their
// reports: each as much as this agent has, beyond what ended. Clients come to the
// agents of a region alike, and so do those that wait when a pod becomes free. Where
// they don't, the next report sets it right; but agents that took each other to
// stand still would all give the last free slots away.
func (s *seat) unheard(now time.Time) int {
	sum := 0
	for i := range s.foreign {
		if f := &s.foreign[i]; now.Sub(f.peer.at) <= unsaid {
			sum += max(0, s.inFlight-f.own)
		}
	}
	return sum
}

// Loaded gives a token after the pool's own requests on some pod have changed,
// however many did since the last token. It is for one receiver: who tells the other
// agents.
func (p *Pool) Loaded() <-chan struct{} { return p.loaded }

// tell leaves a token for the receiver of Loaded.
func (p *Pool) tell() {
	select {
	case p.loaded <- struct{}{}:
	default:
	}
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
