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

// trustHalves is the time in which a pod's word loses half of its weight. What a
// pod runs is replaced within a generation, 1 to 60 s, and half of what is known of
// a queue is wrong sooner; 5 s is also how long an idle pod is not asked.
const trustHalves = 5 * time.Second

// Trust is how much of its weight the word of a pod has kept at now: all of it when
// it is said, half after 5 s, an eighth after 15 s, and so on down to nothing after
// 50 s, falling in a straight line between. There is no age at which it falls from
// much to nothing, where a balancer would turn from one pod to another all at once.
func (f *Facts) Trust(now time.Time) Permille {
	if f.At.IsZero() {
		return 0
	}
	age := max(0, now.Sub(f.At))
	halvings := age / trustHalves
	if halvings >= 10 { // 1000 is halved to 0 then
		return 0
	}
	whole := Whole >> halvings
	lost := int64(whole-whole/2) * int64(age%trustHalves) / int64(trustHalves)
	return whole - Permille(lost)
}

// PodLoad is what one agent has in flight on one pod, for the other agents of its
// region.
type PodLoad struct {
	Pod      PodID
	Model    ModelName
	InFlight uint32
}
