package discovery

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
)

// families of addresses: IPv4 and IPv6.
const families = 2

const (
	// missesToLeave is how many answers in a row must lack an address before its
	// pod leaves. Two resolvers with caches of different age take turns in
	// answering, so that a pod which comes or goes may flicker for the 5 s that
	// cluster DNS caches: 3 answers are 6 s. A pod that is really gone is out of
	// rotation by its probes long before, so that waiting costs nothing.
	missesToLeave = 3

	// missesToEmpty is how many it takes if the answers hold no address at all.
	// That is how Kubernetes says that a Service has no pods, and also what a
	// Service says that was deleted by mistake or a server that lost its data; and
	// "no such name" is cached for up to 30 s. A region without pods tells its
	// clients to go elsewhere, at once, so that it takes 16 answers, 32 s: more
	// than one cached mistake. Pods that are gone do not serve meanwhile: their
	// probes say so.
	missesToEmpty = 16
)

// answer is what a lookup of one family brought: addresses in order, or an
// error. No addresses and no error is an answer too: there are none.
type answer struct {
	addrs   []netip.Addr
	dropped int // addresses beyond the most that a name may have
	err     error
}

// newAnswer reads what a resolver returned. Of too many addresses the lowest
// stay: the same ones each time and on every agent.
func newAnswer(addrs []netip.Addr, err error) answer {
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return answer{}
	}
	// What Go says of a name that the hosts file has, but not in this family.
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return answer{}
	}
	if err != nil {
		return answer{err: err}
	}
	var a answer
	for _, x := range addrs {
		x = x.Unmap()
		// What no pod can have. A link-local address lacks its zone here.
		if !x.IsValid() || x.IsUnspecified() || x.IsMulticast() || x.Is6() && x.IsLinkLocalUnicast() {
			continue
		}
		a.addrs = append(a.addrs, x)
	}
	slices.SortFunc(a.addrs, netip.Addr.Compare)
	a.addrs = slices.Compact(a.addrs)
	if n := len(a.addrs) - maxAddresses; n > 0 {
		a.addrs, a.dropped = a.addrs[:maxAddresses], n
	}
	return a
}

// sightings are the addresses that a name has, by what its answers said so far.
// The zero value knows nothing. It has no clock: answers are its time.
type sightings struct {
	misses [families]map[netip.Addr]int // answers in a row that lacked the address
	last   [families]int                // addresses in the newest answer
	heard  [families]bool               // there was an answer
}

// hear takes an answer of each family. An address comes with the first answer
// that has it and leaves by several that lack it. An error says nothing: it
// neither counts nor forgives.
func (s *sightings) hear(answers [families]answer) {
	for f, a := range answers {
		if a.err != nil {
			continue
		}
		s.heard[f], s.last[f] = true, len(a.addrs)
		if s.misses[f] == nil {
			s.misses[f] = map[netip.Addr]int{}
		}
		for addr := range s.misses[f] {
			s.misses[f][addr]++
		}
		for _, addr := range a.addrs {
			s.misses[f][addr] = 0
		}
	}
	limit := missesToLeave
	if s.last == [families]int{} {
		limit = missesToEmpty
	}
	for _, misses := range s.misses {
		maps.DeleteFunc(misses, func(_ netip.Addr, n int) bool { return n >= limit })
	}
}

// known reports whether there is anything to tell: an address, or the word of
// both families that there is none.
func (s *sightings) known() bool {
	return s.heard == [families]bool{true, true} || len(s.addresses()) > 0
}

// addresses are those that the name has, in order. Those that linger count
// towards the most that a name may have, after those that were just seen.
func (s *sightings) addresses() []netip.Addr {
	var all []netip.Addr
	of := func(a netip.Addr) int { return s.misses[family(a)][a] }
	for _, misses := range s.misses {
		all = slices.AppendSeq(all, maps.Keys(misses))
	}
	slices.SortFunc(all, func(a, b netip.Addr) int {
		if of(a) != of(b) {
			return of(a) - of(b)
		}
		return a.Compare(b)
	})
	all = all[:min(len(all), maxAddresses)]
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}
