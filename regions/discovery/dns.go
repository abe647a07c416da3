package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// lookupEvery is how often a name is looked up. Cluster DNS lets its answers
	// live for 5 s, so that twice in that time finds a new pod within 7 s and asking
	// more often would only read a cache; an agent asks one question a second, one
	// of each family every two.
	lookupEvery = 2 * time.Second

	// lookupTime bounds one lookup. A resolver waits 5 s for each server of
	// resolv.conf: with two of them dead, the third has answered after 12 s.
	lookupTime = 12 * time.Second

	// maxAddresses is the most pods that one name may have, so that a name that
	// was mistaken for a Service's can't flood the pool: ten times what a region
	// of 100 pods needs, 16 KiB of records and one answer by TCP.
	maxAddresses = 1024

	// triton's own port for KServe v2 over HTTP.
	tritonHTTPPort = 8000
)

// networks are the families in the words of [Resolver].
var networks = [families]string{"ip4", "ip6"}

// Resolver finds the addresses of a name. [net.Resolver] is one.
type Resolver interface {
	// LookupNetIP finds a name's addresses of a family, "ip4" or "ip6". A name
	// that does not exist or has no address of the family is a [net.DNSError] with
	// IsNotFound, as only the name's own servers can say it; anything else that
	// keeps the answer away is another error.
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// DNSOptions are what a [DNS] source is made from. Start with
// [DefaultDNSOptions].
type DNSOptions struct {
	// Name has the addresses of the pods, as the name of a headless Service has.
	// With a dot at its end it is looked up as it stands. Without, the resolver's
	// search domains come first: in Kubernetes that is eight questions instead of
	// two, six of which are answered by "no such name".
	Name string
	// HTTPPort is each pod's port for KServe v2 over HTTP.
	HTTPPort uint16
	// MetricsPort and GRPCPort are those of the pods' metrics and gRPC; 0 if they
	// don't offer it.
	MetricsPort, GRPCPort uint16
	// Family is the one family that is asked for, "ip4" or "ip6"; empty is both.
	Family string
	// Models are what each pod may serve.
	Models []regions.PodModel
	// Resolver is asked; nil is this machine's.
	Resolver Resolver
}

// DefaultDNSOptions are those of Triton's own HTTP port.
func DefaultDNSOptions(name string) DNSOptions {
	return DNSOptions{Name: name, HTTPPort: tritonHTTPPort}
}

// DNS is a [Source] of the pods behind a name, each address of either family a
// pod. A pod's ID is its HTTP address, so that every agent of a region, and the
// next run of this one, knows it by the same ID.
//
// A server with an address of each family is two pods here, and its slots count
// twice: nothing in DNS tells that they are one. Choose a Family for such a name.
type DNS struct {
	opts    DNSOptions
	log     *slog.Logger
	metrics *Metrics
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
	sample := netip.MustParseAddr("192.0.2.1")
	if err := Validate([]regions.Pod{o.pod(sample)}); err != nil {
		return nil, fmt.Errorf("dns name %s: %w", o.Name, err)
	}
	if o.Resolver == nil {
		// StrictErrors, which only Go's own resolver has: for a relative name, a
		// server that fails at the search domain that has it must not end in the
		// "no such name" of the domain that is tried next.
		o.Resolver = &net.Resolver{PreferGo: true, StrictErrors: true}
	}
	return &DNS{opts: o, log: slog.New(slog.DiscardHandler), metrics: NewMetrics(nil)}, nil
}

// Report gives the source a logger and metrics. Call it before Run.
func (d *DNS) Report(log *slog.Logger, m *Metrics) {
	d.log, d.metrics = log.With("component", "discovery", "name", d.opts.Name), m
}

// pod is the pod at an address.
func (o *DNSOptions) pod(a netip.Addr) regions.Pod {
	at := netip.AddrPortFrom(a, o.HTTPPort)
	p := regions.Pod{ID: regions.PodID(at.String()), HTTP: at, Models: slices.Clone(o.Models)}
	if o.MetricsPort != 0 {
		p.Metrics = netip.AddrPortFrom(a, o.MetricsPort)
	}
	if o.GRPCPort != 0 {
		p.GRPC = netip.AddrPortFrom(a, o.GRPCPort)
	}
	return p
}

// Run looks the name up every two seconds until ctx is done, and then returns
// nil. It emits nothing before it has a first answer, and nothing while the
// answers stay as they were.
func (d *DNS) Run(ctx context.Context, emit func([]regions.Pod)) error {
	defer d.metrics.forget(d.opts.Name)
	var (
		seen    sightings
		emitted []netip.Addr
		begun   bool
		away    error
	)
	tick := time.NewTicker(lookupEvery)
	defer tick.Stop()
	for {
		answers := d.lookup(ctx)
		if ctx.Err() != nil {
			return nil
		}
		d.note(&away, answers)
		seen.hear(answers)
		all := seen.addresses()
		if seen.known() && (!begun || !slices.Equal(all, emitted)) {
			d.tell(answers, len(emitted), all)
			begun, emitted = true, all
			emit(d.pods(all))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (d *DNS) pods(addrs []netip.Addr) []regions.Pod {
	out := make([]regions.Pod, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, d.opts.pod(a))
	}
	return out
}

// lookup asks for both families at once, each by itself: asked for together, a
// resolver gives the family that it got and keeps quiet about the other.
func (d *DNS) lookup(ctx context.Context) [families]answer {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var out [families]answer
	var g sync.WaitGroup
	for f, network := range networks {
		if d.opts.Family != "" && d.opts.Family != network {
			continue // its answer is: none
		}
		g.Go(func() {
			addrs, err := d.opts.Resolver.LookupNetIP(ctx, network, d.opts.Name)
			out[f] = newAnswer(addrs, err)
		})
	}
	g.Wait()
	return out
}

// note tells whoever watches how the lookups went. A source that goes away or
// comes back is logged once.
func (d *DNS) note(away *error, answers [families]answer) {
	var failed error
	for f, a := range answers {
		failed = errors.Join(failed, a.err)
		if d.opts.Family == "" || d.opts.Family == networks[f] {
			d.metrics.lookedUp(d.opts.Name, a)
		}
	}
	d.metrics.away(d.opts.Name, failed != nil)
	switch {
	case failed != nil && *away == nil:
		d.log.Warn("the source is away, its pods stay as they were", "error", failed)
	case failed == nil && *away != nil:
		d.log.Info("the source is back")
	}
	*away = failed
}

// tell tells of a change of the set, and of what an operator should change.
func (d *DNS) tell(answers [families]answer, before int, all []netip.Addr) {
	d.log.Info("pods found", "pods", len(all), "before", before)
	d.metrics.found(d.opts.Name, len(all))
	if n := answers[0].dropped + answers[1].dropped; n > 0 {
		d.log.Warn("the name has more addresses than a source may have", "dropped", n, "most", maxAddresses)
	}
	if len(all) > 0 && all[0].Is4() && all[len(all)-1].Is6() { // IPv4 sorts first
		d.log.Warn("the name has addresses of both families; a server with both counts twice, unless a family is chosen")
	}
}
