package dnsserver

import (
	"testing"

	"github.com/miekg/dns"
)

func BenchmarkHandle(b *testing.B) {
	subnet := option(dns.EDNS0SUBNET, 0, 1, 24, 0, 81, 2, 69)
	h, buf := offline(b), scratch()
	for _, bench := range []struct {
		name  string
		query raw
	}{
		{"A", raw{name: "llama.example.test.", qtype: dns.TypeA}},
		{"A with ECS", raw{name: "llama.example.test.", qtype: dns.TypeA, opt: optRecord(1232, 0, 0, subnet)}},
		{"NXDOMAIN", raw{name: "absent.example.test.", qtype: dns.TypeA, opt: optRecord(1232, 0, 0)}},
		{"foreign", raw{name: "www.example.org.", qtype: dns.TypeA}},
		{"static", raw{name: "mail.example.test.", qtype: dns.TypeA}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			wire := bench.query.wire()
			b.ReportAllocs()
			for b.Loop() {
				h.handle(buf, wire, somewhere, overUDP)
			}
		})
	}
}
