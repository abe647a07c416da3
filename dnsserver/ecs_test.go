package dnsserver

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// subnetOf returns the data of the client-subnet option in a reply, nil for
// none, from the raw octets: the library would mend them.
func subnetOf(t testing.TB, wire []byte) []byte {
	t.Helper()
	opt := unpack(t, wire).IsEdns0()
	if opt == nil {
		return nil
	}
	// OPT is the last record: walk over its options.
	const fixed = 11
	data := wire[len(wire)-dns.Len(opt)+fixed:]
	for len(data) > 0 {
		code, size := binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:])
		if code == dns.EDNS0SUBNET {
			return data[4 : 4+size]
		}
		data = data[4+size:]
	}
	return nil
}

func TestClientSubnet(t *testing.T) {
	v4 := func(source byte, address ...byte) []byte { return append([]byte{0, 1, source, 0}, address...) }
	v6 := func(source byte, address ...byte) []byte { return append([]byte{0, 2, source, 0}, address...) }
	reply := func(data []byte, scope byte) []byte {
		out := bytes.Clone(data)
		out[3] = scope
		return out
	}
	const (
		usAddr, euAddr = "198.51.100.1", "198.51.100.2"
		local          = "127.0.0.1/32"
	)
	euV4, euV6 := v4(24, 81, 2, 69), v6(56, 0x20, 1, 0x0d, 0xb8, 0, 0x0e, 0)
	tests := []struct {
		name   string
		qname  string // default llama
		qtype  uint16 // default A
		data   []byte
		rcode  int
		reply  []byte // the option in the reply, nil for none
		addr   string // the answer
		client string // what the Answerer was asked for
	}{
		{name: "no option", addr: usAddr, client: local},
		{name: "IPv4 /24", data: euV4, reply: reply(euV4, 24), addr: euAddr, client: "81.2.69.0/24"},
		{name: "IPv4 /32", data: v4(32, 81, 2, 69, 142), reply: reply(v4(32, 81, 2, 69, 142), 24), addr: euAddr, client: "81.2.69.142/32"},
		{name: "IPv4 /20, answer for less", data: v4(20, 81, 2, 0x40), reply: reply(v4(20, 81, 2, 0x40), 24), addr: euAddr, client: "81.2.64.0/20"},
		{name: "IPv4 /24, answer for more", data: v4(24, 8, 8, 8), reply: reply(v4(24, 8, 8, 8), 16), addr: usAddr, client: "8.8.8.0/24"},
		{name: "IPv6 /56", data: euV6, reply: reply(euV6, 48), addr: euAddr, client: "2001:db8:e::/56"},
		{name: "IPv6 /128", data: v6(128, 0x20, 1, 0x0d, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
			reply: reply(v6(128, 0x20, 1, 0x0d, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), 32), addr: usAddr, client: "2001:db9::1/128"},
		{name: "SOURCE 0", data: v4(0), reply: v4(0), addr: usAddr, client: local},
		{name: "IPv6 SOURCE 0", data: v6(0), reply: v6(0), addr: usAddr, client: local},
		{name: "family 0 with /0, as dig sends it", data: []byte{0, 0, 0, 0}, reply: []byte{0, 0, 0, 0}, addr: usAddr, client: local},
		{name: "family 0 with /8", data: []byte{0, 0, 8, 0, 10}, rcode: dns.RcodeFormatError},
		{name: "family 3", data: []byte{0, 3, 24, 0, 1, 2, 3}, rcode: dns.RcodeFormatError},
		{name: "too few octets", data: v4(24, 81, 2), rcode: dns.RcodeFormatError},
		{name: "too many octets", data: v4(24, 81, 2, 69, 0), rcode: dns.RcodeFormatError},
		{name: "octets with SOURCE 0", data: v4(0, 0), rcode: dns.RcodeFormatError},
		{name: "too few octets, IPv6", data: v6(56, 0x20, 1, 0x0d, 0xb8), rcode: dns.RcodeFormatError},
		{name: "bits past SOURCE", data: v4(20, 81, 2, 0x4F), rcode: dns.RcodeFormatError},
		{name: "bits past SOURCE, IPv6", data: v6(44, 0x20, 1, 0x0d, 0xb8, 0, 0x0e), rcode: dns.RcodeFormatError},
		{name: "SCOPE in a query", data: []byte{0, 1, 24, 24, 81, 2, 69}, rcode: dns.RcodeFormatError},
		{name: "SCOPE in a query, SOURCE 0", data: []byte{0, 1, 0, 1}, rcode: dns.RcodeFormatError},
		{name: "IPv4 /33", data: v4(33, 81, 2, 69, 0, 0), rcode: dns.RcodeFormatError},
		{name: "IPv6 /129", data: v6(129, make([]byte, 17)...), rcode: dns.RcodeFormatError},
		{name: "three octets", data: []byte{0, 1, 24}, rcode: dns.RcodeFormatError},
		{name: "empty option", data: []byte{}, rcode: dns.RcodeFormatError},
		{name: "NODATA", qname: "v4only.", qtype: dns.TypeAAAA, data: euV4, reply: reply(euV4, 0), client: "81.2.69.0/24"},
		{name: "NXDOMAIN", qname: "absent.", data: euV4, rcode: dns.RcodeNameError, reply: reply(euV4, 0), client: "81.2.69.0/24"},
		{name: "SERVFAIL", qname: "unsure.", data: euV4, rcode: dns.RcodeServerFailure, reply: reply(euV4, 0), client: "81.2.69.0/24"},
		{name: "SOA", qname: "@", qtype: dns.TypeSOA, data: euV4, reply: reply(euV4, 0)},
		{name: "NS", qname: "@", qtype: dns.TypeNS, data: euV4, reply: reply(euV4, 0)},
		{name: "static", qname: "mail.", data: euV4, reply: reply(euV4, 0), addr: "192.0.2.25"},
		{name: "AXFR", qname: "@", qtype: dns.TypeAXFR, data: euV4, rcode: dns.RcodeRefused, reply: reply(euV4, 0)},
		{name: "scope wider than the family", qname: "wide.", data: euV4, reply: reply(euV4, 32), addr: "198.51.100.3", client: "81.2.69.0/24"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := &world{}
			h := offline(t)
			h.answerer = w
			query := raw{name: "llama.example.test.", qtype: dns.TypeA, opt: optRecord(1232, 0, 0)}
			switch test.qname {
			case "":
			case "@":
				query.name = "example.test."
			default:
				query.name = test.qname + "example.test."
			}
			if test.qtype != 0 {
				query.qtype = test.qtype
			}
			if test.data != nil {
				query.opt = optRecord(1232, 0, 0, option(dns.EDNS0SUBNET, test.data...))
			}
			got := h.handle(make([]byte, replyScratch), query.wire(), netip.MustParseAddr("127.0.0.1"), overUDP)
			msg := unpack(t, got)
			if msg.Rcode != test.rcode {
				t.Fatalf("rcode %s, want %s", dns.RcodeToString[msg.Rcode], dns.RcodeToString[test.rcode])
			}
			if option := subnetOf(t, got); !bytes.Equal(option, test.reply) {
				t.Errorf("option % x, want % x", option, test.reply)
			}
			addr := ""
			for _, rr := range msg.Answer {
				if a, ok := rr.(*dns.A); ok {
					addr = a.A.String()
				}
			}
			if addr != test.addr {
				t.Errorf("address %q, want %q", addr, test.addr)
			}
			client := ""
			if asked := w.clients(); len(asked) > 0 {
				client = asked[0].String()
			}
			if client != test.client {
				t.Errorf("the Answerer was asked for %q, want %q", client, test.client)
			}
		})
	}
}

func TestTwoClientSubnetsAreRefused(t *testing.T) {
	subnet := option(dns.EDNS0SUBNET, 0, 1, 24, 0, 81, 2, 69)
	query := raw{qtype: dns.TypeA, opt: optRecord(1232, 0, 0, subnet, subnet)}
	got := unpack(t, offline(t).handle(make([]byte, replyScratch), query.wire(), netip.IPv6Loopback(), overUDP))
	if got.Rcode != dns.RcodeFormatError {
		t.Errorf("rcode %d, want FORMERR", got.Rcode)
	}
}

func TestSourceAddressIsTheClient(t *testing.T) {
	tests := []struct{ source, client string }{
		{"192.0.2.7", "192.0.2.7/32"},
		{"::ffff:192.0.2.7", "192.0.2.7/32"},
		{"2001:db8::7", "2001:db8::7/128"},
		{"fe80::1%eth0", "fe80::1/128"},
	}
	for _, test := range tests {
		w := &world{}
		h := offline(t)
		h.answerer = w
		h.handle(make([]byte, replyScratch), raw{name: "llama.example.test.", qtype: dns.TypeA}.wire(), netip.MustParseAddr(test.source), overUDP)
		if asked := w.clients(); len(asked) != 1 || asked[0].String() != test.client {
			t.Errorf("from %s the Answerer was asked for %v, want %s", test.source, asked, test.client)
		}
	}
}
