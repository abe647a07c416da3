package discovery

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery/resolver"
)

const (
	// soonest is how long an answer is kept at least. Some servers give their answers
	// no time at all; an agent then asks one question a second for each family.
	soonest = time.Second

	// latest is how long it is kept at most. Asking before an answer's time is over
	// reads a cache, mostly; but caches are emptied and servers take turns, and a time
	// of a day, which somebody left as it was, would hide new pods for a day. At 30 s a
	// question costs nothing and a new pod, which took minutes to load its model, is
	// found in no time.
	latest = 30 * time.Second

	// again is when a lookup that failed is repeated: soon, since whoever fails may be
	// there again, and not at once, since it may be too much for them.
	again = 2 * time.Second

	// lookupTime bounds one lookup. A resolver waits 5 s for each server of
	// resolv.conf: with two of them dead, the third has answered after 12 s.
	lookupTime = 12 * time.Second

	// MaxPods is the most that one source may have, so that a name or label that was
	// mistaken for a Service's can't flood the pool: ten times what a region of 100 pods
	// needs, and by DNS 16 KiB of records and one answer by TCP.
	MaxPods = 1024

	// targetsAtOnce bounds the questions for the addresses of SRV targets, where the
	// answer did not give them along.
	targetsAtOnce = 16

	// triton's own port for KServe v2 over HTTP.
	tritonHTTPPort = 8000
)

// networks are the families in the words of [DNSOptions], and types what is asked
// for.
var (
	networks = [families]string{"ip4", "ip6"}
	types    = [families]resolver.Type{resolver.A, resolver.AAAA}
)

// Resolver finds what a name has. [resolver.Resolver] is one.
type Resolver interface {
	// Lookup finds what a name has of a type. An answer without anything, and no
	// error, is that there is nothing, as only the name's own servers can say it;
	// whatever keeps the answer away is an error.
	Lookup(ctx context.Context, name string, t resolver.Type) (resolver.Answer, error)
}

// DNSOptions are what a [DNS] source is made from. Start with
// [DefaultDNSOptions].
type DNSOptions struct {
	// Name has the addresses of the pods, as the name of a headless Service has.
	// With a dot at its end it is looked up as it stands. Without, the resolver's
	// search domains come first: in Kubernetes that is eight questions instead of
	// two, six of which are answered by "no such name".
	Name string
	// SRV asks for the name's SRV records, which have the pods' names and HTTP ports.
	// Of several priorities only the first counts, since the others are for when it
	// can't be reached: then requests go to other regions. Weights are left to the
	// pool, which knows the pods' slots.
	SRV bool
	// HTTPPort is each pod's port for KServe v2 over HTTP, unless SRV records say it.
	HTTPPort uint16
	// GRPCPort, OpenAIPort and MetricsPort are those of the pods' gRPC, OpenAI
	// frontend and metrics; 0 if they don't offer it.
	GRPCPort, OpenAIPort, MetricsPort uint16
	// Family is the one family that is asked for, "ip4" or "ip6". Empty is both, and
	// of an SRV target that has both IPv4.
	Family string
	// Models are what each pod may serve.
	Models []regions.PodModel
	// Resolver is asked; nil is this machine's.
	Resolver Resolver
}

// DefaultDNSOptions are those of Triton's own HTTP port, and of SRV for a name that
// begins with an underscore, like _http._tcp.triton: only SRV records have such
// names.
func DefaultDNSOptions(name string) DNSOptions {
	return DNSOptions{Name: name, SRV: strings.HasPrefix(name, "_"), HTTPPort: tritonHTTPPort}
}

// DNS is a [Source] of the pods behind a name, each address of either family a
// pod. A pod's ID is its HTTP address, so that every agent of a region, and the
// next run of this one, knows it by the same ID.
//
// A server with an address of each family is two pods here, and its slots count
// twice: nothing in A and AAAA records tells that they are one. Choose a Family for
// such a name, or ask for SRV, where a server is one target.
type DNS struct {
	*Journal
	opts DNSOptions
}

// NewDNS makes a source. It looks nothing up yet.
func NewDNS(o DNSOptions) (*DNS, error) {
	if o.Name == "" {
		return nil, errors.New("dns: no name to look up")
	}
	if o.Family != "" && !slices.Contains(networks[:], o.Family) {
		return nil, fmt.Errorf("dns name %s: family %q: want ip4, ip6 or none for both", o.Name, o.Family)
	}
	// Any pod of the source shows whether ports and models make sense.
	sample := netip.MustParseAddrPort("192.0.2.1:65535")
	if !o.SRV {
		sample = netip.AddrPortFrom(sample.Addr(), o.HTTPPort)
	}
	if err := Validate([]regions.Pod{o.pod(sample)}); err != nil {
		return nil, fmt.Errorf("dns name %s: %w", o.Name, err)
	}
	if o.Resolver == nil {
		o.Resolver = resolver.New(resolver.DefaultOptions())
	}
	return &DNS{NewJournal(o.Name), o}, nil
}

// pod is the pod at an HTTP address.
func (o *DNSOptions) pod(at netip.AddrPort) regions.Pod {
	p := regions.Pod{ID: regions.PodID(at.String()), HTTP: at, Models: slices.Clone(o.Models)}
	for _, x := range [...]struct {
		port uint16
		into *netip.AddrPort
	}{{o.GRPCPort, &p.GRPC}, {o.OpenAIPort, &p.OpenAI}, {o.MetricsPort, &p.Metrics}} {
		if x.port != 0 {
			*x.into = netip.AddrPortFrom(at.Addr(), x.port)
		}
	}
	return p
}

// Run looks the name up, again whenever an answer's time is over, until ctx is done,
// and then returns nil. It emits nothing before it has a first answer, and nothing
// while the answers stay as they were.
func (d *DNS) Run(ctx context.Context, emit func([]regions.Pod)) error {
	defer d.End()
	var (
		seen    sightings
		emitted []netip.AddrPort
		begun   bool
	)
	for {
		answers := d.lookup(ctx)
		if ctx.Err() != nil {
			return nil
		}
		d.note(answers)
		seen.hear(time.Now(), answers)
		all := seen.pods()
		if seen.known() && (!begun || !slices.Equal(all, emitted)) {
			pods := d.pods(all)
			d.tell(answers, all, len(pods))
			begun, emitted = true, all
			emit(pods)
		}
		wait := time.NewTimer(next(answers))
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
}

// next is how long until the name is looked up again: until the first answer's time
// is over.
func next(answers [families]answer) time.Duration {
	wait := latest
	for _, a := range answers {
		if a.err != nil {
			return again
		}
		wait = min(wait, max(a.ttl, soonest))
	}
	return wait
}

func (d *DNS) pods(at []netip.AddrPort) []regions.Pod {
	out := make([]regions.Pod, 0, len(at))
	for _, a := range at {
		// An SRV record may name the port of another frontend, which must not be probed
		// as if it were this one.
		if p := d.opts.pod(a); Validate([]regions.Pod{p}) == nil {
			out = append(out, p)
		}
	}
	return out
}

// lookup asks for both families at once, each by itself: asked for together, a
// resolver gives the family that it got and keeps quiet about the other. What is
// not asked for has the answer: none.
func (d *DNS) lookup(ctx context.Context) [families]answer {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	out := [families]answer{{ttl: latest}, {ttl: latest}}
	if d.opts.SRV {
		out[0] = d.services(ctx)
		return out
	}
	var g sync.WaitGroup
	for f, network := range networks {
		if d.asks(network) {
			g.Go(func() { out[f] = d.addresses(ctx, d.opts.Name, types[f], d.opts.HTTPPort) })
		}
	}
	g.Wait()
	return out
}

// asks reports whether a family is asked for.
func (d *DNS) asks(network string) bool { return d.opts.Family == "" || d.opts.Family == network }

// addresses asks for a name's addresses of a family, all with one port.
func (d *DNS) addresses(ctx context.Context, name string, t resolver.Type, port uint16) answer {
	found, err := d.opts.Resolver.Lookup(ctx, name, t)
	a := answer{ttl: found.TTL, err: err}
	a.set(withPort(found.Addrs, port))
	return a
}

func withPort(addrs []netip.Addr, port uint16) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(addrs))
	for _, x := range addrs {
		out = append(out, netip.AddrPortFrom(x, port))
	}
	return out
}

// services asks for the name's SRV records, and for the addresses of those targets
// that came without.
func (d *DNS) services(ctx context.Context) answer {
	found, err := d.opts.Resolver.Lookup(ctx, d.opts.Name, resolver.SRV)
	if err != nil {
		return answer{err: err}
	}
	targets := first(found.Targets)
	left := max(0, len(targets)-MaxPods)
	targets = targets[:len(targets)-left]
	of := make([]answer, len(targets))
	var g errgroup.Group
	g.SetLimit(targetsAtOnce)
	for i, t := range targets {
		g.Go(func() error {
			of[i] = d.target(ctx, t)
			return nil
		})
	}
	_ = g.Wait() // none fails
	a := answer{ttl: found.TTL}
	var at []netip.AddrPort
	for _, x := range of {
		at, a.ttl, a.err = append(at, x.at...), min(a.ttl, x.ttl), errors.Join(a.err, x.err)
	}
	a.set(at)
	a.dropped += left
	return a
}

// first are the targets of the first priority, each once, in order.
func first(targets []resolver.Target) []resolver.Target {
	slices.SortFunc(targets, func(a, b resolver.Target) int {
		if a.Priority != b.Priority {
			return int(a.Priority) - int(b.Priority)
		}
		if a.Name != b.Name {
			return strings.Compare(a.Name, b.Name)
		}
		return int(a.Port) - int(b.Port)
	})
	for i, t := range targets {
		if t.Priority != targets[0].Priority {
			targets = targets[:i]
			break
		}
	}
	return slices.CompactFunc(targets, func(a, b resolver.Target) bool { return a.Name == b.Name && a.Port == b.Port })
}

// target finds where a target is: at its IPv4 addresses if it has some and they may
// be used, else at the others.
func (d *DNS) target(ctx context.Context, t resolver.Target) answer {
	given := answer{ttl: latest}
	for f, network := range networks {
		if !d.asks(network) {
			continue
		}
		given.set(withPort(slices.DeleteFunc(slices.Clone(t.Addrs), func(x netip.Addr) bool { return family(x) != f }), t.Port))
		if len(given.at) > 0 {
			return given
		}
	}
	out := answer{ttl: latest}
	for f, network := range networks {
		if !d.asks(network) {
			continue
		}
		a := d.addresses(ctx, t.Name, types[f], t.Port)
		a.ttl = min(a.ttl, out.ttl)
		if out = a; a.err != nil || len(a.at) > 0 {
			break // of a family that could not be asked for nobody knows that it has none
		}
	}
	return out
}

func family(a netip.Addr) int {
	if a.Unmap().Is4() {
		return 0
	}
	return 1
}

// note tells whoever watches how the lookups went.
func (d *DNS) note(answers [families]answer) {
	var failed error
	for f, a := range answers {
		failed = errors.Join(failed, a.err)
		if d.opts.SRV && f == 0 || !d.opts.SRV && d.asks(networks[f]) {
			d.metrics.lookedUp(d.opts.Name, a)
		}
	}
	d.Away(failed)
}

// tell tells of a change of the set, and of what an operator should change.
func (d *DNS) tell(answers [families]answer, all []netip.AddrPort, pods int) {
	d.Found(pods)
	if pods < len(all) {
		d.log.Warn("SRV records with the port of another frontend are left out", "records", len(all)-pods)
	}
	if n := answers[0].dropped + answers[1].dropped; n > 0 {
		d.log.Warn("the name has more addresses than a source may have", "dropped", n, "most", MaxPods)
	}
	if !d.opts.SRV && len(all) > 0 && all[0].Addr().Is4() && all[len(all)-1].Addr().Is6() { // IPv4 sorts first
		d.log.Warn("the name has addresses of both families; a server with both counts twice, unless a family is chosen")
	}
}
