// Package dnstest asks DNS servers questions the way tests and drills need to:
// to one server, over a chosen transport, as a chosen client subnet, and with
// everything that came back at hand. It retries nothing and caches nothing.
package dnstest

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Query is one question to one server.
type Query struct {
	// Server is whom to ask.
	Server netip.AddrPort
	// TCP asks over TCP instead of UDP.
	TCP bool
	// Name is the name, made absolute if it lacks the final dot.
	Name string
	// Type is the record type's mnemonic: "A", "AAAA", "TXT". Empty is "A".
	Type string
	// Subnet is the client-subnet option to send, none if it is not valid.
	Subnet netip.Prefix
	// NSID asks for the server's identity.
	NSID bool
	// Payload is the UDP size to advertise. 0 is 1232 with Subnet or NSID
	// and sends no EDNS without.
	Payload uint16
}

// Reply is what came back.
type Reply struct {
	// Rcode is the response code's mnemonic: "NOERROR", "NXDOMAIN".
	Rcode string
	// AA and TC are the header's bits.
	AA, TC bool
	// Addrs are the addresses of the A and AAAA records of the answer.
	Addrs []netip.Addr
	// TXT are the strings of the TXT records of the answer, in zone-file
	// form (a backslash is doubled).
	TXT []string
	// TTL is the lowest of the answer's records, 0 without any.
	TTL time.Duration
	// Answer, Authority and Additional are the records in zone-file form, but
	// for OPT.
	Answer, Authority, Additional []string
	// EDNS says that the reply has an OPT record.
	EDNS bool
	// HasSubnet says that it has a client-subnet option, and Scope is that
	// option's SCOPE PREFIX-LENGTH.
	HasSubnet bool
	Scope     uint8
	// NSID is the server's identity, if it was given.
	NSID string
	// EDE are the extended error codes (RFC 8914).
	EDE []uint16
}

// Ask sends the query and waits for the reply until ctx ends.
func Ask(ctx context.Context, q Query) (Reply, error) {
	wire, err := q.pack()
	if err != nil {
		return Reply{}, err
	}
	raw, err := Exchange(ctx, q.Server, q.TCP, wire)
	if err != nil {
		return Reply{}, fmt.Errorf("ask %s for %s %s: %w", q.Server, q.Name, q.Type, err)
	}
	var msg dns.Msg
	if err := msg.Unpack(raw); err != nil {
		return Reply{}, fmt.Errorf("ask %s for %s %s: malformed reply: %w", q.Server, q.Name, q.Type, err)
	}
	return read(&msg), nil
}

// pack makes the query's message.
func (q Query) pack() ([]byte, error) {
	mnemonic := q.Type
	if mnemonic == "" {
		mnemonic = "A"
	}
	qtype, ok := dns.StringToType[mnemonic]
	if !ok {
		return nil, fmt.Errorf("unknown record type %q", q.Type)
	}
	var msg dns.Msg
	msg.SetQuestion(dns.Fqdn(q.Name), qtype)
	msg.RecursionDesired = false
	payload := q.Payload
	if payload == 0 && (q.NSID || q.Subnet.IsValid()) {
		payload = 1232
	}
	if payload != 0 {
		msg.SetEdns0(payload, false)
	}
	opt := msg.IsEdns0()
	if q.NSID {
		opt.Option = append(opt.Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
	}
	if q.Subnet.IsValid() {
		family := uint16(1)
		if q.Subnet.Addr().Is6() {
			family = 2
		}
		opt.Option = append(opt.Option, &dns.EDNS0_SUBNET{
			Code: dns.EDNS0SUBNET, Family: family,
			SourceNetmask: uint8(q.Subnet.Bits()), Address: q.Subnet.Masked().Addr().AsSlice(),
		})
	}
	wire, err := msg.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack query for %s: %w", q.Name, err)
	}
	return wire, nil
}

// read takes the reply apart.
func read(msg *dns.Msg) Reply {
	r := Reply{Rcode: dns.RcodeToString[msg.Rcode], AA: msg.Authoritative, TC: msg.Truncated}
	if msg.Rcode == dns.RcodeBadVers {
		r.Rcode = "BADVERS" // the library prints the TSIG meaning of 16
	}
	for i, rr := range msg.Answer {
		r.Answer = append(r.Answer, rr.String())
		if ttl := time.Duration(rr.Header().Ttl) * time.Second; i == 0 || ttl < r.TTL {
			r.TTL = ttl
		}
		switch rr := rr.(type) {
		case *dns.A:
			addr, _ := netip.AddrFromSlice(rr.A)
			r.Addrs = append(r.Addrs, addr.Unmap())
		case *dns.AAAA:
			addr, _ := netip.AddrFromSlice(rr.AAAA)
			r.Addrs = append(r.Addrs, addr)
		case *dns.TXT:
			r.TXT = append(r.TXT, rr.Txt...)
		}
	}
	for _, rr := range msg.Ns {
		r.Authority = append(r.Authority, rr.String())
	}
	for _, rr := range msg.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			r.Additional = append(r.Additional, rr.String())
		}
	}
	if opt := msg.IsEdns0(); opt != nil {
		r.EDNS = true
		r.options(opt)
	}
	return r
}

// options takes in the reply's EDNS options.
func (r *Reply) options(opt *dns.OPT) {
	for _, option := range opt.Option {
		switch option := option.(type) {
		case *dns.EDNS0_SUBNET:
			r.HasSubnet, r.Scope = true, option.SourceScope
		case *dns.EDNS0_NSID:
			id, _ := hex.DecodeString(option.Nsid)
			r.NSID = string(id)
		case *dns.EDNS0_EDE:
			r.EDE = append(r.EDE, option.InfoCode)
		}
	}
}

// Exchange sends raw octets as one message and returns the next message that
// the server sends, whatever it is, until ctx ends.
func Exchange(ctx context.Context, server netip.AddrPort, tcp bool, wire []byte) ([]byte, error) {
	network := "udp"
	if tcp {
		network = "tcp"
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", server, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if tcp {
		wire = append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
	}
	if _, err := conn.Write(wire); err != nil {
		return nil, fmt.Errorf("send to %s: %w", server, err)
	}
	if tcp {
		return ReadFrame(conn)
	}
	reply := make([]byte, dns.MaxMsgSize)
	n, err := conn.Read(reply)
	if err != nil {
		return nil, fmt.Errorf("receive from %s: %w", server, err)
	}
	return reply[:n], nil
}

// ReadFrame reads one message with its length from a TCP connection.
func ReadFrame(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, fmt.Errorf("read message length: %w", err)
	}
	message := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, message); err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	return message, nil
}
