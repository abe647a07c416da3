package dnsserver

import (
	"context"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
)

// The header's flags, as they stand in its second word.
const (
	qr = 1 << 15
	aa = 1 << 10
	tc = 1 << 9
	rd = 1 << 8
	ra = 1 << 7
	z  = 1 << 6
	ad = 1 << 5
	cd = 1 << 4
)

// exchange sends raw octets and returns the reply, over one transport.
func exchange(t testing.TB, s *Server, tcp bool, wire []byte) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reply, err := dnstest.Exchange(ctx, s.Addrs()[0], tcp, wire)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func unpack(t testing.TB, wire []byte) *dns.Msg {
	t.Helper()
	msg := new(dns.Msg)
	if err := msg.Unpack(wire); err != nil {
		t.Fatalf("malformed reply %x: %v", wire, err)
	}
	return msg
}

// optOptions returns the codes of the options in a reply's OPT record.
func optOptions(opt *dns.OPT) []uint16 {
	var codes []uint16
	for _, option := range opt.Option {
		codes = append(codes, option.Option())
	}
	return codes
}

// TestRFC8906 sends the queries of RFC 8906 section 8 and of the compliance
// checks it comes from, octet by octet, and checks every bit of the replies'
// headers and OPT records.
func TestRFC8906(t *testing.T) {
	unknown := option(100)
	nsid, cookie := option(3), option(10, 1, 2, 3, 4, 5, 6, 7, 8)
	expire, subnet := option(9), option(8, 0, 1, 0, 0)
	opt := func(version byte, flags uint16, options ...[]byte) []byte {
		return optRecord(4096, version, flags, options...)
	}
	const (
		soa     = dns.TypeSOA
		do      = 1 << 15
		zflag   = 1 << 6
		noOpt   = -1
		plain   = 0
		badVers = 1 << 24 // marks an extended rcode in want.opt
	)
	type want struct {
		bits    uint16 // the whole second word
		answers int
		opt     int // TTL field of the OPT record, noOpt for none
		options []uint16
	}
	ok := want{bits: qr | aa, answers: 1, opt: noOpt}
	edns := want{bits: qr | aa, answers: 1, opt: plain}
	version := want{bits: qr, opt: badVers}
	tests := []struct {
		name  string
		query raw
		want  want
	}{
		{"dns", raw{qtype: soa}, ok},
		{"aa", raw{qtype: soa, bits: aa}, ok},
		{"ad", raw{qtype: soa, bits: ad}, ok},
		{"cd", raw{qtype: soa, bits: cd}, want{bits: qr | aa | cd, answers: 1, opt: noOpt}},
		{"ra", raw{qtype: soa, bits: ra}, ok},
		{"rd", raw{qtype: soa, bits: rd}, want{bits: qr | aa | rd, answers: 1, opt: noOpt}},
		{"tc", raw{qtype: soa, bits: tc}, ok},
		{"zflag", raw{qtype: soa, bits: z}, ok},
		{"opcode", raw{bare: true, bits: 15 << 11}, want{bits: qr | 15<<11 | dns.RcodeNotImplemented, opt: noOpt}},
		{"opcodeflg", raw{bare: true, bits: 15<<11 | aa | tc | rd | ra | z | ad | cd}, want{bits: qr | 15<<11 | dns.RcodeNotImplemented, opt: noOpt}},
		{"type666", raw{qtype: 666}, want{bits: qr | aa, opt: noOpt}},
		{"type1000", raw{qtype: 1000}, want{bits: qr | aa, opt: noOpt}},
		{"edns", raw{qtype: soa, opt: opt(0, 0)}, edns},
		{"edns1", raw{qtype: soa, opt: opt(1, 0)}, version},
		{"edns@512", raw{qtype: soa, opt: optRecord(512, 0, 0)}, edns},
		{"ednsopt", raw{qtype: soa, opt: opt(0, 0, unknown)}, edns},
		{"edns1opt", raw{qtype: soa, opt: opt(1, 0, unknown)}, version},
		{"do", raw{qtype: soa, opt: opt(0, do)}, want{bits: qr | aa, answers: 1, opt: do}},
		{"docd", raw{qtype: soa, bits: cd, opt: opt(0, do)}, want{bits: qr | aa | cd, answers: 1, opt: do}},
		{"edns1do", raw{qtype: soa, opt: opt(1, do)}, want{bits: qr, opt: badVers | do}},
		{"ednsflags", raw{qtype: soa, opt: opt(0, zflag)}, edns},
		{"edns1flags", raw{qtype: soa, opt: opt(1, zflag)}, version},
		{"optlist", raw{qtype: soa, opt: opt(0, 0, nsid, cookie, expire, subnet)}, want{bits: qr | aa, answers: 1, opt: plain, options: []uint16{3, 8}}},
		{"ednsnsid", raw{qtype: soa, opt: opt(0, 0, nsid)}, want{bits: qr | aa, answers: 1, opt: plain, options: []uint16{3}}},
		{"ednscookie", raw{qtype: soa, opt: opt(0, 0, cookie)}, edns},
		{"ednsexpire", raw{qtype: soa, opt: opt(0, 0, expire)}, edns},
		{"ednssubnet", raw{qtype: soa, opt: opt(0, 0, subnet)}, want{bits: qr | aa, answers: 1, opt: plain, options: []uint16{8}}},
		// Options of another version are not looked at, identity included.
		{"edns1nsid", raw{qtype: soa, opt: opt(1, 0, nsid)}, version},
		{"edns1cookie", raw{qtype: soa, opt: opt(1, 0, cookie)}, version},
		{"edns1expire", raw{qtype: soa, opt: opt(1, 0, expire)}, version},
		{"edns1subnet", raw{qtype: soa, opt: opt(1, 0, subnet)}, version},
		{"edns255malformed", raw{qtype: soa, opt: opt(255, 0, []byte{0, 3, 0, 99})}, version},
		{"dnskey", raw{qtype: dns.TypeDNSKEY, opt: optRecord(512, 0, do)}, want{bits: qr | aa, opt: do}},
		{"bind11", raw{qtype: soa, bits: rd | ad, opt: opt(0, do, cookie)}, want{bits: qr | aa | rd, answers: 1, opt: do}},
		{"dig11", raw{qtype: soa, bits: rd | ad, opt: opt(0, 0, cookie)}, want{bits: qr | aa | rd, answers: 1, opt: plain}},
	}
	s, _ := serve(t, nil)
	for i, test := range tests {
		for _, tcp := range []bool{false, true} {
			name := test.name + "/udp"
			if tcp {
				name = test.name + "/tcp"
			}
			t.Run(name, func(t *testing.T) {
				test.query.id = uint16(0xA500 + i)
				sent := test.query.wire()
				got := exchange(t, s, tcp, sent)
				if id := binary.BigEndian.Uint16(got); id != test.query.id {
					t.Errorf("id %#x, want %#x", id, test.query.id)
				}
				if bits := binary.BigEndian.Uint16(got[2:]); bits != test.want.bits {
					t.Errorf("flags %#04x, want %#04x", bits, test.want.bits)
				}
				if test.query.bare {
					if len(got) != headerSize || binary.BigEndian.Uint64(got[4:]) != 0 {
						t.Errorf("reply %x, want a header only", got)
					}
					return
				}
				end := headerSize + len(raw{qtype: test.query.qtype}.wire()) - headerSize
				if !slices.Equal(got[headerSize:end], sent[headerSize:end]) {
					t.Errorf("question %x, want %x", got[headerSize:end], sent[headerSize:end])
				}
				msg := unpack(t, got)
				if len(msg.Answer) != test.want.answers {
					t.Errorf("answer %v, want %d records", msg.Answer, test.want.answers)
				}
				denied := test.want.answers == 0 && test.want.bits&aa != 0
				if denied != (len(msg.Ns) == 1 && msg.Ns[0].Header().Rrtype == soa) {
					t.Errorf("authority %v", msg.Ns)
				}
				opt := msg.IsEdns0()
				switch {
				case opt == nil && test.want.opt == noOpt:
				case opt == nil || test.want.opt == noOpt:
					t.Errorf("OPT %v, want %#x", opt, test.want.opt)
				default:
					if int(opt.Hdr.Ttl) != test.want.opt || opt.UDPSize() != 1232 {
						t.Errorf("OPT ttl %#x payload %d, want %#x and 1232", opt.Hdr.Ttl, opt.UDPSize(), test.want.opt)
					}
					if codes := optOptions(opt); !slices.Equal(codes, test.want.options) {
						t.Errorf("options %v, want %v", codes, test.want.options)
					}
				}
			})
		}
	}
}
