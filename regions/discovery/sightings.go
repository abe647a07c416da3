package discovery

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// families of addresses: IPv4 and IPv6.
const families = 2

const (
	// missesToLeave is how many answers in a row must lack an address before its
	// pod leaves, and timeToLeave how long they must do so. Two resolvers with caches
	// of different age take turns in answering, so that a pod which comes or goes may
	// flicker for the 5 s that cluster DNS caches. A pod that is really gone is out of
	// rotation by its probes long before, so that waiting costs nothing.
	missesToLeave = 3
	timeToLeave   = 6 * time.Second

	// timeToEmpty is how long it takes if the answers hold no address at all, in
	// missesToLeave answers at least. That is how Kubernetes says that a Service has no
	// pods, and also what a Service says that was deleted by mistake or a server that
	// lost its data. A region without pods tells its clients to go elsewhere, at once.
	// Pods that are gone do not serve meanwhile: their probes say so.
	timeToEmpty = 32 * time.Second

	// mostToEmpty bounds that time where the first such answer says that it holds for
	// longer: until then the others may all be that one mistake, read from a cache. A
	// deleted record of a zone whose SOA allows 15 minutes is repaired within them; a
	// day is what nobody meant.
	mostToEmpty = time.Hour
)

// answer is what a lookup brought: where the pods are, in order, or an error. No
// pods and no error is an answer too: there are none. With an error, what is there
// counts, but what is not says nothing.
type answer struct {
	at      []netip.AddrPort
	ttl     time.Duration
	dropped int // pods beyond the most that a name may have
	err     error
}

// set takes what was found. Of too many pods the lowest stay: the same ones each
// time and on every agent.
func (a *answer) set(at []netip.AddrPort) {
	for _, x := range at {
		x = netip.AddrPortFrom(x.Addr().Unmap(), x.Port())
		if ip := x.Addr(); x.Port() == 0 || !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.Is6() && ip.IsLinkLocalUnicast() {
			continue // what no pod can have; a link-local address lacks its zone here
		}
		a.at = append(a.at, x)
	}
	slices.SortFunc(a.at, netip.AddrPort.Compare)
	a.at = slices.Compact(a.at)
	if n := len(a.at) - MaxPods; n > 0 {
		a.at, a.dropped = a.at[:MaxPods], n
	}
}

// sightings are the pods that a name has, by what its answers said so far. The zero
// value knows nothing. It has no clock: now comes with the answers.
type sightings struct {
	misses [families]map[netip.AddrPort]missed // by pod
	last   [families]int                       // pods in the newest answer
	heard  [families]bool                      // there was an answer
	before [families]time.Time                 // when something was last heard

	empties int       // answers in a row without any pod
	patient time.Time // until when such answers are not believed
}

// missed is how often in a row answers lacked a pod, and when the one before them
// was.
type missed struct {
	answers int
	since   time.Time
}

// hear takes an answer of each family. A pod comes with the first answer that has
// it and leaves by several that lack it. An error says nothing: it neither counts
// nor forgives.
//
// Answers without any pod count by themselves. They say nothing of single pods, so
// that after a spell of them the first few pods that are back do not cost the
// others, which are about to follow.
func (s *sightings) hear(now time.Time, answers [families]answer) {
	for f, a := range answers {
		if s.misses[f] == nil {
			s.misses[f] = map[netip.AddrPort]missed{}
		}
		for _, at := range a.at {
			s.misses[f][at] = missed{}
		}
		if a.err == nil {
			s.heard[f], s.last[f] = true, len(a.at)
		}
	}
	if s.last == [families]int{} && len(answers[0].at)+len(answers[1].at) == 0 {
		s.nothing(now, answers)
		return
	}
	s.empties = 0
	for f, a := range answers {
		before := s.before[f]
		if a.err == nil || len(a.at) > 0 {
			s.before[f] = now
		}
		if a.err != nil {
			continue
		}
		for at, m := range s.misses[f] {
			if _, there := slices.BinarySearchFunc(a.at, at, netip.AddrPort.Compare); there {
				continue
			}
			if m.answers == 0 {
				m.since = before
			}
			if m.answers++; m.answers >= missesToLeave && now.Sub(m.since) >= timeToLeave {
				delete(s.misses[f], at)
				continue
			}
			s.misses[f][at] = m
		}
	}
}

// nothing takes answers that have no pod. They count when nobody failed to answer.
func (s *sightings) nothing(now time.Time, answers [families]answer) {
	var holds time.Duration
	for f, a := range answers {
		if a.err == nil {
			holds, s.before[f] = max(holds, a.ttl), now
		}
	}
	if answers[0].err != nil || answers[1].err != nil {
		return
	}
	if s.empties++; s.empties == 1 {
		s.patient = now.Add(min(max(holds, timeToEmpty), mostToEmpty))
	}
	if s.empties >= missesToLeave && !now.Before(s.patient) {
		for _, m := range s.misses {
			clear(m)
		}
	}
}

// known reports whether there is anything to tell: a pod, or the word of both
// families that there is none.
func (s *sightings) known() bool {
	return s.heard == [families]bool{true, true} || len(s.pods()) > 0
}

// pods are those that the name has, in order. Those that linger count towards the
// most that a name may have, after those that were just seen.
func (s *sightings) pods() []netip.AddrPort {
	var all []netip.AddrPort
	of := func(a netip.AddrPort) int {
		n := 0
		for _, m := range s.misses {
			n = max(n, m[a].answers)
		}
		return n
	}
	for _, m := range s.misses {
		all = slices.AppendSeq(all, maps.Keys(m))
	}
	slices.SortFunc(all, func(a, b netip.AddrPort) int { return cmp.Or(of(a)-of(b), a.Compare(b)) })
	all = slices.Compact(all)
	all = all[:min(len(all), MaxPods)]
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}
