package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/guard"
)

// farewell is how long a stopping agent goes on; see Options.
type farewell struct{ linger, grace time.Duration }

// policy is who the gateway lets in.
func (o *Options) policy() gateway.Policy {
	return gateway.Policy{TrustedProxies: o.TrustedProxies, Keys: o.Keys}
}

// connections are the limits of connections, with who is exempt.
func (o *Options) connections() guard.Limits {
	l := o.Connections
	l.Exempt = slices.Concat(l.Exempt, o.TrustedProxies)
	return l
}

// Reload changes over to new options while requests go on: trusted proxies, API
// keys, limits (but for Dial and heads), certificates, the admin API's token, Linger and
// Grace. Requests that are under way end by what they began with. If anything in
// them is wrong, or other data differs, nothing changes and the error says what.
//
// What is code or keeps state is not compared, and stays as it was: Sources,
// SpillTLS, ListenStream, Dial, Now, Logger, Registry, Version, and what
// [gossip.Options.Fixed] leaves out. Reload is not to be called twice at the same
// time.
func (a *Agent) Reload(o Options) error {
	if err := errors.Join(o.complete(), a.fixed(&o)); err != nil {
		return fmt.Errorf("agent of region %s: %w", a.opts.Region, err)
	}
	a.gateway.SetPolicy(o.policy())
	a.guard.SetLimits(o.connections())
	a.proxy.SetLimits(o.Limits)
	a.tls.Set(o.serverTLS())
	a.admin.Set(o.Admin)
	a.farewell.Store(&farewell{o.Linger, o.Grace})
	return nil
}

// fixed is the error of options that can't change while the agent runs.
func (a *Agent) fixed(o *Options) error {
	names := a.opts.Gossip.Fixed(&o.Gossip)
	for name, differs := range map[string]bool{
		"the region":                o.Region != a.opts.Region || o.Location != a.opts.Location,
		"endpoints":                 !slices.EqualFunc(o.Endpoints, a.opts.Endpoints, sameEndpoint),
		"gateway listeners":         !slices.Equal(o.Listen, a.opts.Listen),
		"the admin listener":        o.Admin.Listen != a.opts.Admin.Listen,
		"models":                    !slices.Equal(o.Models, a.opts.Models),
		"how pods are chosen":       o.Balance != a.opts.Balance,
		"limits of requests' heads": o.Head != a.opts.Head,
		"the time to connect":       o.Limits.Dial != a.opts.Limits.Dial,
		"limits of queues":          o.Admit.Bound != a.opts.Admit.Bound || o.Admit.MaxWait != a.opts.Admit.MaxWait,
		"canaries":                  o.Canary != a.opts.Canary,
		"the learning of slots":     o.FixedSlots != a.opts.FixedSlots,
	} {
		if differs {
			names = append(names, name)
		}
	}
	err := errors.Join(a.tls.Allows(o.TLS), a.admin.Check(o.Admin))
	if len(names) > 0 {
		slices.Sort(names)
		err = errors.Join(err, fmt.Errorf("only a restart can change %s", strings.Join(names, ", ")))
	}
	return err
}

func sameEndpoint(a, b regions.Endpoint) bool {
	return a.URL() == b.URL() && slices.Equal(a.Addrs, b.Addrs)
}
