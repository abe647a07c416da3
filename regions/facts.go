package regions

import "time"

// Facts are what is known of one pod and model beyond whether it serves: what
// the pod says of itself, and what was learnt of it. The zero value of a field
// says nothing.
type Facts struct {
	// Slots is how many sequences of the model the pod runs at a time, and Source
	// where that comes from; 0 leaves what discovery said.
	Slots  int
	Source SlotsSource
	// Fingerprint tells which load of the model it is.
	Fingerprint Fingerprint
	// Waiting and Active are the requests that the pod says wait inside of it and
	// run, whoever sent them; -1 if it does not say. KV is how full its KV cache is.
	Waiting, Active int
	KV              Permille
	// At is when the pod said so; the zero time if it did not.
	At time.Time
}

// PodLoad is what one agent has in flight on one pod, for the other agents of its
// region.
type PodLoad struct {
	Pod      PodID
	Model    ModelName
	InFlight uint32
}
