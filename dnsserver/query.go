package dnsserver

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/miekg/dns"
)

// Header layout (RFC 1035 section 4.1.1).
const (
	headerSize = 12
	bitQR      = 1 << 15
	bitRD      = 1 << 8
	bitCD      = 1 << 4
)

const (
	// maxName is the longest name on the wire (RFC 1035 section 2.3.4).
	maxName = 255
	// maxPointers bounds the pointers in one name: it has at most 127 labels,
	// and a pointer to nothing but a pointer serves only to cost time.
	maxPointers = 127
)

// errFormat is every way in which a message can be malformed: the reply says
// no more than FORMERR, so the error does not either.
var errFormat = errors.New("malformed message")

// query is a parsed message of opcode QUERY. Its slices are parts of the wire
// it was parsed from.
type query struct {
	id        uint16
	bits      uint16 // the header's second word
	question  []byte // the question section, octet for octet; nil if unreadable
	name      string // as asked, case kept, absolute; empty without a question
	canonical string // name in lower case
	qtype     uint16
	qclass    uint16
	edns      edns
}

// opcode returns the opcode of the header's second word.
func opcode(bits uint16) int { return int(bits>>11) & 0xF }

// parse reads wire, at least headerSize octets, into q. On an error q holds
// what was readable before it (question, OPT), which the FORMERR reply needs.
//
// It is stricter than the library's decoder, which accepts trailing octets,
// counts that lie and compressed question names: whatever is not a well-formed
// query with one question is refused, whatever is merely unknown is not.
func (q *query) parse(wire []byte) error {
	q.id = binary.BigEndian.Uint16(wire)
	q.bits = binary.BigEndian.Uint16(wire[2:])
	qd := binary.BigEndian.Uint16(wire[4:])
	an := binary.BigEndian.Uint16(wire[6:])
	ns := binary.BigEndian.Uint16(wire[8:])
	ar := binary.BigEndian.Uint16(wire[10:])

	off := headerSize
	var err error
	for range qd {
		start := off
		if off, err = skipQuestion(wire, off); err != nil {
			return err
		}
		if qd == 1 {
			q.readQuestion(wire[start:off])
		}
	}
	// The sections before the additional one are empty in a query, but for
	// the SOA that IXFR carries (RFC 1995 section 3).
	bad := qd != 1 || an != 0 || (ns != 0 && q.qtype != dns.TypeIXFR)
	for range uint32(an) + uint32(ns) {
		if off, err = q.record(wire, off, false); err != nil {
			return err
		}
	}
	for range ar {
		if off, err = q.record(wire, off, true); err != nil {
			return err
		}
	}
	if bad || off != len(wire) {
		return errFormat
	}
	return nil
}

// skipQuestion returns the offset after the question at off. Its name can't be
// compressed: nothing stands before it that a pointer could mean.
func skipQuestion(wire []byte, off int) (int, error) {
	end, err := skipName(wire, off, false)
	if err != nil || end+4 > len(wire) {
		return 0, errFormat
	}
	return end + 4, nil
}

// readQuestion takes in a question that skipQuestion accepted.
func (q *query) readQuestion(question []byte) {
	end := len(question) - 4
	name, _, err := dns.UnpackDomainName(question[:end], 0)
	if err != nil {
		return // not reached: skipQuestion checked the name
	}
	q.question = question
	q.name, q.canonical = name, strings.ToLower(name)
	q.qtype = binary.BigEndian.Uint16(question[end:])
	q.qclass = binary.BigEndian.Uint16(question[end+2:])
}

// record walks over the resource record at off and takes in an OPT record,
// which may stand once, in the additional section, and is owned by the root
// (RFC 6891 section 6.1.1).
func (q *query) record(wire []byte, off int, additional bool) (int, error) {
	const fixed = 10 // TYPE, CLASS, TTL and RDLENGTH
	end, err := skipName(wire, off, true)
	if err != nil || end+fixed > len(wire) {
		return 0, errFormat
	}
	rtype, class := binary.BigEndian.Uint16(wire[end:]), binary.BigEndian.Uint16(wire[end+2:])
	ttl, size := binary.BigEndian.Uint32(wire[end+4:]), int(binary.BigEndian.Uint16(wire[end+8:]))
	data := end + fixed
	if data+size > len(wire) {
		return 0, errFormat
	}
	if rtype != dns.TypeOPT {
		return data + size, nil
	}
	if !additional || q.edns.present {
		return 0, errFormat
	}
	if err := q.edns.parse(class, ttl, wire[data:data+size]); err != nil || wire[off] != 0 {
		return 0, errFormat
	}
	return data + size, nil
}

// skipName returns the offset after the name at off. Pointers are followed to
// see that the name is whole; each must point before the labels it ends
// (RFC 1035 section 4.1.4), so that following them ends.
func skipName(wire []byte, off int, compressed bool) (int, error) {
	end, length, begin, pointers := 0, 0, off, 0
	for {
		if off >= len(wire) {
			return 0, errFormat
		}
		size := int(wire[off])
		switch {
		case size == 0:
			if end == 0 {
				end = off + 1
			}
			return end, nil
		case size < 1<<6:
			length += size + 1
			if length+1 > maxName {
				return 0, errFormat
			}
			off += size + 1
		case size >= 0b11<<6:
			if !compressed || off+1 >= len(wire) {
				return 0, errFormat
			}
			pointer := int(binary.BigEndian.Uint16(wire[off:]) & (1<<14 - 1))
			pointers++
			if pointer < headerSize || pointer >= begin || pointers > maxPointers {
				return 0, errFormat
			}
			if end == 0 {
				end = off + 2
			}
			off, begin = pointer, pointer
		default:
			return 0, errFormat // label types 01 and 10 are not in use
		}
	}
}
