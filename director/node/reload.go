package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/dnsserver"
)

// Reload changes over to new options while queries and requests go on: the zone's
// records, serial, name servers and hosts, the TTL, geography, trusted proxies, Why,
// the redirector's locations and certificate, the admin API's certificate, and its
// token there and at the redirector. DNS has the new records when it returns; routed
// answers follow with the next plan, at once. If anything in them is wrong, or other
// data differs, nothing changes and the error says what.
//
// What is code or keeps state is not compared, and stays as it was: ProbeTLS, Dial,
// Now, Logger, Registry, OnPlan, and what [gossip.Options.Fixed] leaves out. Reload
// is not to be called twice at the same time.
func (n *Node) Reload(o Options) error {
	if err := errors.Join(o.complete(), n.fixed(&o)); err != nil {
		return fmt.Errorf("director: %w", err)
	}
	handler, err := n.redirector(&o)
	if err != nil {
		return fmt.Errorf("director: %w", err)
	}
	// The last that can fail, and it changes nothing then.
	if err := n.dns.Reload(dnsZone(&o)); err != nil {
		return fmt.Errorf("director: %w", err)
	}
	n.http.handler.Store(handler)
	n.http.tls.Set(o.RedirectTLS)
	n.admin.Set(o.Admin)
	n.mind.wanted.Store(o.settings())
	n.nudge()
	return nil
}

// fixed is the error of options that can't change while the director runs.
func (n *Node) fixed(o *Options) error {
	names := n.opts.Gossip.Fixed(&o.Gossip)
	for name, differs := range map[string]bool{
		"the zone's name":    canonical(o.Zone.Name) != canonical(n.opts.Zone.Name),
		"DNS listeners":      !slices.Equal(o.DNS, n.opts.DNS),
		"redirect listeners": !slices.Equal(o.Redirect, n.opts.Redirect),
		"the admin listener": o.Admin.Listen != n.opts.Admin.Listen,
		"the state file":     o.StateFile != n.opts.StateFile,
	} {
		if differs {
			names = append(names, name)
		}
	}
	err := errors.Join(n.http.tls.Allows(o.RedirectTLS), n.admin.Check(o.Admin))
	if len(names) > 0 {
		slices.Sort(names)
		err = errors.Join(err, fmt.Errorf("only a restart can change %s", strings.Join(names, ", ")))
	}
	return err
}

// dnsZone is the zone with the names that are not for static records.
func dnsZone(o *Options) dnsserver.Zone {
	z := o.Zone
	z.Reserved = []string{regionLabel, routeLabel, whyLabel}
	return z
}

// redirector makes the handler of redirects.
func (n *Node) redirector(o *Options) (*redirect.Handler, error) {
	to := redirect.DefaultOptions()
	to.Zone, to.Location, to.Scheme, to.Port = o.Zone.Name, o.Location, o.Scheme, o.Port
	to.TrustedProxies, to.Token, to.Decider, to.Labels = o.TrustedProxies, o.Admin.Token, n.answerer, n.answerer.label
	to.Logger, to.Registry = n.opts.Logger.With("director", n.opts.Gossip.Name), n.opts.Registry
	return redirect.New(to)
}
