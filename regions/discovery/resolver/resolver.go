// Package resolver asks DNS as a stub does (RFC 1034, section 5.3.1): the servers
// of resolv.conf, which do the work. Go's own resolver hides how long an answer
// holds and does not tell "there is none" from "nobody knows" for every name; a
// source of pods needs both.
package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Type is a type of records.
type Type uint16

// The types that name pods.
const (
	A    = Type(dns.TypeA)
	AAAA = Type(dns.TypeAAAA)
	SRV  = Type(dns.TypeSRV)
)

// String is the type's name.
func (t Type) String() string { return dns.Type(t).String() }

// Answer is what is known of a name, as of now. Without addresses and targets the
// answer is that there are none.
type Answer struct {
	Addrs   []netip.Addr // of type A or AAAA
	Targets []Target     // of type SRV
	// TTL is how long the answer holds: the least of the records that it is made
	// of, or what RFC 2308 says of an answer without records.
	TTL time.Duration
}

// Target is a server by an SRV record (RFC 2782).
type Target struct {
	Name             string // complete, with the dot at its end
	Port             uint16
	Priority, Weight uint16
	// Addrs are those that the answer gave along, which need not be all of them; none
	// means that they were not given.
	Addrs []netip.Addr
}

// Options are what a [Resolver] is made from. Start with [DefaultOptions].
type Options struct {
	// Config and Hosts are the files, which are read at each lookup, so that a change
	// needs no restart. A missing file says nothing.
	Config, Hosts string
	// Servers are asked instead of those of Config, IP:port.
	Servers []string
	// Dial opens connections to servers.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// DefaultOptions are this machine's.
func DefaultOptions() Options {
	return Options{Config: "/etc/resolv.conf", Hosts: "/etc/hosts", Dial: new(net.Dialer).DialContext}
}

// hostsTTL is how long an answer from the hosts file holds. Reading it again costs
// nothing, and who edits it wants to see the effect.
const hostsTTL = 5 * time.Second

// Resolver asks the servers of a configuration. It keeps nothing between two
// lookups and may be used at the same time by many.
type Resolver struct{ opts Options }

// New makes a resolver.
func New(o Options) *Resolver { return &Resolver{o} }

// Lookup finds what a name has of a type. A name without a dot at its end is
// looked up in the search domains too, up to the first in which there is such a
// name, whatever it has: the records of one family must not be mixed with those
// that a later domain has of the other.
//
// An answer says what the name's own servers say, be it that there is nothing. An
// error means that nobody could say: a time-out, a server that fails or refuses,
// an answer that makes no sense. It ends the search, since the name may be in the
// domain that could not be asked.
func (r *Resolver) Lookup(ctx context.Context, name string, t Type) (Answer, error) {
	if !isName(name) {
		return Answer{}, fmt.Errorf("look up %q: this is not a name", name)
	}
	if a, ok := r.local(name, t); ok {
		return a, nil
	}
	c := readConfig(r.opts.Config)
	if len(r.opts.Servers) > 0 {
		c.servers = r.opts.Servers
	}
	var none Answer
	for i, full := range c.candidates(name) {
		a, exists, err := r.ask(ctx, &c, full, t)
		if err != nil {
			return Answer{}, fmt.Errorf("look up %s %s: %w", full, t, err)
		}
		if exists {
			return a, nil
		}
		if i == 0 || a.TTL < none.TTL {
			none = a
		}
	}
	return none, nil
}

// local answers from the hosts file: a name that is there has no more than what
// is there.
func (r *Resolver) local(name string, t Type) (Answer, bool) {
	if t == SRV {
		return Answer{}, false
	}
	all := hosts(r.opts.Hosts, name)
	a := Answer{TTL: hostsTTL}
	for _, x := range all {
		if x.Is4() == (t == A) {
			a.Addrs = append(a.Addrs, x)
		}
	}
	return a, len(all) > 0
}

// ask asks each server in turn for one complete name, as often as the
// configuration says. exists is whether there is such a name.
func (r *Resolver) ask(ctx context.Context, c *config, name string, t Type) (a Answer, exists bool, err error) {
	for range c.attempts {
		for _, server := range c.servers {
			var reply *dns.Msg
			if reply, err = r.exchange(ctx, c, server, name, t); err == nil {
				a, exists, err = read(reply, t)
			}
			if err == nil {
				return a, exists, nil
			}
			err = fmt.Errorf("server %s: %w", server, err)
			if ctx.Err() != nil {
				return Answer{}, false, err
			}
		}
	}
	return Answer{}, false, err
}
