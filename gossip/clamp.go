package gossip

import (
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// longestWait is the longest wait and TTFT that a status says. Directors have
// long turned away from a region at which requests wait for an hour, and a figure
// that grows without bound under overload must not silence who says it.
const longestWait = regions.Micros(time.Hour / time.Microsecond)

// clamp cuts the figures of a status to what receivers accept, in a copy of its
// models: what they refuse would leave an overloaded region silent.
func (n *Node) clamp(s *regions.Status) {
	slots := wire.MaxSlots
	if most := n.opts.Identity.Cert.Grant.MaxSlots; most > 0 {
		slots = min(slots, regions.Slots(most))
	}
	s.Models = slices.Clone(s.Models)
	for i := range s.Models {
		m := &s.Models[i]
		cut(n, m.Name, "slots", &m.Slots, slots)
		cut(n, m.Name, "in-flight", &m.InFlight, wire.MaxRequests)
		cut(n, m.Name, "queued", &m.Queued, wire.MaxRequests)
		cut(n, m.Name, "wait", &m.Wait, longestWait)
		cut(n, m.Name, "ttft", &m.TTFT, longestWait)
	}
}

// cut is clamp for one figure; the first of its kind that is cut is logged.
func cut[T regions.MilliSlots | regions.Micros | uint32](n *Node, model regions.ModelName, what string, value *T, most T) {
	if *value <= most {
		return
	}
	if _, again := n.own.clamped.LoadOrStore(what, true); !again {
		n.log.Warn("the status says less than what was measured, which is beyond the certificate or any sense",
			"figure", what, "model", model, "value", *value, "most", most)
	}
	*value = most
}
