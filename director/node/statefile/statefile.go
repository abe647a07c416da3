// Package statefile keeps a director's last good state on disk, so that it
// answers within a second of its start, whoever else is there.
package statefile

import (
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/regions"
)

// State is all that a director needs to go on where it stopped.
type State struct {
	// Owner says whose state it is: it is of no use to another.
	Owner
	// Saved is when it was written, by the wall clock.
	Saved time.Time
	// Epoch is the last that the member has spoken under.
	Epoch  uint64
	Gossip gossip.Memory
	// Names are the learnt labels.
	Names   []Name
	Control director.Control
}

// Owner is a director of a zone and a fleet.
type Owner struct {
	Zone   string
	Member string
	// Fleet are the fleet's certificates, two while one takes the other's place; see
	// [fleet.Roots.IDs].
	Fleet []string
}

// Name is a label of the zone and the model that it stands for.
type Name struct {
	Label string
	Model regions.ModelName
}
