package dnsserver

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
)

var somewhere = netip.MustParseAddr("192.0.2.200")

func scratch() []byte { return make([]byte, replyScratch) }

// names writes records as owner, TTL, type and data with single spaces.
func names(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, strings.Join(strings.Fields(strings.ReplaceAll(rr.String(), "\tIN\t", " ")), " "))
		}
	}
	return out
}

// TestRecords asks for every kind of name and type and compares whole
// messages.
func TestRecords(t *testing.T) {
	denial := []string{"example.test. 20 SOA ns1.example.test. dns\\.admin.example.test. 2026010101 14400 3600 604800 20"}
	tests := []struct {
		name, qtype string
		rcode       string
		answer      []string
		authority   []string
		additional  []string
		notAA       bool
		ede         []uint16
	}{
		{name: "@", qtype: "SOA", answer: []string{"example.test. 3600 SOA ns1.example.test. dns\\.admin.example.test. 2026010101 14400 3600 604800 20"}},
		{name: "@", qtype: "NS", answer: []string{"example.test. 3600 NS ns1.example.test.", "example.test. 3600 NS ns2.example.test."}, additional: []string{
			"ns1.example.test. 3600 A 192.0.2.1", "ns1.example.test. 3600 AAAA 2001:db8::1",
			"ns2.example.test. 3600 A 192.0.2.2", "ns2.example.test. 3600 AAAA 2001:db8::2"}},
		{name: "@", qtype: "A", answer: []string{"example.test. 20 A 198.51.100.1"}},
		{name: "@", qtype: "AAAA", answer: []string{"example.test. 20 AAAA 2001:db8:1::1"}},
		{name: "@", qtype: "MX", answer: []string{"example.test. 300 MX 10 mail.example.test."}},
		{name: "@", qtype: "CAA", answer: []string{`example.test. 3600 CAA 0 issue "ca.example"`}},
		{name: "@", qtype: "TXT", authority: denial},
		{name: "@", qtype: "DS", authority: denial},
		{name: "@", qtype: "ANY", answer: []string{"example.test. 20 A 198.51.100.1"}},
		{name: "ns1", qtype: "A", answer: []string{"ns1.example.test. 3600 A 192.0.2.1"}},
		{name: "ns1", qtype: "ANY", answer: []string{"ns1.example.test. 3600 A 192.0.2.1"}},
		{name: "ns1", qtype: "TXT", authority: denial},
		{name: "x.ns1", qtype: "A", rcode: "NXDOMAIN", authority: denial},
		{name: "llama", qtype: "A", answer: []string{"llama.example.test. 20 A 198.51.100.1"}},
		{name: "llama", qtype: "TXT", authority: denial},
		{name: "llama", qtype: "HTTPS", authority: denial},
		{name: "v4only", qtype: "AAAA", authority: denial},
		{name: "stale", qtype: "A", answer: []string{"stale.example.test. 5 A 198.51.100.1"}, ede: []uint16{3}},
		{name: "_why", qtype: "TXT", answer: []string{`_why.example.test. 2 TXT "cell=eu \"quoted\" back\\slash" "` + strings.Repeat("x", 255) + `" "` + strings.Repeat("x", 45) + `"`}},
		{name: "_why", qtype: "ANY", answer: []string{`_why.example.test. 2 TXT "cell=eu \"quoted\" back\\slash" "` + strings.Repeat("x", 255) + `" "` + strings.Repeat("x", 45) + `"`}},
		{name: "region", qtype: "A", authority: denial},
		{name: "region", qtype: "ANY", authority: denial},
		{name: "eu.region", qtype: "A", answer: []string{"eu.region.example.test. 20 A 198.51.100.2"}},
		{name: "ent", qtype: "A", authority: denial},
		{name: "down.ent", qtype: "TXT", authority: denial},
		{name: "deep.down.ent", qtype: "TXT", answer: []string{`deep.down.ent.example.test. 3600 TXT "here"`}},
		{name: "www", qtype: "A", answer: []string{"www.example.test. 60 CNAME cdn.example."}},
		{name: "www", qtype: "CNAME", answer: []string{"www.example.test. 60 CNAME cdn.example."}},
		{name: "www", qtype: "ANY", answer: []string{"www.example.test. 60 CNAME cdn.example."}},
		{name: "absent", qtype: "A", rcode: "NXDOMAIN", authority: denial},
		{name: "absent", qtype: "ANY", rcode: "NXDOMAIN", authority: denial},
		{name: "below.llama", qtype: "A", rcode: "NXDOMAIN", authority: denial},
		{name: "x.wild", qtype: "TXT", answer: []string{`x.wild.example.test. 3600 TXT "any"`}},
		{name: "x.y.wild", qtype: "TXT", answer: []string{`x.y.wild.example.test. 3600 TXT "any"`}},
		{name: "x.wild", qtype: "A", authority: denial},
		{name: "*.wild", qtype: "TXT", answer: []string{`*.wild.example.test. 3600 TXT "any"`}},
		{name: "wild", qtype: "TXT", authority: denial},
		{name: "sub.wild", qtype: "TXT", authority: denial},
		{name: "x.sub.wild", qtype: "TXT", rcode: "NXDOMAIN", authority: denial},
		{name: "foo.wild", qtype: "TXT", authority: denial},                      // the Answerer has it: no wildcard
		{name: "x.foo.wild", qtype: "TXT", rcode: "NXDOMAIN", authority: denial}, // its closest encloser has none
		{name: "unsure", qtype: "A", rcode: "SERVFAIL", notAA: true, ede: []uint16{14}},
		{name: "zero", qtype: "A", rcode: "SERVFAIL", notAA: true, ede: []uint16{14}},
		{name: "nothing", qtype: "A", rcode: "SERVFAIL", notAA: true},
		{name: "@", qtype: "AXFR", rcode: "REFUSED", notAA: true},
		{name: "@", qtype: "IXFR", rcode: "REFUSED", notAA: true},
		{name: "llama", qtype: "NXNAME", rcode: "FORMERR", notAA: true, ede: []uint16{30}},
		{name: "example.org.", qtype: "A", rcode: "REFUSED", notAA: true, ede: []uint16{20}},
		{name: "test.", qtype: "NS", rcode: "REFUSED", notAA: true, ede: []uint16{20}},
		{name: ".", qtype: "NS", rcode: "REFUSED", notAA: true, ede: []uint16{20}},
		{name: "badexample.test.", qtype: "A", rcode: "REFUSED", notAA: true, ede: []uint16{20}},
		{name: `a\.example.test.`, qtype: "A", rcode: "REFUSED", notAA: true, ede: []uint16{20}},
	}
	h := offline(t)
	for _, test := range tests {
		t.Run(test.name+"/"+test.qtype, func(t *testing.T) {
			name := (&zone{name: "example.test."}).absolute(test.name)
			query := raw{name: name, qtype: dns.StringToType[test.qtype], opt: optRecord(1232, 0, 0)}
			wire := h.handle(scratch(), query.wire(), somewhere, overTCP)
			msg := unpack(t, wire)
			rcode := test.rcode
			if rcode == "" {
				rcode = "NOERROR"
			}
			if got := dns.RcodeToString[msg.Rcode]; got != rcode {
				t.Errorf("rcode %s, want %s", got, rcode)
			}
			if msg.Authoritative == test.notAA {
				t.Errorf("AA %t", msg.Authoritative)
			}
			for _, section := range []struct {
				name      string
				got, want []string
			}{{"answer", names(msg.Answer), test.answer}, {"authority", names(msg.Ns), test.authority}, {"additional", names(msg.Extra), test.additional}} {
				if !slices.Equal(section.got, section.want) {
					t.Errorf("%s\n%q, want\n%q", section.name, section.got, section.want)
				}
			}
			var ede []uint16
			for _, o := range msg.IsEdns0().Option {
				if o, ok := o.(*dns.EDNS0_EDE); ok {
					ede = append(ede, o.InfoCode)
				}
			}
			if !slices.Equal(ede, test.ede) {
				t.Errorf("extended errors %v, want %v", ede, test.ede)
			}
			// Without EDNS, nothing of it comes back.
			query.opt = nil
			if msg := unpack(t, h.handle(scratch(), query.wire(), somewhere, overTCP)); msg.IsEdns0() != nil {
				t.Errorf("OPT without one in the query")
			}
		})
	}
}

// TestMalformed sends what is not a well-formed query. Silence is a reply of
// no octets.
func TestMalformed(t *testing.T) {
	opt := optRecord(1232, 0, 0)
	named := func(owner ...byte) []byte { return append(owner, opt[1:]...) }
	inAnswer := raw{qtype: dns.TypeA, opt: opt, counts: [4]uint16{1, 1, 0, 0}}
	pointer := raw{bare: true, counts: [4]uint16{1, 0, 0, 0}, tail: []byte{0xC0, 12, 0, 1, 0, 1}}
	soa := append([]byte{0xC0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22}, make([]byte, 22)...)
	const silence = -1
	tests := []struct {
		name  string
		wire  []byte
		rcode int
		ends  bool // the reply ends after the header: nothing to repeat
	}{
		{"empty", nil, silence, false},
		{"11 octets", make([]byte, 11), silence, false},
		{"a response", raw{bits: qr, qtype: dns.TypeA}.wire(), silence, false},
		{"a response of unknown opcode", raw{bits: qr | 15<<11, qtype: dns.TypeA}.wire(), silence, false},
		{"no question", raw{bare: true}.wire(), dns.RcodeFormatError, true},
		{"two questions", raw{qtype: dns.TypeA, counts: [4]uint16{2, 0, 0, 0}, tail: raw{qtype: dns.TypeA}.wire()[headerSize:]}.wire(), dns.RcodeFormatError, true},
		{"65535 questions", raw{qtype: dns.TypeA, counts: [4]uint16{65535, 0, 0, 0}}.wire(), dns.RcodeFormatError, true},
		{"a question that is not there", raw{bare: true, counts: [4]uint16{1, 0, 0, 0}}.wire(), dns.RcodeFormatError, true},
		{"a question cut short", raw{qtype: dns.TypeA}.wire()[:20], dns.RcodeFormatError, true},
		{"a name that points to itself", pointer.wire(), dns.RcodeFormatError, true},
		{"a label of type 01", raw{bare: true, counts: [4]uint16{1, 0, 0, 0}, tail: []byte{0x41, 'a', 0, 0, 1, 0, 1}}.wire(), dns.RcodeFormatError, true},
		{"a name of 256 octets", raw{bare: true, counts: [4]uint16{1, 0, 0, 0}, tail: append(bytes.Repeat([]byte{1, 'a'}, 128), 0, 0, 1, 0, 1)}.wire(), dns.RcodeFormatError, true},
		{"a trailing octet", raw{qtype: dns.TypeA, tail: []byte{0}}.wire(), dns.RcodeFormatError, false},
		{"a trailing octet after OPT", raw{qtype: dns.TypeA, opt: opt, tail: []byte{0}}.wire(), dns.RcodeFormatError, false},
		{"a record that is not there", raw{qtype: dns.TypeA, counts: [4]uint16{1, 0, 0, 1}}.wire(), dns.RcodeFormatError, false},
		{"two OPT records", raw{qtype: dns.TypeA, opt: slices.Concat(opt, opt), ar: 2}.wire(), dns.RcodeFormatError, false},
		{"OPT that is not the root's", raw{qtype: dns.TypeA, opt: named(1, 'a', 0)}.wire(), dns.RcodeFormatError, false},
		{"OPT that the zone owns", raw{qtype: dns.TypeA, opt: named(0xC0, 12)}.wire(), dns.RcodeFormatError, false},
		{"OPT in the answer section", inAnswer.wire(), dns.RcodeFormatError, false},
		{"an option cut short", raw{qtype: dns.TypeA, opt: optRecord(1232, 0, 0, []byte{0, 3, 0, 4, 1})}.wire(), dns.RcodeFormatError, false},
		{"half an option's header", raw{qtype: dns.TypeA, opt: optRecord(1232, 0, 0, []byte{0, 3, 0})}.wire(), dns.RcodeFormatError, false},
		{"RDLENGTH past the end", raw{qtype: dns.TypeA, opt: append(opt[:9:9], 0, 9)}.wire(), dns.RcodeFormatError, false},
		{"a record in the answer section", raw{qtype: dns.TypeA, opt: soa, counts: [4]uint16{1, 1, 0, 0}}.wire(), dns.RcodeFormatError, false},
		{"a record in the authority section", raw{qtype: dns.TypeA, opt: soa, counts: [4]uint16{1, 0, 1, 0}}.wire(), dns.RcodeFormatError, false},
		{"IXFR with its SOA", raw{qtype: dns.TypeIXFR, opt: soa, counts: [4]uint16{1, 0, 1, 0}}.wire(), dns.RcodeRefused, false},
		{"an unknown additional record", raw{qtype: dns.TypeA, opt: soa}.wire(), dns.RcodeSuccess, false},
		{"an additional name that points forward", raw{qtype: dns.TypeA, opt: append([]byte{0xC0, 40}, soa[2:]...)}.wire(), dns.RcodeFormatError, false},
		{"class CH", raw{qtype: dns.TypeTXT, class: dns.ClassCHAOS, name: "version.bind."}.wire(), dns.RcodeRefused, false},
		{"class CH in the zone", raw{qtype: dns.TypeA, class: dns.ClassCHAOS}.wire(), dns.RcodeRefused, false},
		{"class ANY", raw{qtype: dns.TypeA, class: dns.ClassANY}.wire(), dns.RcodeRefused, false},
		{"class NONE", raw{qtype: dns.TypeA, class: dns.ClassNONE}.wire(), dns.RcodeRefused, false},
		{"IQUERY", raw{bits: 1 << 11, qtype: dns.TypeA}.wire(), dns.RcodeNotImplemented, true},
		{"STATUS", raw{bits: 2<<11 | rd | cd, qtype: dns.TypeA}.wire(), dns.RcodeNotImplemented, true},
		{"NOTIFY", raw{bits: 4<<11 | aa, qtype: dns.TypeSOA}.wire(), dns.RcodeNotImplemented, true},
		{"UPDATE", raw{bits: 5 << 11, qtype: dns.TypeSOA}.wire(), dns.RcodeRefused, true},
		{"stateful operations", raw{bits: 6 << 11, bare: true}.wire(), dns.RcodeNotImplemented, true},
		{"a name that the Answerer is not ready for", raw{name: "unready.example.test.", qtype: dns.TypeA}.wire(), silence, false},
	}
	h := offline(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := h.handle(scratch(), test.wire, somewhere, overUDP)
			if test.rcode == silence {
				if got != nil {
					t.Fatalf("reply %x, want silence", got)
				}
				return
			}
			msg := unpack(t, got)
			if msg.Rcode != test.rcode || binary.BigEndian.Uint16(got[2:])&(qr|ra|z|ad|tc) != qr {
				t.Errorf("reply %s, want %s", msg.MsgHdr.String(), dns.RcodeToString[test.rcode])
			}
			if msg.Authoritative != (test.rcode == dns.RcodeSuccess) {
				t.Errorf("AA %t", msg.Authoritative)
			}
			if (len(msg.Question) == 0) != test.ends {
				t.Errorf("question %v", msg.Question)
			}
			if op := opcode(binary.BigEndian.Uint16(test.wire[2:])); op != msg.Opcode {
				t.Errorf("opcode %d, want %d", msg.Opcode, op)
			}
		})
	}
}

// TestTypes asks for all 65,536 types at a name that exists: those without
// data are NODATA with SOA, never an error.
func TestTypes(t *testing.T) {
	h, buf := offline(t), scratch()
	for qtype := range 1 << 16 {
		msg := unpack(t, h.handle(buf, raw{name: "llama.example.test.", qtype: uint16(qtype)}.wire(), somewhere, overUDP))
		rcode, answers := dns.RcodeSuccess, 0
		switch uint16(qtype) {
		case dns.TypeA, dns.TypeAAAA, dns.TypeANY:
			answers = 1
		case dns.TypeAXFR, dns.TypeIXFR:
			rcode = dns.RcodeRefused
		case dns.TypeNXNAME:
			rcode = dns.RcodeFormatError
		}
		denied := rcode == dns.RcodeSuccess && answers == 0
		if msg.Rcode != rcode || len(msg.Answer) != answers || (len(msg.Ns) == 1) != denied || msg.Authoritative != (rcode == dns.RcodeSuccess) {
			t.Fatalf("type %d: %s", qtype, msg)
		}
	}
}

// TestCaseIsKept checks that the question comes back bit for bit and that
// mixed case costs no octets.
func TestCaseIsKept(t *testing.T) {
	h := offline(t)
	for _, lower := range []string{"llama.example.test.", "mail.example.test.", "absent.example.test.", "x.wild.example.test.", "www.example.test.", `a\000b\.\\\200.example.test.`} {
		mixed := []byte(lower)
		for i := 0; i < len(mixed); i += 2 {
			mixed[i] = bytes.ToUpper(mixed[i : i+1])[0]
		}
		sent := raw{name: string(mixed), qtype: dns.TypeA}.wire()
		got := h.handle(scratch(), sent, somewhere, overUDP)
		if !bytes.Equal(got[headerSize:len(sent)], sent[headerSize:]) {
			t.Errorf("question %q, want %q", got[headerSize:len(sent)], sent[headerSize:])
		}
		same := h.handle(scratch(), raw{name: lower, qtype: dns.TypeA}.wire(), somewhere, overUDP)
		if len(same) != len(got) {
			t.Errorf("%s: %d octets in mixed case, %d in lower", lower, len(got), len(same))
		}
		msg, want := unpack(t, got), unpack(t, same)
		if msg.Rcode != want.Rcode || len(msg.Answer) != len(want.Answer) {
			t.Errorf("%s: another answer in mixed case:\n%s", lower, msg)
		}
	}
}

func TestTruncation(t *testing.T) {
	const none = 0
	tests := []struct {
		name    string
		qtype   uint16
		payload uint16 // none: no EDNS
		limit   int
		tc      bool
		records int
	}{
		{"llama", dns.TypeA, none, 512, false, 1},
		{"many", dns.TypeA, none, 512, true, 0},
		{"many", dns.TypeA, 1, 512, true, 0},
		{"many", dns.TypeA, 512, 512, true, 0},
		{"many", dns.TypeA, 900, 900, true, 0},
		{"many", dns.TypeA, 1232, 1232, false, 60},
		{"many", dns.TypeA, 4096, 1232, false, 60},
		{"many", dns.TypeA, 65535, 1232, false, 60},
		{"huge", dns.TypeA, 4096, 1232, true, 0},
		{"big", dns.TypeTXT, none, 512, true, 0},
		{"big", dns.TypeTXT, 1232, 1232, true, 0},
		{"big", dns.TypeANY, 4096, 1232, true, 0},
		{strings.Repeat("l.", 118) + "x", dns.TypeA, none, 512, false, 0},
	}
	h := offline(t)
	for _, test := range tests {
		query := raw{name: test.name + ".example.test.", qtype: test.qtype}
		if test.payload != none {
			query.opt = optRecord(test.payload, 0, 1<<15, option(3))
		}
		sent := query.wire()
		got := h.handle(scratch(), sent, somewhere, overUDP)
		msg := unpack(t, got)
		if len(got) > test.limit || msg.Truncated != test.tc || len(msg.Answer) != test.records {
			t.Errorf("%.20s payload %d: %d octets, TC %t, %d records", test.name, test.payload, len(got), msg.Truncated, len(msg.Answer))
		}
		opt := msg.IsEdns0()
		if (opt != nil) != (test.payload != none) || len(msg.Question) != 1 || !msg.Authoritative {
			t.Errorf("%.20s payload %d: %s", test.name, test.payload, msg)
		}
		if opt != nil && (!opt.Do() || len(opt.Option) != 1) {
			t.Errorf("%.20s payload %d: OPT lost its contents: %s", test.name, test.payload, opt)
		}
		whole := unpack(t, h.handle(scratch(), sent, somewhere, overTCP))
		if whole.Truncated || whole.Rcode != msg.Rcode || (test.tc && len(whole.Answer) == 0) {
			t.Errorf("%.20s over TCP: %s", test.name, whole)
		}
	}
}

// TestGlueIsLeftOutFirst: addresses of name servers are no reason to ask
// again over TCP, and a set of them is there whole or not at all.
func TestGlueIsLeftOutFirst(t *testing.T) {
	opts := testOptions()
	opts.Zone.NS[0].Addrs = manyAddrs(30)
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	msg := unpack(t, s.handler.handle(scratch(), raw{qtype: dns.TypeNS}.wire(), somewhere, overUDP))
	if msg.Truncated || len(msg.Answer) != 2 || (len(msg.Extra) != 0 && len(msg.Extra) != 30) {
		t.Errorf("TC %t, %d answers, %d additional", msg.Truncated, len(msg.Answer), len(msg.Extra))
	}
}

// TestAmplification: over UDP and unsigned, a reply is at most 2.5 times the
// query, for every type of every kind of small name.
func TestAmplification(t *testing.T) {
	h, buf := offline(t), scratch()
	for _, name := range []string{"", "llama.", "absent.", "region.", "mail.", "www.", "ns1."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeHTTPS, dns.TypeANY, dns.TypeDNSKEY, dns.TypeMX, dns.TypeSOA} {
			sent := raw{name: name + "example.test.", qtype: qtype, opt: optRecord(4096, 0, 1<<15)}.wire()
			got := h.handle(buf, sent, somewhere, overUDP)
			if float64(len(got)) > 2.5*float64(len(sent)) {
				t.Errorf("%s%s: %d octets for %d", name, dns.Type(qtype), len(got), len(sent))
			}
		}
	}
}

func TestNSID(t *testing.T) {
	_, addr := serve(t, nil)
	if got := ask(t, dnstest.Query{Server: addr, Name: "llama.example.test", NSID: true}); got.NSID != "director-1" {
		t.Errorf("identity %q", got.NSID)
	}
	if got := ask(t, dnstest.Query{Server: addr, Name: "llama.example.test", Payload: 1232}); got.NSID != "" || !got.EDNS {
		t.Errorf("identity without being asked: %+v", got)
	}
	_, addr = serve(t, func(o *Options) { o.NSID = "" })
	msg := unpack(t, exchangeAt(t, addr, raw{qtype: dns.TypeSOA, opt: optRecord(1232, 0, 0, option(3))}.wire()))
	if codes := optOptions(msg.IsEdns0()); len(codes) != 0 {
		t.Errorf("options %v from a server without identity", codes)
	}
}

func exchangeAt(t testing.TB, addr netip.AddrPort, wire []byte) []byte {
	t.Helper()
	reply, err := dnstest.Exchange(t.Context(), addr, false, wire)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// TestPanic: one query that panics gets SERVFAIL, is counted, and is logged
// once per place without what it held.
func TestPanic(t *testing.T) {
	var logged bytes.Buffer
	opts := testOptions()
	opts.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, name := range []string{"Panic", "index"} {
			query := raw{id: 77, bits: rd | cd | ad, name: name + ".example.test.", qtype: dns.TypeA, opt: optRecord(1232, 0, 1<<15, option(3))}
			for _, via := range []transport{overUDP, overTCP} {
				got := s.handler.handle(scratch(), query.wire(), somewhere, via)
				msg := unpack(t, got)
				if msg.Id != 77 || msg.Rcode != dns.RcodeServerFailure || msg.Authoritative || !msg.RecursionDesired || !msg.CheckingDisabled || msg.AuthenticatedData {
					t.Errorf("reply %s", msg)
				}
				if len(msg.Question) != 1 || msg.Question[0].Name != name+".example.test." || msg.IsEdns0() == nil || !msg.IsEdns0().Do() {
					t.Errorf("reply %s", msg)
				}
			}
		}
	}
	if n := testutil.ToFloat64(s.metrics.panics); n != 12 {
		t.Errorf("%v panics counted, want 12", n)
	}
	lines := strings.Count(logged.String(), "panicked")
	if lines != 2 || strings.Contains(logged.String(), "secret") || !strings.Contains(logged.String(), "index out of range") || !strings.Contains(logged.String(), "Lookup:") {
		t.Errorf("logged %d times:\n%s", lines, logged.String())
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	_, addr := serve(t, func(o *Options) { o.Registry = registry })
	ask(t, dnstest.Query{Server: addr, Name: "llama.example.test"})
	ask(t, dnstest.Query{Server: addr, Name: "huge.example.test", Payload: 1232})
	ask(t, dnstest.Query{Server: addr, TCP: true, Name: "absent.example.test", Type: "TLSA"})
	exchangeAt(t, addr, raw{qtype: dns.TypeSOA, opt: optRecord(1232, 7, 0)}.wire())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "rhumb_dns_") {
			t.Errorf("metric %s is not rhumb_dns_*", family.GetName())
		}
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		`rhumb_dns_queries_total{qtype="A",rcode="NOERROR",transport="udp"} 2`,
		`rhumb_dns_queries_total{qtype="other",rcode="NXDOMAIN",transport="tcp"} 1`,
		`rhumb_dns_queries_total{qtype="SOA",rcode="BADVERS",transport="udp"} 1`,
		`rhumb_dns_truncated_total{transport="udp"} 1`,
		`rhumb_dns_query_duration_seconds_count{transport="tcp"} 1`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("metrics lack %s:\n%s", want, text.String())
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
}

func TestSeconds(t *testing.T) {
	for in, want := range map[time.Duration]uint32{
		-time.Second: 0, 0: 0, 1: 1, time.Second: 1, 1500 * time.Millisecond: 2, 20 * time.Second: 20,
		100 * 365 * 24 * time.Hour: 1<<31 - 1,
	} {
		if got := seconds(in); got != want {
			t.Errorf("seconds(%v) = %d, want %d", in, got, want)
		}
	}
}
