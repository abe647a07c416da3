package regions

import "time"

// ProtocolVersion is the version of the status record that this code writes.
// Version N reads N-1 and N+1: fields are only added.
const ProtocolVersion = 1

// StatusEvery is how often an agent sends its status, whether or not it changed:
// constant work, whose absence is what directors judge by.
const StatusEvery = 500 * time.Millisecond

// SlotsSource says where a number of slots comes from, from firm to guessed.
type SlotsSource uint8

// Sources of a slot count.
const (
	SlotsConfigured SlotsSource = iota + 1 // the operator said so
	SlotsReported                          // the pod's own metrics say so
	SlotsLearned                           // estimated from latency against in-flight
)

// String is the source's name in logs, metrics and the admin API.
func (s SlotsSource) String() string {
	switch s {
	case SlotsConfigured:
		return "configured"
	case SlotsReported:
		return "reported"
	case SlotsLearned:
		return "learned"
	default:
		return "unknown"
	}
}

// Status is what one agent says of its region. It is immutable once published.
// Order between two of the same agent is (Epoch, Version).
type Status struct {
	Agent     AgentID
	Region    ID
	Epoch     uint64 // rises with each start of the agent
	Version   uint64 // rises with each status of an epoch
	Protocol  uint32
	Location  Location
	Endpoints []Endpoint
	Models    []ModelStatus // sorted by Name
	Draining  bool          // an operator drains the region
	// Stopping says that the agent is ending: it takes no new clients, as when it
	// drains, but it is no operator's word and ends in silence.
	Stopping bool
	// ConfigHash is a hash of API keys and routes, so that agents of one region
	// (and an operator) can see that they serve the same.
	ConfigHash uint64
}

// Newer reports whether s replaces old of the same agent.
func (s *Status) Newer(old *Status) bool {
	if old == nil {
		return true
	}
	return s.Epoch > old.Epoch || s.Epoch == old.Epoch && s.Version > old.Version
}

// Model finds the status of a model, nil if the agent does not know it.
func (s *Status) Model(name ModelName) *ModelStatus {
	for i := range s.Models {
		if s.Models[i].Name == name {
			return &s.Models[i]
		}
	}
	return nil
}

// ModelStatus is one model's pool as one agent sees it. Pods and slots are the
// pool's; in-flight, queued and the counters are this agent's own, so that
// several agents of a region add up.
type ModelStatus struct {
	Name        ModelName
	Host        string // DNS label that the operator gave it, empty for Name.Label()
	Fingerprint Fingerprint
	PoolID      uint64 // hash of the pods' IDs: two agents with one PoolID see the same pods
	Pods        PodCounts
	Slots       MilliSlots // of pods that take requests
	SlotsSource SlotsSource
	InFlight    uint32 // own requests on pods
	Queued      uint32 // own requests waiting for a pod
	Wait        Micros // expected time in queue of a request that comes now
	TTFT        Micros // recent time to first byte on pods, without queue
	Arrivals    uint64 // own, since the epoch began
	Completions uint64 // own, since the epoch began
}

// PodCounts counts a pool's pods by state.
type PodCounts struct {
	Ready, Warming, Ejected, Draining, Gone uint16
}

// Taking is the number of pods that take new requests.
func (c PodCounts) Taking() int { return int(c.Ready) + int(c.Warming) }

// SpillRow tells the gateways of one region where requests for one model go
// that cannot be served there, and how much of what arrives there belongs
// elsewhere by now.
type SpillRow struct {
	Source  ID
	Model   ModelName
	Targets []SpillTarget // best first
	// Lifetime is how long after its receipt the row may be used.
	Lifetime time.Duration
	// Leave is the share of the region's client connections that the plan now
	// sends elsewhere; the gateway closes that share gently.
	Leave Permille
	// Table is the hash of the routing table that the row is cut from.
	Table uint64
}

// SpillTarget is one region that takes spilled requests.
type SpillTarget struct {
	Region   ID
	Endpoint Endpoint
	// Budget is how much this source may have in flight there.
	Budget MilliSlots
}
