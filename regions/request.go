package regions

import (
	"net/netip"
	"time"
)

// Request is what choosing a pod needs to know of a client's request.
type Request struct {
	Model  ModelName
	Client netip.Addr // the client itself, after trusted proxies
	URI    string     // path and query as the client sent them, for hashing
	// Replayable requests may be sent to another pod if the connection is lost
	// before the first byte of an answer: stateless generation.
	Replayable bool
	// Streams is true where the answer is a stream of events.
	Streams bool
	// HasKey is true where the request carries an API key of the gateway, which is
	// no business of the pods.
	HasKey bool
	// Tried are pods that already failed this request; they are not chosen again.
	Tried []PodID
}

// End says how a request on a pod ended.
type End uint8

// The ends of a request. Only those that are the pod's doing count against it:
// a client's broken request or departure never does.
const (
	EndServed     End = iota + 1 // answered in full
	EndClientGone                // the client left, or sent what can't be served
	EndPodLost                   // the connection to the pod could not be had or was lost
	EndPodError                  // the pod answered 5xx
	EndTimeout                   // no byte between two reads for too long
	EndNotStarted                // released before anything was sent
)

// String is the end's name in logs and metrics.
func (e End) String() string {
	names := [...]string{"unknown", "served", "client-gone", "pod-lost", "pod-error", "timeout", "not-started"}
	if int(e) < len(names) {
		return names[e]
	}
	return names[0]
}

// Outcome is how a claim of a pod ended; it is reported exactly once.
type Outcome struct {
	End      End
	TTFT     time.Duration // from the claim to the first byte; 0 if none came
	Took     time.Duration // from the claim to the end
	SawBytes bool          // the pod had sent at least one byte of the answer
}
