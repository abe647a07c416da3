package regions

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Report is the newest status of one agent and when it was true at the latest.
type Report struct {
	Status *Status
	// Heard is by the receiver's clock: the moment of receipt of a record that
	// came directly, made earlier by the relay's age where it was relayed. A
	// relay can't make a record younger.
	Heard time.Time
}

// Age is how old the report is at now, never negative.
func (r Report) Age(now time.Time) time.Duration { return max(0, now.Sub(r.Heard)) }

// Snapshot is the newest report of every agent that was ever heard of and not
// forgotten. It is immutable, sorted by region and agent. Make it with
// [NewSnapshot].
type Snapshot struct {
	Reports []Report
	merged  []Region
}

// NewSnapshot sorts reports into a snapshot; it takes the slice over.
func NewSnapshot(reports []Report) Snapshot {
	slices.SortFunc(reports, func(a, b Report) int {
		return cmp.Or(cmp.Compare(a.Status.Region, b.Status.Region), cmp.Compare(a.Status.Agent, b.Status.Agent))
	})
	s := Snapshot{Reports: reports}
	s.merged = s.merge()
	return s
}

// Region is one region as its agents' reports add up.
type Region struct {
	ID        ID
	Location  Location
	Endpoints []Endpoint
	Draining  bool      // an operator drains it
	Stopping  bool      // its agents are ending
	Heard     time.Time // the newest of its agents' reports
	Models    []ModelStatus
}

// Model finds the merged status of a model, nil if no agent knows it.
func (r *Region) Model(name ModelName) *ModelStatus {
	for i := range r.Models {
		if r.Models[i].Name == name {
			return &r.Models[i]
		}
	}
	return nil
}

// agentLapse is how much older than its region's newest report an agent's
// report may be and still count into the region's load. Five seconds is ten
// missed reports: the process is dead and its requests with it, while a
// surviving agent speaks for the pods.
const agentLapse = 5 * time.Second

// Agents are the agents of a region that were alive at now, in order: those whose
// newest report is not too old to count into the region's load.
func (s Snapshot) Agents(region ID, now time.Time) []AgentID {
	var out []AgentID
	for _, r := range s.Reports {
		if r.Status.Region == region && r.Age(now) <= agentLapse {
			out = append(out, r.Status.Agent)
		}
	}
	return out
}

// Regions are the reports of each region's agents as they add up, in order of ID:
// per model the most slots and pods that any agent sees (they watch the same
// pods, at slightly different moments) and the sum of each agent's own in-flight,
// queued and counters. A region drains or stops when none of its live agents
// takes new clients; it drains if one of them says that an operator wants it so.
// The slice is shared: it is for reading.
func (s Snapshot) Regions() []Region { return s.merged }

func (s Snapshot) merge() []Region {
	var out []Region
	for i := 0; i < len(s.Reports); {
		j := i + 1
		for j < len(s.Reports) && s.Reports[j].Status.Region == s.Reports[i].Status.Region {
			j++
		}
		out = append(out, mergeRegion(s.Reports[i:j]))
		i = j
	}
	return out
}

func mergeRegion(reports []Report) Region {
	newest := reports[0]
	for _, r := range reports[1:] {
		if r.Heard.After(newest.Heard) {
			newest = r
		}
	}
	out := Region{
		ID: newest.Status.Region, Location: newest.Status.Location,
		Endpoints: newest.Status.Endpoints, Heard: newest.Heard,
	}
	takes, drains := false, false
	models := map[ModelName]ModelStatus{}
	for _, r := range reports {
		if newest.Heard.Sub(r.Heard) > agentLapse {
			continue
		}
		takes = takes || !r.Status.Draining && !r.Status.Stopping
		drains = drains || r.Status.Draining
		for _, m := range r.Status.Models {
			if old, ok := models[m.Name]; ok {
				m = mergeModel(old, m)
			}
			models[m.Name] = m
		}
	}
	out.Draining, out.Stopping = !takes && drains, !takes && !drains
	for _, m := range models {
		out.Models = append(out.Models, m)
	}
	slices.SortFunc(out.Models, func(a, b ModelStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// mergeModel adds up two agents' words on one pool. It is commutative and
// associative but for ties between equal slot counts of different pools, where
// the higher PoolID wins so that the order of agents does not matter.
func mergeModel(a, b ModelStatus) ModelStatus {
	if b.Slots > a.Slots || b.Slots == a.Slots && b.PoolID > a.PoolID {
		a, b = b, a
	}
	a.InFlight = addUp(a.InFlight, b.InFlight)
	a.Queued = addUp(a.Queued, b.Queued)
	a.Arrivals += b.Arrivals
	a.Completions += b.Completions
	a.Wait = max(a.Wait, b.Wait)
	a.TTFT = max(a.TTFT, b.TTFT)
	return a
}

// addUp saturates: a sum that wrapped would make the fullest region look empty.
func addUp(a, b uint32) uint32 {
	if sum := a + b; sum >= a {
		return sum
	}
	return math.MaxUint32
}
