// Package heads refuses heads of requests that net/http reads leniently and
// without a trace: lines that end in a bare LF, folded lines, Content-Length
// twice, and Content-Length beside Transfer-Encoding. What stands before the
// gateway may read these otherwise, and see another request where this one ends
// (RFC 9112 sections 2.2, 5.2, 6.1 and 6.3). No client of today sends them.
//
// It looks at the bytes of HTTP/1.1 as they come from a connection. At the first
// one that is wrong it gives the server something that this refuses by itself,
// with 400 and a closed connection, and nothing more.
package heads

import (
	"bytes"
	"io"
	"net"
	"strconv"
)

// Listen puts the check before a listener of plain HTTP. Connections of HTTP/2
// with prior knowledge pass.
func Listen(l net.Listener) net.Listener { return &listener{l} }

type listener struct{ net.Listener }

// Accept accepts the next connection.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

// conn is a connection whose heads are checked. Only one Read goes on at a time,
// as net/http has it.
type conn struct {
	net.Conn
	scan scanner
	rest []byte // to be given to the server yet, before the end
	over bool   // a head was refused
}

// NetConn is the connection below.
func (c *conn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends what is sent, as a server does that hangs up on a client which
// still sends: closing at once would reset the connection under the answer.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// poison is refused in each place of a head: as version, as line and as value.
const poison = "\x00\r\n\r\n"

// Read reads what the server may see.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	if c.over {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p)
	good, ok := c.scan.next(p[:n])
	if ok {
		return n, err
	}
	c.over, c.rest = true, []byte(poison)
	if good == 0 {
		return c.Read(p)
	}
	return good, nil
}

// state is where in the stream of a connection a scanner is.
type state int

const (
	inRequestLine state = iota
	inFields
	inBody
	passing // nothing is looked at any more
)

// maxLine is how much of a line is kept: more than the fields that matter need.
const maxLine = 128

// scanner follows the framing of requests, as far as it can be trusted: behind a
// body with an encoding the gateway closes the connection, so that no head follows.
type scanner struct {
	state state
	line  []byte // the beginning of the line that is read
	size  int    // of all of it so far
	last  byte   // of it
	body  uint64 // bytes of a body that are still to come

	lengths int  // Content-Length fields of this head
	encoded bool // it has a Transfer-Encoding
}

// next looks at the next bytes. If it is false, those before good are well.
func (s *scanner) next(p []byte) (good int, ok bool) {
	for good < len(p) {
		switch s.state {
		case passing:
			return len(p), true
		case inBody:
			n := min(s.body, uint64(len(p)-good))
			good += int(n)
			if s.body -= n; s.body == 0 {
				s.state = inRequestLine
			}
		case inRequestLine, inFields:
			n, ok := s.read(p[good:])
			if good += n; !ok {
				return good, false
			}
		}
	}
	return good, true
}

// read takes what there is of a line.
func (s *scanner) read(p []byte) (taken int, ok bool) {
	if s.size == 0 && s.state == inFields && (p[0] == ' ' || p[0] == '\t') {
		return 0, false // it is folded
	}
	part, _, ends := bytes.Cut(p, []byte("\n"))
	if len(part) > 0 {
		s.line = append(s.line, part[:min(len(part), maxLine-len(s.line))]...)
		s.size += len(part)
		s.last = part[len(part)-1]
	}
	if !ends {
		return len(part), true
	}
	if s.size == 0 || s.last != '\r' {
		return len(part), false // a bare LF
	}
	ok = s.end(s.size - 1)
	s.line, s.size, s.last = s.line[:0], 0, 0
	return len(part) + 1, ok
}

// end is the end of a line of some size. It is false if the line can't stand where
// it does.
func (s *scanner) end(size int) bool {
	line := s.line[:min(size, len(s.line))]
	switch {
	case s.state == inRequestLine && size == 0: // blank ones are allowed before
	case s.state == inRequestLine && bytes.Equal(line, []byte("PRI * HTTP/2.0")):
		s.state = passing
	case s.state == inRequestLine:
		s.state, s.body, s.lengths, s.encoded = inFields, 0, 0, false
	case size == 0:
		s.headEnds()
	default:
		return s.field(line, size)
	}
	return true
}

// headEnds is the end of a head.
func (s *scanner) headEnds() {
	switch {
	case s.encoded:
		s.state = passing
	case s.body > 0:
		s.state = inBody
	default:
		s.state = inRequestLine
	}
}

// field notes a field that says how long the body is.
func (s *scanner) field(line []byte, size int) bool {
	name, value, _ := bytes.Cut(line, []byte(":"))
	// A space before the colon is refused by the server, whatever it is here.
	switch name = bytes.TrimRight(name, " \t"); {
	case bytes.EqualFold(name, []byte("Content-Length")):
		n, err := strconv.ParseUint(string(bytes.Trim(value, " \t")), 10, 63)
		if err != nil || size > maxLine {
			return false
		}
		s.body = n
		s.lengths++
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		s.encoded = true
	}
	return s.lengths < 2 && (s.lengths == 0 || !s.encoded)
}
