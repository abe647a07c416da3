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
	// Affinity is what requests that should meet on one pod have in common, by the
	// route's balancing: a header's value, a cookie, the id of an API key or the
	// beginning of a prompt. Empty has no preference.
	Affinity string
	// Frontend is by which server of the pod the request is served; pods that don't
	// have it are not chosen.
	Frontend Frontend
	// Aside requests take no slot, like questions for a model's metadata.
	Aside bool
	// Class says who goes first where requests wait for a slot.
	Class Class
	// MaxWait is how long the request may wait for a slot; 0 is the gateway's default.
	MaxWait time.Duration
	// Until is when the client gives up, as it has said; the zero value is never. Pods are
	// told what is left.
	Until time.Time
	// Replayable requests may be sent to another pod if the connection is lost
	// before the first byte of an answer: stateless generation.
	Replayable bool
	// Streams is true where the answer is a stream of events.
	Streams bool
	// From is the region whose gateway sent the request on; empty if it came from a
	// client. Such a request is not sent on again, and does not wait here.
	From ID
	// Key is the id of the API key that the request came with, empty if nobody asked for
	// one. The key itself is no business of the pods, nor of other regions.
	Key string
	// Same is the fingerprint that a pod's model must have, since another pod has
	// already begun the answer; the zero value accepts any.
	Same Fingerprint
	// Tried are pods that already failed this request; they are not chosen again.
	Tried []PodID
}

// Guest is a request that another region's gateway has sent on, by that region's word.
type Guest struct {
	From  ID
	Model ModelName
	Key   string // id of the API key that the client used there; empty without one
	Class Class
}

// Class is a request's priority: of two that wait, the one of the higher class
// gets the next free slot.
type Class int8

// The classes. The zero value is the normal one.
const (
	ClassLow    Class = -1
	ClassNormal Class = 0
	ClassHigh   Class = 1
)

// String is the class's name in logs, metrics and header fields.
func (c Class) String() string {
	switch {
	case c < ClassNormal:
		return "low"
	case c > ClassNormal:
		return "high"
	default:
		return "normal"
	}
}

// ParseClass reads a class by its name.
func ParseClass(name string) (Class, bool) {
	for _, c := range [...]Class{ClassLow, ClassNormal, ClassHigh} {
		if c.String() == name {
			return c, true
		}
	}
	return ClassNormal, false
}

// End says how a request on a pod ended.
type End uint8

// The ends of a request. Only those that are the pod's doing count against it:
// a client's broken request or departure never does.
const (
	EndServed     End = iota + 1 // answered in full
	EndClientGone                // the client left, or sent what can't be served
	EndPodLost                   // the connection to the pod could not be had or was lost
	EndPodError                  // the pod said that something is wrong with it
	EndTimeout                   // no byte between two reads for too long
	EndNotStarted                // released before anything was sent
	EndFailed                    // the pod answered with an error that may be the request's own
)

// String is the end's name in logs and metrics.
func (e End) String() string {
	names := [...]string{"unknown", "served", "client-gone", "pod-lost", "pod-error", "timeout", "not-started", "failed"}
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
	Prompt   int           // bytes of the request that was read before the answer; 0 if not known
}
