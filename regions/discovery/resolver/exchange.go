package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// udpSize is what an answer by UDP may have: what fits a packet on every path
// (DNS flag day 2020). Larger ones come by TCP.
const udpSize = 1232

// maxStrays bounds the packets that are not the answer: a few may be late ones,
// more are somebody's guesses.
const maxStrays = 16

// exchange asks one server one question, by UDP, and by TCP where the answer does
// not fit. A server that does not know EDNS is asked without (RFC 6891, section
// 6.2.2).
func (r *Resolver) exchange(ctx context.Context, c *config, server, name string, t Type) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	network := "udp"
	if c.tcp {
		network = "tcp"
	}
	q := question(name, t)
	reply, err := r.once(ctx, network, server, q)
	if err == nil && (reply.Rcode == dns.RcodeFormatError || reply.Rcode == dns.RcodeNotImplemented) {
		q = question(name, t)
		q.Extra = nil
		reply, err = r.once(ctx, network, server, q)
	}
	if err == nil && reply.Truncated && network == "udp" {
		reply, err = r.once(ctx, "tcp", server, q)
	}
	switch {
	case err != nil:
		return nil, err
	case reply.Truncated:
		return nil, errors.New("the answer is cut off")
	}
	return reply, nil
}

// question is a question with a random ID, from a source port that is the system's
// choice: together what a forger has to guess.
func question(name string, t Type) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(name, uint16(t))
	q.SetEdns0(udpSize, false)
	return q
}

// once asks by one connection of its own. A connected socket takes packets from
// the server's address only.
func (r *Resolver) once(ctx context.Context, network, server string, q *dns.Msg) (*dns.Msg, error) {
	conn, err := r.opts.Dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	// Neither a time-out nor a stop waits for a server that says nothing.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	reply, err := talk(conn, network == "tcp", q)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("no answer by %s: %w", network, context.Cause(ctx))
	}
	return reply, err
}

// talk sends the question and reads up to its answer. On a stream there is nothing
// else to read; packets that do not fit the question are passed over, since anybody
// can send them who guesses the port.
func talk(conn net.Conn, stream bool, q *dns.Msg) (*dns.Msg, error) {
	out, err := q.Pack()
	if err != nil {
		return nil, err
	}
	if stream {
		out = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
	}
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	for range maxStrays {
		packet, err := receive(conn, stream)
		if err != nil {
			return nil, err
		}
		reply := new(dns.Msg)
		if err := reply.Unpack(packet); err == nil && answers(reply, q) {
			return reply, nil
		}
		if stream {
			break
		}
	}
	return nil, errors.New("what came was not the answer")
}

func receive(conn net.Conn, stream bool) ([]byte, error) {
	if !stream {
		packet := make([]byte, 2*udpSize) // some send more than they were asked to
		n, err := conn.Read(packet)
		return packet[:n], err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	packet := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, packet)
	return packet, err
}

// answers reports whether a message is the answer to a question: it has the ID and
// repeats the question (RFC 5452, section 9.1). A server that can't read the
// question may leave it out.
func answers(reply, q *dns.Msg) bool {
	if reply.Id != q.Id || !reply.Response || reply.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(reply.Question) == 0 {
		return reply.Rcode == dns.RcodeFormatError || reply.Rcode == dns.RcodeNotImplemented
	}
	got, want := reply.Question[0], q.Question[0]
	return len(reply.Question) == 1 && got.Qtype == want.Qtype && got.Qclass == want.Qclass && strings.EqualFold(got.Name, want.Name)
}
