package director

import (
	"fmt"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// Decision is the answer for one client: regions in the order to try them, with
// the reasons. The same table, service, cell and unit give the same decision
// and the same ID.
type Decision struct {
	ID         string // 16 hex digits: hash of table, service, cell and unit
	Model      regions.ModelName
	Client     regions.Client
	Candidates []Candidate // never empty; the first is the answer
	TTL        time.Duration
	// Wide is set where every client of the cell gets the same answer, so that
	// it holds for the client's whole scope; else it holds for the unit.
	Wide bool
	// AllLost is set where no region is fit and the answer is a guess.
	AllLost bool
	// Barred is set where an operator drains every candidate.
	Barred bool
}

// Candidate is one region that a client can be sent to.
type Candidate struct {
	Region    regions.ID
	Endpoints []regions.Endpoint
	RTT       regions.Micros
	Wait      regions.Micros
	State     State // of the region, as this director judges it
	Reason    string
}

// Decide reads a client's decision from the table. It is false for a model that
// no region has had within [KnownFor], and while the table has no region that
// serves anything. A cell that
// the table does not know counts as unknown.
func Decide(t *Table, model regions.ModelName, client regions.Client) (Decision, bool) {
	s, ok := t.Services[model]
	if !ok {
		return Decision{}, false
	}
	c, ok := t.cells[client.Cell]
	if !ok {
		client.Cell = regions.UnknownCell
		if c, ok = t.cells[client.Cell]; !ok {
			return Decision{}, false
		}
	}
	r := &s.rows[c]
	if len(r.ranked) == 0 {
		return Decision{}, false
	}
	first := r.buckets[bucketOf(model, client.Unit)]
	d := Decision{
		ID: decisionID(t, model, client), Model: model, Client: client, TTL: t.TTL,
		Wide: r.pure, AllLost: s.AllLost, Barred: s.Barred,
		Candidates: make([]Candidate, 0, len(r.ranked)),
	}
	d.Candidates = append(d.Candidates, candidate(t, s, r, first, drawReason(s, r, first)))
	for _, i := range r.ranked {
		if i != first {
			d.Candidates = append(d.Candidates, candidate(t, s, r, i, rankReason(t, s, i)))
		}
	}
	return d, true
}

func candidate(t *Table, s *Service, r *row, i uint16, reason string) Candidate {
	return Candidate{
		Region: t.Regions[i].ID, Endpoints: t.Regions[i].Endpoints,
		RTT: r.rtt[i], Wait: s.Supply[i].Wait, State: t.Regions[i].Verdict.State, Reason: reason,
	}
}

func drawReason(s *Service, r *row, first uint16) string {
	switch {
	case s.Barred:
		return "drained, as all others are"
	case s.AllLost:
		return "no region is fit, this is the best guess"
	case r.rtt[s.nearest(r)] < r.rtt[first]:
		return "the nearest is full, this is the client's share of the rest"
	case r.apart(first):
		return "as near as others as far as is known, the client's share"
	case !r.pure:
		return "nearest, shared with others for capacity"
	default:
		return "nearest that can serve"
	}
}

// apart reports whether another region is exactly as far as this one, as for clients
// of whom no place is known, who are shared among all.
func (r *row) apart(first uint16) bool {
	return slices.ContainsFunc(r.ranked, func(i uint16) bool { return i != first && r.rtt[i] == r.rtt[first] })
}

// nearest is the nearest region of the best tier, whatever the wait there.
func (s *Service) nearest(r *row) uint16 {
	best := r.ranked[0]
	for _, i := range r.ranked[1:] {
		if s.Supply[i].Tier == s.Supply[best].Tier && r.rtt[i] < r.rtt[best] {
			best = i
		}
	}
	return best
}

func rankReason(t *Table, s *Service, i uint16) string {
	switch s.Supply[i].Tier {
	case Fit:
		return "next in distance and wait"
	case Closed:
		return "drained"
	case Empty:
		return "no pod takes requests for the model"
	default:
		return t.Regions[i].Verdict.State.String() + ": " + t.Regions[i].Verdict.Reason
	}
}

func decisionID(t *Table, model regions.ModelName, client regions.Client) string {
	d := newDigest()
	d.num(t.Hash)
	d.str(string(model))
	d.str(string(client.Cell))
	d.unit(client.Unit)
	return fmt.Sprintf("%016x", d.sum())
}
