package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
)

// sight is a pod as an endpoint of some slice shows it.
type sight struct {
	pod   regions.Pod
	v6    bool
	ready bool
}

// read makes a Service's pods of its slices, which come in a fixed order. left says
// what was left out and why, each reason once.
//
// An endpoint may be in two slices while the controller moves it, and has one in each
// family: those are one pod, known by its UID. Slices are read independently, so that
// two pods at one address can show for a moment, an old one that ends and the new one
// that was given its address: the one that goes on stays.
func (o *Options) read(all []*discoveryv1.EndpointSlice) (pods []regions.Pod, left string) {
	seen := map[string]sight{}
	var reasons []string
	leave := func(format string, args ...any) {
		if why := fmt.Sprintf(format, args...); !slices.Contains(reasons, why) {
			reasons = append(reasons, why)
		}
	}
	for _, slice := range all {
		if !o.wants(slice.AddressType) {
			continue
		}
		if o.port(o.Ports.HTTP, slice) == 0 {
			if len(slice.Endpoints) > 0 {
				leave("the service has no port named %s for HTTP, only %s", o.Ports.HTTP.Name, names(slice.Ports))
			}
			continue
		}
		for i := range slice.Endpoints {
			key, s, err := o.endpoint(slice, &slice.Endpoints[i])
			if err != nil {
				leave("%v", err)
				continue
			}
			if old, twice := seen[key]; twice {
				s = merge(old, s)
			}
			seen[key] = s
		}
	}
	pods = unique(seen)
	if n := len(pods) - discovery.MaxPods; n > 0 {
		leave("%d pods more than the %d that a source may have", n, discovery.MaxPods)
		pods = pods[:discovery.MaxPods]
	}
	return pods, strings.Join(reasons, "; ")
}

// wants reports whether a slice's addresses are of use. Names are not: what is at a
// name may change unseen.
func (o *Options) wants(t discoveryv1.AddressType) bool {
	switch t {
	case discoveryv1.AddressTypeIPv4:
		return o.Family != "ip6"
	case discoveryv1.AddressTypeIPv6:
		return o.Family != "ip4"
	default:
		return false
	}
}

// port is the number of a port, 0 if the slice does not have it. A Service with a
// single port may leave it without a name: it is the HTTP port.
func (o *Options) port(want Port, slice *discoveryv1.EndpointSlice) uint16 {
	if want.Number != 0 || want.Name == "" {
		return want.Number
	}
	for _, p := range slice.Ports {
		if p.Port == nil || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP || *p.Port < 1 || *p.Port > 65535 {
			continue
		}
		if name := value(p.Name, ""); name == want.Name || name == "" && want == o.Ports.HTTP && len(slice.Ports) == 1 {
			return uint16(*p.Port)
		}
	}
	return 0
}

func names(ports []discoveryv1.EndpointPort) string {
	if len(ports) == 0 {
		return "none"
	}
	out := make([]string, 0, len(ports))
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%q", value(p.Name, "")))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// value is what a field says, or what it means to leave it out.
func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// endpoint reads one endpoint and the key by which it is known in other slices.
func (o *Options) endpoint(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) (key string, s sight, err error) {
	if len(e.Addresses) == 0 {
		return "", s, fmt.Errorf("an endpoint of %s has no address", slice.Name)
	}
	// Of several addresses the first is meant; there are no others any more.
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil || addr.Is4() != (slice.AddressType == discoveryv1.AddressTypeIPv4) {
		return "", s, fmt.Errorf("%q in %s is no address of its family", e.Addresses[0], slice.Name)
	}
	at := func(p Port) netip.AddrPort {
		if n := o.port(p, slice); n != 0 {
			return netip.AddrPortFrom(addr, n)
		}
		return netip.AddrPort{}
	}
	p := regions.Pod{HTTP: at(o.Ports.HTTP), GRPC: at(o.Ports.GRPC), OpenAI: at(o.Ports.OpenAI), Metrics: at(o.Ports.Metrics), Models: o.Models}
	p.ID = regions.PodID(p.HTTP.String())
	key = string(p.ID)
	if t := e.TargetRef; t != nil && t.Kind == "Pod" && t.Name != "" {
		p.ID = regions.PodID(cmp.Or(t.Namespace, slice.Namespace) + "/" + t.Name)
		key = cmp.Or(string(t.UID), string(p.ID))
	}
	if err := discovery.Validate([]regions.Pod{p}); err != nil {
		return "", s, err
	}
	c := e.Conditions
	p.Terminating = value(c.Terminating, false)
	return key, sight{pod: p, v6: addr.Is6(), ready: value(c.Ready, true)}, nil
}

// merge is one pod of two sights of it. Slices are not renewed together: a pod that
// has begun to end never stops to, and one that was ready a moment ago may be tried.
func merge(a, b sight) sight {
	out := a
	if a.v6 && !b.v6 {
		out = b
	}
	out.ready = a.ready || b.ready
	out.pod.Terminating = a.pod.Terminating || b.pod.Terminating
	return out
}

// unique are the pods in the order of their IDs, one at each ID and address: the one
// that takes requests if there is one, and the ready one of those.
func unique(seen map[string]sight) []regions.Pod {
	rank := func(s sight) int {
		n := 0
		if s.pod.Terminating {
			n += 2
		}
		if !s.ready {
			n++
		}
		return n
	}
	keys := make([]string, 0, len(seen))
	for key := range seen {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		x, y := seen[a], seen[b]
		return cmp.Or(rank(x)-rank(y), cmp.Compare(x.pod.ID, y.pod.ID), cmp.Compare(a, b))
	})
	ids, at := map[regions.PodID]bool{}, map[netip.AddrPort]bool{}
	out := make([]regions.Pod, 0, len(keys))
	for _, key := range keys {
		if p := seen[key].pod; !ids[p.ID] && !at[p.HTTP] {
			ids[p.ID], at[p.HTTP] = true, true
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b regions.Pod) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
