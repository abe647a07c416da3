package socket

import (
	"net"
	"sync"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// Conn knows how much of which request's answer the kernel took, so that the
// ledger can tell exactly which answers a client may have seen a byte of. Where
// it carries many requests at once (Multiplex), its frontend tells instead.
type Conn struct {
	net.Conn
	ln *Listener

	mu     sync.Mutex
	jobs   map[*core.Job]struct{} // under way or not yet settled
	many   bool                   // multiplexed
	broken bool                   // a write failed: answers under way are not whole
	dead   bool                   // cut by the pod itself
	gone   bool                   // forgotten by the listener
}

// Multiplex says that the connection carries many requests at once: what is
// written belongs to none in particular, and closing it ends it.
func (c *Conn) Multiplex() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.many = true
}

// Carry puts a job on the connection.
func (c *Conn) Carry(j *core.Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs[j] = struct{}{}
}

// Write hands the bytes to the kernel and notes them.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.dead {
		c.broken = true
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	c.mu.Unlock()
	n, err := c.Conn.Write(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.broken = true
	}
	if !c.many {
		for j := range c.jobs {
			j.Wrote(n)
		}
	}
	return n, err
}

// Close closes the connection; a multiplexed one is then over.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	many := c.many
	c.mu.Unlock()
	if many {
		c.forget()
	}
	return err
}

// CloseWrite lets net/http end an answer before it closes a connection whose
// request it has not read to the end.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// silence lets no further write begin. Whoever closes the connection then does so
// with a reset, if asked for.
func (c *Conn) silence(reset bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok && reset {
		_ = l.SetLinger(0) // fails only on a closed socket
	}
}

// Cut closes the connection from the pod's side, with a reset if asked for.
func (c *Conn) Cut(reset bool) {
	c.silence(reset)
	_ = c.Close() // it is cut either way
}

// Streams tells whether the connection is in the middle of a stream that has
// begun.
func (c *Conn) Streams() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for j := range c.jobs {
		if j.Streams() {
			return true
		}
	}
	return false
}

// Settle hands one job that has ended to the ledger.
func (c *Conn) Settle(j *core.Job) {
	c.mu.Lock()
	delete(c.jobs, j)
	whole, cut := !c.broken && !c.dead, c.dead
	c.mu.Unlock()
	j.Settle(whole, cut)
}

// settle hands the job that has just ended, if any, to the ledger.
func (c *Conn) settle() {
	c.mu.Lock()
	var over []*core.Job
	for j := range c.jobs {
		over = append(over, j)
	}
	clear(c.jobs)
	whole, cut := !c.broken, c.dead
	c.mu.Unlock()
	for _, j := range over {
		j.Settle(whole, cut)
	}
}

// forget takes a closed connection off the list.
func (c *Conn) forget() {
	c.ln.mu.Lock()
	defer c.ln.mu.Unlock()
	if c.gone {
		return
	}
	c.gone = true
	delete(c.ln.conns, c)
	c.ln.checkIdleLocked()
	c.ln.wg.Done()
}
