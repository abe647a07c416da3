// Package relay is the queue of what members of the fleet pass on for each
// other: which messages go into the next packet, how often, and what gives way
// when there are too many.
//
// Of each name only the newest version is kept. Each message is taken a number
// of times that grows with the logarithm of the membership, after which
// everybody has most likely heard of it, and is then forgotten. The queue
// decides only: it has no clock, no lock and no socket.
package relay

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Class is how urgent a message is; the lower ones come first.
type Class uint8

// The classes. Every class has its turn, so that none starves.
const (
	Control Class = iota // what directors and operators order, and certificates
	Digest               // what agents say of themselves
	Other                // of a newer version, whose urgency is unknown
	classes
)

// Name is what versions replace each other of.
type Name struct {
	Role   string // of the signer
	Kind   int32
	Origin string
	Key    string
}

// Message is one version of what is to be passed on.
type Message struct {
	Name           Name
	Class          Class
	Epoch, Version uint64
	Raw            []byte // not changed by the queue, and not to be by others
	// Heard is when it was true at the latest: its age is counted from there.
	Heard time.Time
}

// Passed is a message that was taken.
type Passed struct {
	Raw []byte
	// Age is how old it is by now.
	Age time.Duration
}

// Limits bound a queue.
type Limits struct {
	// Retransmit times ceil(log10(members+1)) is how often a message is taken.
	Retransmit int
	// MaxSize is the most bytes of one message.
	MaxSize int
	// MaxCount is the most messages; MaxSize times MaxCount bounds the bytes.
	MaxCount int
}

// ErrOld refuses a version that is not newer than the one that waits.
var ErrOld = errors.New("a version as new waits already")

// ErrFull refuses a message because nothing that waits is less important.
var ErrFull = errors.New("the relay queue is full")

// SizeError refuses a message that is larger than the limit, in bytes. It would
// fit no packet, and wait for ever.
type SizeError struct{ Size, Most int }

// Error says both sizes.
func (e *SizeError) Error() string {
	return fmt.Sprintf("message of %d bytes, at most %d are relayed", e.Size, e.Most)
}

// Queue holds messages until they have been taken often enough. It is not safe
// for concurrent use.
type Queue struct {
	limits  Limits
	entries map[Name]*entry
	last    uint64 // number of the newest entry
	turn    Class  // whose message is looked at first
}

// entry is a message that waits.
type entry struct {
	Message
	number uint64 // in the order of Put
	sent   int    // how often it was taken
}

// New makes an empty queue.
func New(l Limits) *Queue {
	return &Queue{limits: l, entries: map[Name]*entry{}}
}

// Len is the number of messages that wait.
func (q *Queue) Len() int { return len(q.entries) }

// Put adds a message in place of an older version of it, which is never taken
// again. What has been taken often enough is forgotten, its version too: who puts
// must not put old ones.
//
// If the queue is full, the least important message gives way that was taken
// before or is of a lower class. The error is ErrOld, ErrFull or a *SizeError.
func (q *Queue) Put(m Message) error {
	m.Class = min(m.Class, classes-1)
	if len(m.Raw) > q.limits.MaxSize {
		return &SizeError{Size: len(m.Raw), Most: q.limits.MaxSize}
	}
	if old := q.entries[m.Name]; old != nil {
		if cmp.Or(cmp.Compare(m.Epoch, old.Epoch), cmp.Compare(m.Version, old.Version)) <= 0 {
			return ErrOld
		}
	} else if len(q.entries) >= q.limits.MaxCount && !q.giveWay(m.Class) {
		return ErrFull
	}
	q.last++
	q.entries[m.Name] = &entry{Message: m, number: q.last}
	return nil
}

// giveWay removes the least important message to make room for one of a class,
// and says whether there was one: of the lowest class the one taken most often,
// of those the oldest.
func (q *Queue) giveWay(to Class) bool {
	var least *entry
	for _, e := range q.entries {
		if least == nil || cmp.Or(cmp.Compare(e.Class, least.Class), cmp.Compare(e.sent, least.sent), cmp.Compare(least.number, e.number)) > 0 {
			least = e
		}
	}
	if least == nil || least.Class < to || least.Class == to && least.sent == 0 {
		return false
	}
	delete(q.entries, least.Name)
	return true
}

// Take gives the messages for one packet to one member: each costs its bytes and
// overhead, all together at most limit. Members is how many there are.
//
// One message of the class whose turn it is comes first, then all others by
// class; within a class those taken least often, of those the oldest. So a flood
// of one class leaves at least one message in as many packets as there are classes
// to each other.
func (q *Queue) Take(now time.Time, members, overhead, limit int) []Passed {
	waiting := make([]*entry, 0, len(q.entries))
	for _, e := range q.entries {
		waiting = append(waiting, e)
	}
	slices.SortFunc(waiting, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.sent, b.sent), cmp.Compare(a.number, b.number))
	})
	var out []Passed
	times := q.limits.times(members)
	fits := func(e *entry) bool { return e != nil && len(e.Raw)+overhead <= limit }
	take := func(e *entry) {
		limit -= len(e.Raw) + overhead
		out = append(out, Passed{Raw: e.Raw, Age: max(0, now.Sub(e.Heard))})
		if e.sent++; e.sent >= times {
			delete(q.entries, e.Name)
		}
	}
	for k := range classes {
		class := (q.turn + k) % classes
		i := slices.IndexFunc(waiting, func(e *entry) bool { return e.Class == class && fits(e) })
		if i >= 0 {
			take(waiting[i])
			waiting[i] = nil
			q.turn = (class + 1) % classes
			break
		}
	}
	for _, e := range waiting {
		if fits(e) {
			take(e)
		}
	}
	return out
}

// times is how often a message is taken among so many members: at least
// Retransmit times.
func (l *Limits) times(members int) int {
	digits := 1 // of the decimal logarithm of members+1, rounded up
	for reach := 10; reach < members+1; reach *= 10 {
		digits++
	}
	return l.Retransmit * digits
}
