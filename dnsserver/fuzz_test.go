package dnsserver

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

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

// said is a connection whose client sends fixed octets, a few at a time, closes
// its half, and keeps what it is sent.
type said struct {
	net.Conn
	in    io.Reader
	piece int

	mu     sync.Mutex
	out    []byte // under mu
	closed bool   // under mu
}

func (c *said) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	return c.in.Read(p[:min(len(p), c.piece)])
}

func (c *said) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

func (c *said) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

func (c *said) SetReadDeadline(time.Time) error  { return nil }
func (c *said) SetWriteDeadline(time.Time) error { return nil }

// FuzzStream sends any octets to a TCP connection, in pieces of any size. Each
// query that is whole gets the reply that the handler gives to it, and no other,
// until one that is none ends the connection; nothing is left behind.
func FuzzStream(f *testing.F) {
	soa, big := raw{id: 1, qtype: dns.TypeSOA}.wire(), raw{id: 2, name: "big.example.test.", qtype: dns.TypeTXT}.wire()
	response := bytes.Clone(soa)
	response[2] |= 0x80
	for _, seed := range [][]byte{
		frame(soa), append(frame(soa), frame(big)...), append(frame(response), frame(big)...), frame(soa)[:7],
		append(frame(raw{id: 3, name: "unready.example.test.", qtype: dns.TypeA}.wire()), frame(soa)...),
		append(frame(soa[:11]), frame(soa)...), append(frame(make([]byte, 9000)), frame(soa)...), bytes.Repeat(frame(soa), 40), {0, 0}, {255, 255},
		frame(raw{bare: true, bits: 15 << 11}.wire()),
	} {
		f.Add(seed, byte(len(seed)))
	}
	s, err := New(testOptions())
	if err != nil {
		f.Fatal(err)
	}
	source, buf := netip.MustParseAddr("2001:db8::9"), scratch()
	f.Fuzz(func(t *testing.T, stream []byte, piece byte) {
		queries := framesOf(stream, tcpQuery)
		want, quiet := map[string]int{}, false
		for _, q := range queries {
			reply := s.handler.handle(buf, q, source, overTCP)
			if reply != nil {
				want[string(frame(reply))]++
			}
			quiet = quiet || reply == nil && !isResponse(q)
		}
		conn := &said{in: bytes.NewReader(stream), piece: 1 + int(piece)}
		c := &tcpConn{server: s, conn: conn, client: source, slots: make(chan struct{}, s.limits.TCPPipeline)}
		reason := c.serve()
		if len(c.slots) != 0 || len(s.tcpSlots) != 0 || len(c.pending) != 0 || c.sending || !conn.closed {
			t.Fatalf("%d and %d slots, %d replies are left", len(c.slots), len(s.tcpSlots), len(c.pending))
		}
		for _, reply := range framesOf(conn.out, dns.MaxMsgSize) {
			key := string(frame(reply))
			if want[key]--; want[key] < 0 {
				t.Fatalf("reply %x to nothing in %x", reply, stream)
			}
			if want[key] == 0 {
				delete(want, key)
			}
		}
		if quiet != (reason == closedUnready) || !quiet && (len(want) > 0 || reason != closedDone) {
			t.Fatalf("%d of %d queries are not answered, then %q", len(want), len(queries), reason)
		}
	})
}

// framesOf cuts a stream into messages as RFC 1035 section 4.2.2 says, up to one
// that is not whole, too short for a header or too long.
func framesOf(stream []byte, longest int) (messages [][]byte) {
	for len(stream) >= 2 {
		n := int(binary.BigEndian.Uint16(stream))
		if n < headerSize || n > longest || len(stream) < 2+n {
			break
		}
		messages, stream = append(messages, stream[2:2+n]), stream[2+n:]
	}
	return messages
}
