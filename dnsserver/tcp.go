package dnsserver

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	// tcpReadBuffer takes in several pipelined queries with one system call.
	tcpReadBuffer = 2048
	// tcpQuery is the longest query that is read over TCP, as over UDP: a
	// longer one is an attempt to use memory, and ends the connection.
	tcpQuery = udpQuery
	// idleShrink is the share of TCPIdle that is left when the table of
	// connections is full.
	idleShrink = 10
)

// connTable counts and finds the open TCP connections.
type connTable struct {
	mu       sync.Mutex
	stopping bool                 // no more: set once, under mu
	open     map[net.Conn]bool    // under mu
	source   map[netip.Prefix]int // open ones by source, under mu
}

// sourceOf returns what the per-source limit counts by: an IPv6 client has a
// /64 to choose addresses from.
func sourceOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no IP address: all such share one entry
	}
	return prefix
}

// add takes in a connection, or says why not.
func (t *connTable) add(conn net.Conn, source netip.Prefix, limits Limits) (refusal string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.stopping:
		return closedDone
	case len(t.open) >= limits.TCPConns:
		return closedTotal
	case t.source[source] >= limits.TCPConnsPerSource:
		return closedSource
	}
	if t.open == nil {
		t.open, t.source = make(map[net.Conn]bool), make(map[netip.Prefix]int)
	}
	t.open[conn] = true
	t.source[source]++
	return ""
}

func (t *connTable) remove(conn net.Conn, source netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, conn)
	if t.source[source]--; t.source[source] <= 0 {
		delete(t.source, source)
	}
}

func (t *connTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}

// stop refuses new connections and calls each for the open ones.
func (t *connTable) stop(each func(net.Conn)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopping = true
	for conn := range t.open {
		each(conn)
	}
}

// idleFor returns how long a connection may wait for its next query when open
// of limits.TCPConns are: all of TCPIdle up to one half, from there on in
// proportion less, down to a tenth.
func idleFor(open int, limits Limits) time.Duration {
	half := limits.TCPConns / 2
	if open <= half {
		return limits.TCPIdle
	}
	least := limits.TCPIdle / idleShrink
	left := time.Duration(max(limits.TCPConns-open, 0)) * (limits.TCPIdle - least) / time.Duration(limits.TCPConns-half)
	return least + left
}

// serveTCP accepts connections until the server stops, and returns when all
// of them have ended.
func (s *Server) serveTCP(ctx context.Context, listener net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if s.stopped() {
				return
			}
			s.metrics.sockets.WithLabelValues(overTCP.String()).Inc()
			if !pause(ctx, errorPause) {
				return
			}
			continue
		}
		client := addrPort(conn.RemoteAddr()).Addr()
		source := sourceOf(client)
		if refusal := s.conns.add(conn, source, s.limits); refusal != "" {
			s.metrics.closed.WithLabelValues(refusal).Inc()
			_ = conn.Close()
			continue
		}
		s.metrics.conns.Inc()
		conns.Go(func() {
			c := &tcpConn{server: s, conn: conn, client: client, slots: make(chan struct{}, s.limits.TCPPipeline)}
			reason := c.serve()
			s.conns.remove(conn, source)
			s.metrics.conns.Dec()
			s.metrics.closed.WithLabelValues(reason).Inc()
		})
	}
}

// tcpConn is one connection: a reader, a goroutine for each query that is being
// answered, and one of these at a time that sends the replies as they become
// ready, in any order (RFC 7766 section 6.2.1.1).
type tcpConn struct {
	server *Server
	conn   net.Conn
	client netip.Addr
	slots  chan struct{} // one held from reading a query to having sent its reply

	mu      sync.Mutex
	pending [][]byte // replies to send, under mu
	sending bool     // some goroutine sends them, under mu
	reason  string   // why the connection was ended from this side, under mu
}

// serve answers until the client is done, idle, too slow, or the server
// stops; queries that were read are answered even after the client has closed
// its half. It returns why the connection ended.
func (c *tcpConn) serve() string {
	var replies sync.WaitGroup
	reader := bufio.NewReaderSize(c.conn, tcpReadBuffer)
	reason := ""
	for reason == "" {
		var query []byte
		if query, reason = c.next(reader); reason != "" {
			break
		}
		// Both slots come back by themselves: this connection's after its
		// write deadline at the latest, the server's after computing.
		c.slots <- struct{}{}
		c.server.tcpSlots <- struct{}{}
		replies.Go(func() { c.answer(query) })
	}
	replies.Wait()
	_ = c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != "" {
		return c.reason
	}
	return reason
}

// next reads one query: the first octet within the idle time, the rest within
// the message time, however slowly they trickle in.
func (c *tcpConn) next(reader *bufio.Reader) (query []byte, reason string) {
	s := c.server
	if err := c.readUntil(time.Now().Add(idleFor(s.conns.count(), s.limits))); err != nil {
		return nil, closedDone
	}
	if _, err := reader.Peek(1); err != nil {
		return nil, c.why(err, closedIdle)
	}
	if err := c.readUntil(time.Now().Add(s.limits.TCPMessage)); err != nil {
		return nil, closedDone
	}
	var size [2]byte
	if _, err := io.ReadFull(reader, size[:]); err != nil {
		return nil, c.why(err, closedSlow)
	}
	length := int(binary.BigEndian.Uint16(size[:]))
	if length < headerSize {
		s.metrics.drop(overTCP, dropShort)
		return nil, closedDone
	}
	if length > tcpQuery {
		s.metrics.drop(overTCP, dropLong)
		return nil, closedDone
	}
	query = make([]byte, length)
	if _, err := io.ReadFull(reader, query); err != nil {
		return nil, c.why(err, closedSlow)
	}
	return query, ""
}

// readUntil sets the read deadline, but not over that of a stopping server.
func (c *tcpConn) readUntil(deadline time.Time) error {
	if err := c.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	if c.server.stopped() {
		return net.ErrClosed
	}
	return nil
}

// why names the end of a connection by a read error.
func (c *tcpConn) why(err error, late string) string {
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.server.stopped() {
		return late
	}
	return closedDone
}

// answer handles one query and sees to it that its reply is sent. It holds a
// slot of the server while it computes, but not while it sends: a client that
// does not read stops no other.
func (c *tcpConn) answer(query []byte) {
	s := c.server
	scratch, _ := s.scratch.Get().(*[]byte)
	start := time.Now()
	reply := s.handler.handle(*scratch, query, c.client, overTCP)
	s.metrics.took(overTCP, start)
	var frame []byte
	if reply != nil {
		// Length and message go out with one write (RFC 7766 section 8).
		frame = binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reply)), uint16(len(reply)))
		frame = append(frame, reply...)
	}
	s.scratch.Put(scratch)
	<-s.tcpSlots
	switch {
	case frame != nil:
		c.send(frame)
		return
	case !isResponse(query):
		// Dropped for want of data: over TCP the client would wait for it, so
		// it gets the connection closed and asks the next name server.
		c.end(closedUnready)
	}
	<-c.slots
}

// send sends the reply, or leaves it to the goroutine that sends another: of
// all that wait for a slow client, one has a goroutine.
func (c *tcpConn) send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = append(c.pending, frame)
	if c.sending {
		return
	}
	c.sending = true
	for len(c.pending) > 0 {
		frames := c.pending
		c.pending = nil
		for _, frame := range frames {
			if c.reason == "" {
				c.mu.Unlock()
				err := c.write(frame)
				c.mu.Lock()
				c.failedLocked(err)
			}
			<-c.slots
		}
	}
	c.sending = false
}

// write sends one frame.
func (c *tcpConn) write(frame []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.server.limits.TCPWrite)); err != nil {
		return err
	}
	_, err := c.conn.Write(frame)
	return err
}

// failedLocked ends the connection after a write error.
func (c *tcpConn) failedLocked(err error) {
	if err == nil || c.reason != "" {
		return
	}
	c.reason = closedDone
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.reason = closedWrite
	}
	_ = c.conn.Close() // wakes the reader
}

// end closes the connection before its time.
func (c *tcpConn) end(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason == "" {
		c.reason = reason
	}
	_ = c.conn.Close()
}

// isResponse reports whether a message of at least a header is one that is
// never answered.
func isResponse(wire []byte) bool { return binary.BigEndian.Uint16(wire[2:])&bitQR != 0 }
