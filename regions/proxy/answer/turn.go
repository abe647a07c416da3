package answer

import (
	"encoding/binary"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// turn is one request and its responses.
type turn struct {
	id    string // as the pod has it
	own   string // as the client has it
	text  *resume.Inference
	frame []byte // the request for the present pod
	size  int    // of the client's request in bytes
	sent  bool   // to the present pod
	begun bool   // an earlier pod had it
	heard bool   // there was a response
	told  []byte // the pod's own words on why it fails, for the client
	// over tells that the client has all, which the pod does not know.
	over bool
}

// Slots are what a pod has room for beside a stream's first request.
type Slots struct {
	// Take takes one, if there is one, and Give gives one back.
	Take func() bool
	Give func()
}

// Unbounded are the slots of who counts for itself.
func Unbounded() Slots { return Slots{Take: func() bool { return true }, Give: func() {}} }

// Hold changes over to the next pod's slots. What was held of the last pod's is not given
// back: that pod was let go.
func (c *Calls) Hold(s Slots) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots, c.held = s, 0
}

// appendTo appends a response to the request in the client's words. Without a frame it is
// not as it came.
func (t *turn) appendTo(b []byte, m *inferencepb.ModelStreamInferResponse, frame []byte) []byte {
	if r := m.GetInferResponse(); r != nil && t.id != t.own {
		r.Id, frame = t.own, nil
	}
	if frame != nil {
		return append(b, frame...)
	}
	return appendMessage(b, m)
}

// ofLocked is the request that a response is for. One that does not say can only be for
// the only request.
func (c *Calls) ofLocked(r *inferencepb.ModelInferResponse) *turn {
	var only *turn
	sent := 0
	for _, t := range c.turns {
		switch {
		case !t.sent:
			continue
		case r != nil && t.id == r.GetId():
			return t
		}
		only = t
		sent++
	}
	if sent == 1 && r.GetId() == "" && !c.opaque {
		return only
	}
	return nil
}

// dropLocked forgets a request, and gives back what was held for it.
func (c *Calls) dropLocked(t *turn) {
	c.turns = slices.DeleteFunc(c.turns, func(other *turn) bool { return other == t })
	c.giveLocked()
}

// giveLocked gives back what is held for requests that the pod has no more.
func (c *Calls) giveLocked() {
	for c.held > max(0, c.runningLocked()-1) {
		c.held--
		c.slots.Give()
	}
}

// runningLocked is how many requests the present pod has.
func (c *Calls) runningLocked() int {
	n := 0
	for _, t := range c.turns {
		if t.sent {
			n++
		}
	}
	return n
}

// prefix is the length of what stands before a message: whether it is compressed, and
// its size.
const prefix = 5

func appendMessage(b []byte, m proto.Message) []byte {
	at := len(b)
	b, err := proto.MarshalOptions{}.MarshalAppend(append(b, 0, 0, 0, 0, 0), m)
	if err != nil {
		panic(fmt.Sprintf("a message that was read can't be written: %v", err)) // text that is no UTF-8 is no string of a message
	}
	binary.BigEndian.PutUint32(b[at+1:], uint32(len(b)-at-prefix))
	return b
}
