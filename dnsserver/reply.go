package dnsserver

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/miekg/dns"
)

// pack makes the reply message in buf (or in new memory, if it is too small),
// at most limit octets. What does not fit is left out by whole record sets
// (RFC 2181 section 9): first the additional ones, which nobody needs; leaving
// out more sets TC. Question and OPT always stay.
func (h *handler) pack(buf []byte, q *query, out outcome, limit int) (reply []byte, truncated bool, err error) {
	msg := dns.Msg{
		MsgHdr: dns.MsgHdr{
			Id:               q.id,
			Response:         true,
			Authoritative:    out.auth,
			RecursionDesired: q.bits&bitRD != 0,
			CheckingDisabled: q.bits&bitCD != 0, // RFC 4035 section 3.1.6
			Rcode:            out.rcode,
		},
		Compress: true,
		Answer:   out.answer,
		Ns:       out.ns,
	}
	if q.question != nil {
		msg.Question = []dns.Question{{Name: q.name, Qtype: q.qtype, Qclass: q.qclass}}
	}
	var opt []dns.RR
	if q.edns.present {
		opt = []dns.RR{q.edns.reply(h.payload, h.nsid, out.extras)}
	}
	extra := out.extra
	for {
		msg.Extra = opt
		if len(extra) > 0 {
			msg.Extra = slices.Concat(extra, opt)
		}
		reply, err = msg.PackBuffer(buf)
		if err != nil {
			return nil, false, fmt.Errorf("pack reply: %w", err)
		}
		if len(reply) <= limit {
			return reply, msg.Truncated, nil
		}
		switch {
		case len(extra) > 0:
			extra = shed(extra)
		case len(msg.Ns) > 0:
			msg.Ns, msg.Truncated = shed(msg.Ns), true
		case len(msg.Answer) > 0:
			msg.Answer, msg.Truncated = shed(msg.Answer), true
		default:
			return nil, false, fmt.Errorf("reply of %d octets without a record is over the limit of %d", len(reply), limit)
		}
	}
}

// shed returns the records without the last set: those at the end that share
// owner and type.
func shed(rrs []dns.RR) []dns.RR {
	last := rrs[len(rrs)-1].Header()
	end := len(rrs)
	for end > 0 {
		header := rrs[end-1].Header()
		if header.Rrtype != last.Rrtype || header.Name != last.Name {
			break
		}
		end--
	}
	return rrs[:end]
}

// headerOnly returns the reply to an opcode that is not served: the header,
// with the opcode and no flag of the query.
func headerOnly(buf, wire []byte, rcode int) []byte {
	var header [headerSize]byte
	copy(header[:2], wire)
	bits := binary.BigEndian.Uint16(wire[2:])
	binary.BigEndian.PutUint16(header[2:], bitQR|uint16(opcode(bits))<<11|uint16(rcode))
	return append(buf[:0], header[:]...)
}

// failure returns SERVFAIL made from nothing but what was parsed: header,
// question and an empty OPT. It is the reply after a panic, so it relies on
// no other code; for a message that is never answered it is nil.
func (q *query) failure(buf, wire []byte) []byte {
	if len(wire) < headerSize {
		return nil
	}
	bits := binary.BigEndian.Uint16(wire[2:])
	if bits&bitQR != 0 {
		return nil
	}
	reply := headerOnly(buf, wire, dns.RcodeServerFailure)
	if opcode(bits) != dns.OpcodeQuery {
		return reply
	}
	binary.BigEndian.PutUint16(reply[2:], bitQR|bits&(bitRD|bitCD)|dns.RcodeServerFailure)
	if q.question != nil {
		reply[5] = 1
		reply = append(reply, q.question...)
	}
	if q.edns.present {
		reply[11] = 1
		flags := byte(0)
		if q.edns.do {
			flags = doBit >> 8
		}
		// Root owner, type 41, payload 1232, version 0, flags, no options.
		reply = append(reply, 0, 0, byte(dns.TypeOPT), 1232>>8, 1232&0xFF, 0, 0, flags, 0, 0, 0)
	}
	return reply
}
