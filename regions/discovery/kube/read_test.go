package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
)

const (
	v4   = discoveryv1.AddressTypeIPv4
	v6   = discoveryv1.AddressTypeIPv6
	fqdn = discoveryv1.AddressTypeFQDN
)

// The conditions as the controller writes them: all three, always.
type conditions struct{ ready, serving, terminating bool }

var (
	isReady     = conditions{true, true, false}
	notReady    = conditions{false, false, false}
	terminating = conditions{false, true, true}
	failing     = conditions{false, false, true}
	// With publishNotReadyAddresses, ready is true whatever happens.
	publishedTerminating = conditions{true, true, true}
	publishedNotReady    = conditions{true, false, false}
)

// e is an endpoint of a pod, ready unless told otherwise.
func e(pod, addr string, c ...conditions) discoveryv1.Endpoint {
	x := append(c, isReady)[0]
	node := "node-1"
	return discoveryv1.Endpoint{
		Addresses: []string{addr}, NodeName: &node,
		Conditions: discoveryv1.EndpointConditions{Ready: &x.ready, Serving: &x.serving, Terminating: &x.terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "inference", Name: pod, UID: types.UID("uid-" + pod)},
	}
}

// port is one of a slice.
func port(name string, number int32) discoveryv1.EndpointPort {
	tcp := corev1.ProtocolTCP
	return discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &tcp}
}

// slice is one of triton-llama's, with Triton's ports.
func slice(name string, family discoveryv1.AddressType, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "inference", UID: types.UID("uid-" + name), GenerateName: "triton-llama-",
			Labels: map[string]string{discoveryv1.LabelServiceName: "triton-llama", discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"},
		},
		AddressType: family, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{port("http", 8000), port("grpc", 8001), port("metrics", 8002)},
	}
}

// show is a set in one line: the pods' names.
func show(pods []regions.Pod) string {
	var out []string
	for _, p := range pods {
		text := strings.TrimPrefix(string(p.ID), "inference/")
		if p.Terminating {
			text += "(ends)"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

func TestRead(t *testing.T) {
	without := func(s *discoveryv1.EndpointSlice, ports ...discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
		s.Ports = ports
		return s
	}
	bare := func(addr string) discoveryv1.Endpoint { return discoveryv1.Endpoint{Addresses: []string{addr}} }
	reborn := func(pod, addr string, c ...conditions) discoveryv1.Endpoint {
		x := e(pod, addr, c...)
		x.TargetRef.UID += "-2"
		return x
	}
	udp := corev1.ProtocolUDP
	overUDP := port("http", 8000)
	overUDP.Protocol = &udp
	for _, c := range []struct {
		what   string
		family string
		ports  func(p *Ports)
		slices []*discoveryv1.EndpointSlice
		want   string // ID address, one after the other
		left   string // a part of it
	}{
		{what: "nothing"},
		{what: "several slices", slices: []*discoveryv1.EndpointSlice{slice("1", v4, e("b", "10.0.0.2")), slice("2", v4, e("a", "10.0.0.1"))},
			want: "inference/a 10.0.0.1:8000, inference/b 10.0.0.2:8000"},
		{what: "conditions", slices: []*discoveryv1.EndpointSlice{slice("1", v4,
			e("a", "10.0.0.1"), e("b", "10.0.0.2", notReady), e("c", "10.0.0.3", terminating), e("d", "10.0.0.4", failing),
			e("e", "10.0.0.5", publishedTerminating), e("f", "10.0.0.6", publishedNotReady))},
			want: "inference/a 10.0.0.1:8000, inference/b 10.0.0.2:8000, inference/c 10.0.0.3:8000 ends, inference/d 10.0.0.4:8000 ends, inference/e 10.0.0.5:8000 ends, inference/f 10.0.0.6:8000"},
		{what: "no conditions and no pod, as written by hand", slices: []*discoveryv1.EndpointSlice{slice("1", v4, bare("10.0.0.1"))},
			want: "10.0.0.1:8000 10.0.0.1:8000"},
		{what: "one pod in two slices, while it is moved", slices: []*discoveryv1.EndpointSlice{slice("1", v4, e("a", "10.0.0.1", terminating)), slice("2", v4, e("a", "10.0.0.1"))},
			want: "inference/a 10.0.0.1:8000 ends"},
		{what: "one pod of both families", slices: []*discoveryv1.EndpointSlice{slice("1", v6, e("a", "fd00::1"), e("b", "fd00::2")), slice("2", v4, e("a", "10.0.0.1"))},
			want: "inference/a 10.0.0.1:8000, inference/b [fd00::2]:8000"},
		{what: "the same, IPv6", family: "ip6", slices: []*discoveryv1.EndpointSlice{slice("1", v6, e("a", "fd00::1"), e("b", "fd00::2")), slice("2", v4, e("a", "10.0.0.1"))},
			want: "inference/a [fd00::1]:8000, inference/b [fd00::2]:8000"},
		{what: "the same, IPv4", family: "ip4", slices: []*discoveryv1.EndpointSlice{slice("1", v6, e("a", "fd00::1"), e("b", "fd00::2")), slice("2", v4, e("a", "10.0.0.1", terminating))},
			want: "inference/a 10.0.0.1:8000 ends"},
		{what: "an address that went to another pod", slices: []*discoveryv1.EndpointSlice{slice("1", v4, e("a", "10.0.0.1", terminating)), slice("2", v4, e("b", "10.0.0.1"))},
			want: "inference/b 10.0.0.1:8000"},
		{what: "a pod of a StatefulSet, before and after", slices: []*discoveryv1.EndpointSlice{slice("1", v4, e("a", "10.0.0.1", terminating)), slice("2", v4, reborn("a", "10.0.0.2", notReady))},
			want: "inference/a 10.0.0.2:8000"},
		{what: "names", slices: []*discoveryv1.EndpointSlice{slice("1", fqdn, bare("triton.example.com"))}},
		{what: "no port of that name", slices: []*discoveryv1.EndpointSlice{without(slice("1", v4, e("a", "10.0.0.1")), port("web", 8000), port("grpc", 8001))},
			left: `no port named http for HTTP, only "grpc", "web"`},
		{what: "no port of that name, nor pods", slices: []*discoveryv1.EndpointSlice{without(slice("1", v4), port("web", 8000))}},
		{what: "a headless service without ports, by number", ports: func(p *Ports) { p.HTTP, p.GRPC = Port{Number: 9000}, Port{Number: 9001} },
			slices: []*discoveryv1.EndpointSlice{without(slice("1", v4, e("a", "10.0.0.1")))}, want: "inference/a 10.0.0.1:9000 grpc 9001"},
		{what: "a single port without a name", slices: []*discoveryv1.EndpointSlice{without(slice("1", v4, e("a", "10.0.0.1")), port("", 9000))},
			want: "inference/a 10.0.0.1:9000"},
		{what: "UDP and nonsense", slices: []*discoveryv1.EndpointSlice{without(slice("1", v4, e("a", "10.0.0.1")), overUDP, port("http", 70000), discoveryv1.EndpointPort{})},
			left: "no port named http"},
		{what: "other names", ports: func(p *Ports) { p.HTTP, p.Metrics, p.OpenAI = Port{Name: "web"}, Port{}, Port{Name: "chat"} },
			slices: []*discoveryv1.EndpointSlice{without(slice("1", v4, e("a", "10.0.0.1")), port("web", 80), port("metrics", 81), port("chat", 82))},
			want:   "inference/a 10.0.0.1:80 openai 82"},
		{what: "a named port that differs from pod to pod", slices: []*discoveryv1.EndpointSlice{slice("1", v4, e("a", "10.0.0.1")), without(slice("2", v4, e("b", "10.0.0.2")), port("http", 9000))},
			want: "inference/a 10.0.0.1:8000, inference/b 10.0.0.2:9000"},
		{what: "what no pod can have", slices: []*discoveryv1.EndpointSlice{slice("1", v4, bare("0.0.0.0"), bare("fd00::1"), bare("x"), discoveryv1.Endpoint{}, e("a", "10.0.0.1"))},
			want: "inference/a 10.0.0.1:8000", left: "has no address"},
		{what: "two ports that are one", slices: []*discoveryv1.EndpointSlice{without(slice("1", v4, e("a", "10.0.0.1")), port("http", 8000), port("metrics", 8000))},
			left: "are both 10.0.0.1:8000"},
	} {
		o := DefaultOptions("triton-llama")
		o.Models, o.Family = models, c.family
		if c.ports != nil {
			c.ports(&o.Ports)
		}
		pods, left := o.read(c.slices)
		var got []string
		for _, p := range pods {
			text := fmt.Sprintf("%s %s", p.ID, p.HTTP)
			if p.Terminating {
				text += " ends"
			}
			if c.ports != nil {
				for name, at := range map[string]netip.AddrPort{"grpc": p.GRPC, "openai": p.OpenAI, "metrics": p.Metrics} {
					if at.IsValid() {
						text += fmt.Sprintf(" %s %d", name, at.Port())
					}
				}
			}
			got = append(got, text)
		}
		if strings.Join(got, ", ") != c.want || (c.left == "") != (left == "") || !strings.Contains(left, c.left) {
			t.Errorf("%s: got %q, left %q; want %q, %q", c.what, strings.Join(got, ", "), left, c.want, c.left)
		}
	}
}

func TestReadMany(t *testing.T) {
	var all []*discoveryv1.EndpointSlice
	for i := range 15 {
		s := slice(fmt.Sprint("s-", i), v4)
		for j := range 100 {
			s.Endpoints = append(s.Endpoints, e(fmt.Sprintf("p-%04d", 100*i+j), fmt.Sprintf("10.0.%d.%d", i, j)))
		}
		all = append(all, s)
	}
	o := DefaultOptions("triton-llama")
	o.Models = models
	pods, left := o.read(all)
	if len(pods) != discovery.MaxPods || pods[0].ID != "inference/p-0000" || !strings.Contains(left, "476 pods more") {
		t.Errorf("%d pods, left %q", len(pods), left)
	}
}

// twice reports whether another endpoint has the same UID.
func twice(all []*discoveryv1.EndpointSlice, e discoveryv1.Endpoint) bool {
	n := 0
	for _, s := range all {
		for _, x := range s.Endpoints {
			if e.TargetRef != nil && x.TargetRef != nil && x.TargetRef.UID == e.TargetRef.UID {
				n++
			}
		}
	}
	return n > 1
}

// TestReadWhatever: of any slices a valid set is made, always the same, and an
// endpoint that could be a pod is one, unless another has its place.
func TestReadWhatever(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []*discoveryv1.EndpointSlice
		for i := range rapid.IntRange(0, 4).Draw(t, "slices") {
			s := slice(fmt.Sprint(i), rapid.SampledFrom([]discoveryv1.AddressType{v4, v6, fqdn}).Draw(t, "family"))
			for range rapid.IntRange(0, 5).Draw(t, "endpoints") {
				x := discoveryv1.Endpoint{}
				for range rapid.IntRange(0, 2).Draw(t, "addresses") {
					x.Addresses = append(x.Addresses, rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "::ffff:10.0.0.1", "0.0.0.0", "x"}).Draw(t, "address"))
				}
				flag := rapid.SampledFrom([]*bool{nil, new(bool), func() *bool { b := true; return &b }()})
				x.Conditions = discoveryv1.EndpointConditions{Ready: flag.Draw(t, "ready"), Serving: flag.Draw(t, "serving"), Terminating: flag.Draw(t, "terminating")}
				if name := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "pod"); name != "" {
					x.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: name, UID: types.UID(rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "uid"))}
				}
				s.Endpoints = append(s.Endpoints, x)
			}
			all = append(all, s)
		}
		o := DefaultOptions("triton-llama")
		o.Models = models
		pods, _ := o.read(all)
		if err := discovery.Validate(pods); err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(pods, func(a, b regions.Pod) int { return strings.Compare(string(a.ID), string(b.ID)) }) {
			t.Fatalf("not in order: %s", show(pods))
		}
		again, _ := o.read(all)
		if !slices.EqualFunc(again, pods, same) {
			t.Fatalf("%s, then %s of the same", show(pods), show(again))
		}
		for _, s := range all {
			if !o.wants(s.AddressType) {
				continue
			}
			for i := range s.Endpoints {
				_, x, err := o.endpoint(s, &s.Endpoints[i])
				if err == nil && !slices.ContainsFunc(pods, func(p regions.Pod) bool {
					return p.ID == x.pod.ID || p.HTTP.Addr() == x.pod.HTTP.Addr() || x.v6 || p.HTTP.Addr().Is6()
				}) && !twice(all, s.Endpoints[i]) {
					t.Fatalf("%s at %s is not in %s", x.pod.ID, x.pod.HTTP, show(pods))
				}
			}
		}
	})
}
