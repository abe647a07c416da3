package resolver

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestParseConfig(t *testing.T) {
	for _, c := range []struct {
		what, text string
		want       config
	}{
		{"nothing", "", config{servers: []string{"127.0.0.1:53"}, ndots: 1, timeout: 5 * time.Second, attempts: 2}},
		{"a pod of Kubernetes", "search inference.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
			config{servers: []string{"10.96.0.10:53"}, search: []string{"inference.svc.cluster.local.", "svc.cluster.local.", "cluster.local."}, ndots: 5, timeout: 5 * time.Second, attempts: 2}},
		{"the last of domain and search counts, three servers at most", "# x\n; y\nsearch a b\ndomain c.\nnameserver fd00::1\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver 10.0.0.1\nnameserver 10.0.0.2",
			config{servers: []string{"[fd00::1]:53", "[fe80::1%eth0]:53", "10.0.0.1:53"}, search: []string{"c."}, ndots: 1, timeout: 5 * time.Second, attempts: 2}},
		{"options within bounds", "nameserver 10.0.0.1\noptions ndots:99 timeout:0 attempts:0 use-vc trust-ad x:y",
			config{servers: []string{"10.0.0.1:53"}, ndots: 15, timeout: time.Second, attempts: 1, tcp: true}},
		{"and the others", "nameserver 10.0.0.1\noptions timeout:99 attempts:99 ndots:-1\nsearch . a..b",
			config{servers: []string{"10.0.0.1:53"}, ndots: 1, timeout: 30 * time.Second, attempts: 5}},
	} {
		if got := parseConfig(c.text); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", c.what, got, c.want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("search a b.\nnameserver ::1\noptions ndots:5 timeout:3", "a.b")
	f.Add("domain "+strings.Repeat("a.", 120), strings.Repeat("b.", 60)+"c")
	f.Fuzz(func(t *testing.T, text, name string) {
		c := parseConfig(text)
		if len(c.servers) == 0 || len(c.servers) > maxServers || c.timeout < time.Second || c.timeout > maxTimeout || c.attempts < 1 || c.attempts > maxAttempts {
			t.Errorf("out of bounds: %+v", c)
		}
		for _, s := range c.servers {
			if _, err := netip.ParseAddrPort(s); err != nil {
				t.Error(err)
			}
		}
		if !isName(name) {
			return
		}
		if all := c.candidates(name); len(all) == 0 || slices.ContainsFunc(all, func(n string) bool { return !dns.IsFqdn(n) }) {
			t.Errorf("candidates %q", all)
		}
	})
}

// FuzzReply: whatever a server sends is read or refused, and is never of another
// name or longer-lived than its records.
func FuzzReply(f *testing.F) {
	for _, records := range [][]string{
		{"a.example. 5 IN A 10.0.0.1"}, {"a.example. 5 IN CNAME b.example.", "b.example. 3 IN A 10.0.0.2"}, {"a.example. 5 IN SRV 1 2 3 b.example."}, {},
	} {
		m := new(dns.Msg)
		m.SetReply(question("a.example.", A))
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, uint16(A))
		f.Add(wire, uint16(SRV))
	}
	f.Fuzz(func(t *testing.T, wire []byte, typ uint16) {
		m := new(dns.Msg)
		q := question("a.example.", Type(typ))
		if len(wire) > 1 {
			q.Id = uint16(wire[0])<<8 | uint16(wire[1])
		}
		if m.Unpack(wire) != nil || !answers(m, q) {
			return
		}
		a, _, err := read(m, Type(typ))
		if err != nil {
			return
		}
		if a.TTL < 0 || a.TTL > forever || len(a.Addrs)+len(a.Targets) > len(m.Answer) {
			t.Errorf("%+v of %v", a, m)
		}
	})
}
