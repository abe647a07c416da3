package agent

import (
	"slices"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/director/latency"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// relayedFor is how long a region that was heard of by relay is believed to be
// there: two rounds of push/pull, which come every 20 s, and some.
const relayedFor = 45 * time.Second

// spiller gives out places in other regions: by the directors' newest rows,
// and where these are older than their lifetime by the same plan over what this
// agent itself knows of the other regions.
//
// A row's budgets are the region's; each of its agents takes its part.
type spiller struct {
	region   regions.ID
	agent    regions.AgentID
	snapshot func() regions.Snapshot

	mu       sync.Mutex
	rows     map[regions.ModelName]heardRow
	own      map[regions.ModelName]regions.SpillRow // of the agent's own plan
	failed   map[regions.ID]time.Time               // when a connection was lost
	full     map[spillKey]time.Time                 // when there was no room
	inFlight map[spillKey]regions.MilliSlots
	place    int // of this agent among the region's live ones, from 0
	agents   int // how many these are; 0 before they were counted
}

type heardRow struct {
	regions.SpillRow
	heard time.Time
}

type spillKey struct {
	region regions.ID
	model  regions.ModelName
}

func newSpiller(region regions.ID, agent regions.AgentID, snapshot func() regions.Snapshot) *spiller {
	return &spiller{
		region: region, agent: agent, snapshot: snapshot,
		rows: map[regions.ModelName]heardRow{}, failed: map[regions.ID]time.Time{}, full: map[spillKey]time.Time{}, inFlight: map[spillKey]regions.MilliSlots{},
	}
}

// heard takes a director's row. The directors' rows are cut from one mind, so
// the newest to arrive counts, whoever sent it.
func (s *spiller) heard(row regions.SpillRow, now time.Time) {
	if row.Source != s.region {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[row.Model] = heardRow{row, now}
}

// Spill implements proxy.Spiller: the first region of the row whose budget has
// room for one more sequence. A request that must leave has nowhere else to go, so
// that when all budgets are spent it goes where least is over, in proportion to the
// budget: a region that has no room says so before it begins.
func (s *spiller) Spill(now time.Time, req regions.Request, must bool) (proxy.SpillLease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.rowLocked(req.Model, now)
	var least *regions.SpillTarget
	var over regions.MilliSlots // of least: what it would have in flight per thousand of budget
	for i := range row.Targets {
		t := &row.Targets[i]
		if s.failedLocked(t.Region, now) || s.fullLocked(spillKey{t.Region, req.Model}, now) {
			continue
		}
		would := s.inFlight[spillKey{t.Region, req.Model}] + regions.Slots(1)
		budget := partOf(t.Budget, s.place+i, s.agents)
		if would <= budget {
			return s.claimLocked(t, req.Model), true
		}
		if share := would * 1000 / max(1, budget); least == nil || share < over {
			least, over = t, share
		}
	}
	if least == nil || !must {
		return nil, false
	}
	return s.claimLocked(least, req.Model), true
}

// partOf is one agent's part of a budget: whole slots, since a part of one is room for
// nothing. What is left over goes to one each from the first on; the first differs
// from target to target, lest one agent have all of what is left.
func partOf(budget regions.MilliSlots, place, of int) regions.MilliSlots {
	if of <= 1 {
		return budget
	}
	whole := int(budget / 1000)
	return regions.Slots((whole + of - 1 - place%of) / of)
}

func (s *spiller) rowLocked(m regions.ModelName, now time.Time) regions.SpillRow {
	if row, ok := s.rows[m]; ok && now.Sub(row.heard) < row.Lifetime {
		return row.SpillRow
	}
	return s.own[m]
}

// Knows implements proxy.Spiller: directors send a row for every model of the
// fleet, with or without a region that can take it, and an old one still tells
// that the model exists.
func (s *spiller) Knows(m regions.ModelName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, heard := s.rows[m]
	_, own := s.own[m]
	return heard || own
}

// HasPeer implements proxy.Spiller.
func (s *spiller) HasPeer(region regions.ID) bool {
	return region != s.region && slices.ContainsFunc(s.snapshot().Reports, func(r regions.Report) bool { return r.Status.Region == region })
}

// out is what this agent has in other regions now, by model.
func (s *spiller) out() map[regions.ModelName]regions.MilliSlots {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := map[regions.ModelName]regions.MilliSlots{}
	for k, n := range s.inFlight {
		sum[k.model] += n
	}
	return sum
}

// divide counts the region's live agents, and which of them this one is. It is called
// now and then, away from requests. Who is not heard by the others for a moment, or
// does not hear them, counts wrongly until then; the region that is sent too much says
// so.
func (s *spiller) divide(now time.Time) {
	agents := s.snapshot().Agents(s.region, now)
	place, known := slices.BinarySearch(agents, s.agent)
	of := len(agents)
	if !known {
		of++
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.place, s.agents = place, of
}

// replan makes rows of the agent's own, for as long as it hears none from
// directors. It is called now and then, away from requests.
func (s *spiller) replan(now time.Time) {
	if !s.stale(now) {
		return
	}
	own := s.plan(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = own
}

// stale reports whether no director was heard of within a row's lifetime.
func (s *spiller) stale(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range s.rows {
		if now.Sub(row.heard) < row.Lifetime {
			return false
		}
	}
	return true
}

// plan makes rows from this agent's own snapshot, as a director would. No cell
// but the unknown one is needed: a spill row depends on the source's place.
func (s *spiller) plan(now time.Time) map[regions.ModelName]regions.SpillRow {
	in := director.Inputs{
		Snapshot: s.snapshot(), Latency: latency.Prior{},
		Cells: []regions.Cell{{ID: regions.UnknownCell}},
	}
	in.Verdicts = director.JudgeRelayed(in.Snapshot, now, relayedFor)
	table, _ := director.Plan(in, now)
	out := map[regions.ModelName]regions.SpillRow{}
	for _, row := range director.SpillRows(table, latency.Prior{}, s.region) {
		out[row.Model] = row
	}
	return out
}

func (s *spiller) claimLocked(t *regions.SpillTarget, m regions.ModelName) *spillLease {
	s.inFlight[spillKey{t.Region, m}] += regions.Slots(1)
	return &spillLease{spiller: s, target: *t, model: m}
}

// spillLease is one sequence in another region.
type spillLease struct {
	spiller *spiller
	target  regions.SpillTarget
	model   regions.ModelName
	once    sync.Once
}

// Region implements proxy.SpillLease.
func (l *spillLease) Region() regions.ID { return l.target.Region }

// Endpoint implements proxy.SpillLease.
func (l *spillLease) Endpoint() regions.Endpoint { return l.target.Endpoint }

// Done implements proxy.SpillLease.
func (l *spillLease) Done(now time.Time, out regions.Outcome) {
	l.once.Do(func() { l.spiller.done(l.target.Region, l.model, now, out) })
}

func (s *spiller) done(region regions.ID, m regions.ModelName, now time.Time, out regions.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := spillKey{region, m}
	if s.inFlight[key] -= regions.Slots(1); s.inFlight[key] <= 0 {
		delete(s.inFlight, key)
	}
	switch {
	case out.End == regions.EndPodLost && !out.SawBytes:
		// An answer that breaks off may be a pod's doing there.
		s.failed[region] = now
	case out.End == regions.EndNotStarted:
		s.full[key] = now
	}
}

// spillPause is how long a region is passed over after a connection to it was
// lost: the time in which the directors notice too and send rows without it.
const spillPause = 3 * time.Second

// fullPause is how long a region that had no room for a model is passed over: about
// as long as a pod of a busy pool takes to end one of its sequences.
const fullPause = 250 * time.Millisecond

func (s *spiller) fullLocked(k spillKey, now time.Time) bool {
	at, ok := s.full[k]
	return ok && now.Sub(at) < fullPause
}

func (s *spiller) failedLocked(region regions.ID, now time.Time) bool {
	at, ok := s.failed[region]
	return ok && now.Sub(at) < spillPause
}
