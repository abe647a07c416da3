package dnsserver

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// FuzzHandle sends any octets to the handler. Whatever they are: no panic,
// silence for what is no query, and a reply that the library reads, of the
// same id, opcode and question, within the limit.
func FuzzHandle(f *testing.F) {
	subnet := option(dns.EDNS0SUBNET, 0, 1, 24, 0, 81, 2, 69)
	for _, seed := range []raw{
		{qtype: dns.TypeSOA},
		{name: "LLama.example.test.", qtype: dns.TypeA, opt: optRecord(4096, 0, 1<<15, option(3), subnet)},
		{name: "huge.example.test.", qtype: dns.TypeA, opt: optRecord(512, 0, 0, subnet)},
		{name: "x.wild.example.test.", qtype: dns.TypeTXT},
		{name: "_why.example.test.", qtype: dns.TypeANY},
		{name: `a\.b\\c\000.example.test.`, qtype: dns.TypeA},
		{name: "www.example.org.", qtype: dns.TypeA, opt: optRecord(0, 0, 0)},
		{qtype: dns.TypeNS, opt: optRecord(1232, 1, 0)},
		{bare: true, bits: 15 << 11},
		{qtype: dns.TypeA, counts: [4]uint16{1, 0, 0, 2}, opt: append(optRecord(1232, 0, 0), 0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0)},
	} {
		f.Add(seed.wire())
	}
	h := offline(f)
	buf := scratch()
	source := netip.MustParseAddr("2001:db8::9")
	f.Fuzz(func(t *testing.T, wire []byte) {
		sent := bytes.Clone(wire)
		for _, via := range []transport{overUDP, overTCP} {
			before := panicked(h)
			got := h.handle(buf, wire, source, via)
			if !bytes.Equal(wire, sent) {
				t.Fatal("the query was written to")
			}
			if panicked(h) != before && !meantToPanic(wire) {
				t.Fatal("panic")
			}
			if len(wire) < headerSize || wire[2]&0x80 != 0 {
				if got != nil {
					t.Fatalf("reply %x to no query", got)
				}
				continue
			}
			if got != nil {
				checkReply(t, h, wire, got, via)
			}
		}
	})
}

func panicked(h *handler) int {
	h.panics.mu.Lock()
	defer h.panics.mu.Unlock()
	return len(h.panics.seen)
}

// meantToPanic reports whether the query may be for a name at which the test's
// Answerer panics.
func meantToPanic(wire []byte) bool {
	lower := bytes.ToLower(wire)
	return bytes.Contains(lower, []byte("panic")) || bytes.Contains(lower, []byte("index"))
}

// checkReply checks what holds for every reply.
func checkReply(t *testing.T, h *handler, wire, got []byte, via transport) {
	t.Helper()
	var q query
	parsed := q.parse(wire)
	limit := dns.MaxMsgSize
	if via == overUDP {
		limit = q.edns.limit(h.payload)
	}
	if len(got) > limit {
		t.Fatalf("%d octets, limit %d", len(got), limit)
	}
	bits, sentBits := binary.BigEndian.Uint16(got[2:]), binary.BigEndian.Uint16(wire[2:])
	if !bytes.Equal(got[:2], wire[:2]) || bits&qr == 0 || opcode(bits) != opcode(sentBits) || bits&(ra|z|ad) != 0 {
		t.Fatalf("header %x for %x", got[:4], wire[:4])
	}
	if opcode(sentBits) != dns.OpcodeQuery {
		if len(got) != headerSize || bits&(aa|tc|rd|cd) != 0 {
			t.Fatalf("reply %x to another opcode", got)
		}
		return
	}
	if (bits^sentBits)&(rd|cd) != 0 {
		t.Fatalf("RD or CD of %#04x not as in %#04x", bits, sentBits)
	}
	var msg dns.Msg
	if err := msg.Unpack(got); err != nil {
		t.Fatalf("unreadable reply %x: %v", got, err)
	}
	if (parsed != nil) != (msg.Rcode == dns.RcodeFormatError) && q.qtype != dns.TypeNXNAME {
		t.Fatalf("parse says %v, reply %s", parsed, dns.RcodeToString[msg.Rcode])
	}
	if q.question != nil && (len(msg.Question) != 1 || !bytes.Equal(got[headerSize:headerSize+len(q.question)], q.question)) {
		t.Fatalf("question of %x not that of %x", got, wire)
	}
	opt := msg.IsEdns0()
	if (opt != nil) != q.edns.present {
		t.Fatalf("OPT in reply %t, in query %t", opt != nil, q.edns.present)
	}
	if subnet := subnetOf(t, got); subnet != nil && (!q.edns.hasECS || !bytes.Equal(subnet[:3], q.edns.ecs.raw[:3]) || !bytes.Equal(subnet[4:], q.edns.ecs.raw[4:])) {
		t.Fatalf("client subnet %x for %x", subnet, q.edns.ecs.raw)
	}
	if parsed == nil {
		// What the strict parser took, the library reads as the same name.
		name, end, err := dns.UnpackDomainName(wire, headerSize)
		if err != nil || name != q.name || end != headerSize+len(q.question)-4 {
			t.Fatalf("name %q, the library says %q, %v", q.name, name, err)
		}
	}
}

// FuzzECS reads any option data and checks it against RFC 7871's rules said
// another way: what is accepted packs to the same octets.
func FuzzECS(f *testing.F) {
	f.Add([]byte{0, 1, 24, 0, 81, 2, 69})
	f.Add([]byte{0, 2, 56, 0, 0x20, 1, 0x0d, 0xb8, 0, 0x0e, 0})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseECS(data)
		if err != nil {
			return
		}
		if !e.client.IsValid() {
			if len(data) != 4 || data[2] != 0 || data[3] != 0 {
				t.Fatalf("%x has no client", data)
			}
			return
		}
		family := uint16(1)
		if e.client.Addr().Is6() {
			family = 2
		}
		bits := e.client.Bits()
		again := append(binary.BigEndian.AppendUint16(nil, family), byte(bits), 0)
		again = append(again, e.client.Masked().Addr().AsSlice()[:(bits+7)/8]...)
		if !bytes.Equal(again, data) {
			t.Fatalf("%x read as %s, which is %x", data, e.client, again)
		}
	})
}
