package dnsserver

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/miekg/dns"
)

const (
	// minPayload is the size of a UDP message without EDNS, and what a
	// smaller advertised size is read as (RFC 6891 section 6.2.5).
	minPayload = dns.MinMsgSize
	// doBit is the only EDNS flag that is copied into a reply: the others are
	// zero there (RFC 6891 section 6.1.4).
	doBit = 1 << 15
)

// edns is what a query's OPT record says.
type edns struct {
	present bool
	version uint8
	do      bool
	payload uint16 // as advertised, not yet raised to minPayload
	nsid    bool
	hasECS  bool
	ecs     ecs
}

// parse reads an OPT record of version 0: class and ttl are its header
// fields, data its RDATA. Options of a later version are not looked at, since
// their meaning is unknown (the reply is BADVERS).
func (e *edns) parse(class uint16, ttl uint32, data []byte) error {
	e.present = true
	e.version = uint8(ttl >> 16)
	e.do = ttl&doBit != 0
	e.payload = class
	if e.version != 0 {
		return nil
	}
	for len(data) > 0 {
		if len(data) < 4 {
			return errFormat
		}
		code, size := binary.BigEndian.Uint16(data), int(binary.BigEndian.Uint16(data[2:]))
		if len(data) < 4+size {
			return errFormat
		}
		if err := e.option(code, data[4:4+size]); err != nil {
			return err
		}
		data = data[4+size:]
	}
	return nil
}

// option notes one option of the query. Options that the server has no use
// for are ignored (RFC 6891 section 6.1.2), cookies among them. A second
// client subnet is refused: there is no telling which of them decides.
func (e *edns) option(code uint16, data []byte) (err error) {
	switch code {
	case dns.EDNS0NSID:
		e.nsid = true
	case dns.EDNS0SUBNET:
		if e.hasECS {
			return errFormat
		}
		e.hasECS = true
		e.ecs, err = parseECS(data)
	}
	return err
}

// limit returns the largest UDP reply in octets for this query: what the
// client takes, and no more than the server sends.
func (e *edns) limit(most uint16) int {
	if !e.present {
		return minPayload
	}
	return int(min(max(e.payload, minPayload), most))
}

// reply returns the OPT record that answers the query's: version 0, the DO
// bit copied, and nothing that was not asked for but an extended error.
func (e *edns) reply(payload uint16, nsid string, extra extras) *dns.OPT {
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT, Class: payload}}
	if e.do {
		opt.SetDo()
	}
	if e.nsid && nsid != "" {
		opt.Option = append(opt.Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: hex.EncodeToString([]byte(nsid))})
	}
	if e.hasECS && extra.ecs {
		opt.Option = append(opt.Option, e.ecs.option(extra.scope))
	}
	if extra.hasEDE {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: extra.ede})
	}
	return opt
}

// extras is what a reply's OPT record says beside the fixed part.
type extras struct {
	ecs    bool  // copy the query's client subnet, if it has one
	scope  uint8 // its SCOPE PREFIX-LENGTH
	hasEDE bool
	ede    uint16 // extended error code (RFC 8914)
}
