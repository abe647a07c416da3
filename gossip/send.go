package gossip

import (
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
)

// The first byte of our messages within memberlist's.
const (
	typeEnvelope byte = iota + 1
	typeCertRequest
	typeCertResponse
	typeHeld // a record that came from elsewhere, with its age
	typeWant
)

const (
	// packetSize is the most bytes of a packet: 1,200 pass every path of the
	// internet (1,280 is IPv6's least MTU) with room for tunnels.
	packetSize = 1200
	// maxPending is the most messages that wait for the stream to one member. Of
	// the same record only the newest waits.
	maxPending = 64
)

// message puts the type before the content.
func message(kind byte, content []byte) []byte {
	return append([]byte{kind}, content...)
}

// packetRoom is how many bytes of one of our messages fit a packet, after
// memberlist's type byte, checksum (5), label (2 and its length) and encryption
// (version, nonce and tag: 29).
func packetRoom(label string, encrypted bool) int {
	room := packetSize - 1 - 5
	if label != "" {
		room -= 2 + len(label)
	}
	if encrypted {
		room -= 29
	}
	return room
}

// send gives a record to every member of the audience.
func (n *Node) send(k slot, raw []byte, to Audience) {
	for _, node := range n.members.audience(n.opts.Name, to) {
		n.deliver(node, k, raw)
	}
}

// deliver gives a record to one member.
func (n *Node) deliver(to *memberlist.Node, k slot, raw []byte) {
	way := n.post(to, k.lane(), message(typeEnvelope, raw))
	if way == "stream" && n.large.CompareAndSwap(false, true) {
		n.log.Info("a record is too large for a packet and goes over streams", "kind", kindName(k.kind), "key", k.key, "bytes", len(raw))
	}
	n.metrics.sent.WithLabelValues(kindName(k.kind), way).Inc()
}

// lane is the key under which only the newest of a slot waits for a stream.
func (k slot) lane() string {
	return string(k.role) + " " + k.kind.String() + " " + k.origin + " " + k.key
}

// post sends one of our messages to a member: in a packet, or over a stream if it
// is too large for one, where it replaces a waiting one of the same key. It does
// not block, and says which way the message went.
func (n *Node) post(to *memberlist.Node, key string, m []byte) (way string) {
	if len(m) > packetRoom(n.opts.Label, len(n.opts.Keys) > 0) {
		n.lanes.put(to, key, m)
		return "stream"
	}
	if ml := n.ml.Load(); ml != nil {
		if err := ml.SendBestEffort(to, m); err != nil {
			n.metrics.dropped.WithLabelValues("packet").Inc()
			n.log.Debug("sending a packet", "to", to.Name, "err", err)
		}
	}
	return "packet"
}

// askFor asks the origin of a record for the certificate it signs with, or who may
// have passed it on: the origin may be out of reach.
func (i *intake) askFor(id fleet.KeyID, origin string, by way) {
	node := i.members.find(origin)
	if node != nil && by == passed {
		node = anyOf(i.members.alive(i.opts.Name))
	}
	if node == nil || !again(i.lastAsked, origin, i.now()) {
		return
	}
	b, err := wire.EncodeCertRequest(&wire.CertRequest{KeyId: id[:], From: i.opts.Name})
	if err != nil {
		i.log.Error("asking for a certificate", "key", id, "err", err)
		return
	}
	i.lanes.put(node, "ask "+id.String(), message(typeCertRequest, b))
}

// certRequest answers who asks for a certificate that is known here.
func (i *intake) certRequest(content []byte) {
	r, err := wire.DecodeCertRequest(content)
	if err != nil {
		i.refuse(wire.Kind_CERT, "", reasonMalformed, err)
		return
	}
	id := fleet.KeyID(r.GetKeyId())
	cert, node := i.store.cert(id), i.members.find(r.GetFrom())
	if cert == nil || node == nil || !again(i.lastAnswered, r.GetFrom(), i.now()) {
		return
	}
	b, err := wire.EncodeCertResponse(&wire.CertResponse{Cert: cert.DER})
	if err != nil {
		i.log.Error("answering with a certificate", "key", id, "err", err)
		return
	}
	i.lanes.put(node, "answer "+id.String(), message(typeCertResponse, b))
}

// correct sends an origin the newest record that is known of it: a member that
// restarted without its epoch learns so above what it has to go. A duplicated or
// overtaken packet causes one too, which its origin ignores.
func (i *intake) correct(k slot) {
	node, raw := i.members.find(k.origin), i.store.raw(k)
	if node == nil || raw == nil || !again(i.lastCorrected, k.origin, i.now()) {
		return
	}
	i.deliver(node, k, raw)
}

// again reports whether nothing was sent to the member in the last second, and
// notes that it is now.
func again(last map[string]time.Time, k string, now time.Time) bool {
	if at, ok := last[k]; ok && now.Sub(at) < againAfter {
		return false
	}
	if len(last) >= maxNotes {
		clear(last)
	}
	last[k] = now
	return true
}

// lanes send messages over streams, one at a time to each member, without ever
// blocking who hands them over. A lane's goroutine lives while it has something
// to send.
type lanes struct {
	send    func(*memberlist.Node, []byte) error
	dropped func()
	failed  func(to string, err error)

	mu     sync.Mutex
	open   map[string]*lane // by member
	closed bool
	wg     sync.WaitGroup
}

type lane struct {
	order   []string // keys of pending, oldest first
	pending map[string][]byte
}

// put hands a message over. It replaces a waiting one of the same key; one too
// many is dropped.
func (l *lanes) put(to *memberlist.Node, key string, m []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	x := l.open[to.Name]
	if x == nil {
		x = &lane{pending: map[string][]byte{}}
		l.open[to.Name] = x
		l.wg.Go(func() { l.drain(to, x) })
	}
	if _, waits := x.pending[key]; !waits {
		if len(x.order) >= maxPending {
			l.dropped()
			return
		}
		x.order = append(x.order, key)
	}
	x.pending[key] = m
}

func (l *lanes) drain(to *memberlist.Node, x *lane) {
	for {
		l.mu.Lock()
		if l.closed || len(x.order) == 0 {
			delete(l.open, to.Name)
			l.mu.Unlock()
			return
		}
		key := x.order[0]
		m := x.pending[key]
		x.order = x.order[1:]
		delete(x.pending, key)
		l.mu.Unlock()
		if err := l.send(to, m); err != nil {
			l.dropped()
			l.failed(to.Name, err)
		}
	}
}

// close drops what waits and returns when the last message under way has ended.
// The transport must be shut down before, which ends it.
func (l *lanes) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.wg.Wait()
}
