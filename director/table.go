package director

import (
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Table is the routing table: every client cell's fractions over the regions,
// for each service. It is immutable. DNS, the redirector and, by spill rows, the
// gateways answer from the same one.
type Table struct {
	// Hash names the table: equal hashes give every client the same regions in the
	// same order. Waits and distances, which only explain, are not in it.
	Hash    uint64
	Made    time.Time // not part of the hash
	TTL     time.Duration
	Regions []Place // sorted by ID
	// Services are by model; regions.Apex is the zone's apex.
	Services map[regions.ModelName]*Service

	cells map[regions.CellID]int // index into Service.rows
}

// Place is a region as the table needs it.
type Place struct {
	ID        regions.ID
	Location  regions.Location
	Endpoints []regions.Endpoint
	Verdict   Verdict
}

// Service is how one model is served.
type Service struct {
	Model regions.ModelName
	// Supply is by index into Table.Regions.
	Supply []Supply
	// AllLost is set where no region is fit and all are answered with as if
	// they were: better an attempt than an empty answer.
	AllLost bool
	// Barred is set where an operator drains every region that has the model.
	Barred bool

	rows []row
}

// Tier ranks how fit a region is for a service; only the best tier that is not
// empty gets fractions, the next ones are there to fail over to.
type Tier uint8

// The tiers, best first.
const (
	Fit    Tier = iota // ready, with pods for the model
	Shaky              // with pods for the model, but leaving or not to be connected to
	Empty              // there, but without a pod for the model
	Silent             // lost
	Closed             // drained by an operator
	Absent             // has not had the model for long, or has no address
)

// Supply is one region's part in a service.
type Supply struct {
	Tier     Tier
	Capacity regions.MilliSlots // slots that can be used, by confidence
	Load     regions.MilliSlots // in-flight and queued as last reported
	Home     regions.MilliSlots // load whose nearest region of the best tier it is
	Planned  regions.MilliSlots // load that the plan gives it
	Wait     regions.Micros     // expected time in queue
}

// row is one cell's fractions and, for failover, all candidates in order.
type row struct {
	buckets *buckets
	ranked  []uint16         // regions of the service, best first
	rtt     []regions.Micros // by index into Table.Regions
	pure    bool             // every bucket is the same region
}

// addressable reports whether clients can be told where the region is.
func (p *Place) addressable() bool {
	return len(p.Endpoints) > 0 && len(p.Endpoints[0].Addrs) > 0
}

// Place finds a region of the table, nil if it is not there.
func (t *Table) Place(id regions.ID) *Place {
	for i := range t.Regions {
		if t.Regions[i].ID == id {
			return &t.Regions[i]
		}
	}
	return nil
}

// Models lists the models of the table in order, without the apex.
func (t *Table) Models() []regions.ModelName {
	out := make([]regions.ModelName, 0, len(t.Services))
	for m := range t.Services {
		if m != regions.Apex {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return out
}

// hash sums up all that decisions depend on.
func (t *Table) hash() uint64 {
	d := newDigest()
	d.num(uint64(t.TTL))
	d.num(uint64(len(t.cells)))
	d.num(uint64(len(t.Regions)))
	for _, p := range t.Regions {
		d.str(string(p.ID))
		d.num(uint64(p.Verdict.State))
		d.num(uint64(len(p.Endpoints)))
		for _, e := range p.Endpoints {
			d.str(e.URL())
			d.num(uint64(len(e.Addrs)))
			for _, a := range e.Addrs {
				d.str(a.String())
			}
		}
	}
	for _, m := range append([]regions.ModelName{regions.Apex}, t.Models()...) {
		if s := t.Services[m]; s != nil {
			s.digest(d)
		}
	}
	return d.sum()
}

func (s *Service) digest(d *digest) {
	d.str(string(s.Model))
	for _, flag := range [...]bool{s.AllLost, s.Barred} {
		if flag {
			d.num(1)
		} else {
			d.num(0)
		}
	}
	for _, r := range s.rows {
		if r.buckets == nil {
			continue // of a service that no region has
		}
		for _, b := range r.buckets {
			d.num(uint64(b))
		}
		d.num(uint64(len(r.ranked)))
		for _, i := range r.ranked {
			d.num(uint64(i))
		}
	}
}
