package director

import (
	"fmt"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// State is a director's judgement of a region.
type State uint8

// The states of a region, from best to worst.
const (
	Ready    State = iota + 1
	Degraded       // speaks, but can't be connected to
	Leaving        // its agents are ending: used when no region is ready
	Draining       // an operator's word: used by nobody
	Lost           // silent and can't be connected to
)

// String is the state's name in logs, metrics and the admin API.
func (s State) String() string {
	switch s {
	case Ready:
		return "ready"
	case Degraded:
		return "degraded"
	case Leaving:
		return "leaving"
	case Draining:
		return "draining"
	case Lost:
		return "lost"
	default:
		return "unknown"
	}
}

// Verdict is the judgement of one region with the evidence that led to it.
type Verdict struct {
	Region     regions.ID
	State      State
	Confidence regions.Permille // 1000 means as good as its status says, 0 not to be used
	Reason     string
}

const (
	// missedStatuses in a row make a status stale. At 10 % packet loss four in a
	// row are lost once in 10^4; three would be once in 10^3, every eight
	// minutes for a region.
	missedStatuses = 4

	// statusGrace is added for the jitter of the network and of the sender's
	// timer: the fourth status is missed when it is this late.
	statusGrace = 100 * time.Millisecond

	// StaleAfter is the age at which a status no longer says that its agent is
	// alive.
	StaleAfter = missedStatuses*regions.StatusEvery + statusGrace

	// failedProbes in a row mean that the endpoint can't be connected to, if its
	// status is missing too. One alone is a lost SYN.
	failedProbes = 2

	// shunProbes in a row send clients elsewhere although the status is fresh: a
	// gateway that hangs beside a gossip that lives. At 10 % packet loss a probe
	// fails by chance with up to 19 % (the SYN or its answer is lost, and what is
	// sent again after a second may come too late): two in a row do so every 14 s,
	// eight once in three days.
	shunProbes = 8

	// returnProbes in a row bring a lost region back: one answer of a
	// restarting gateway is not yet a region.
	returnProbes = 2

	// fadedConfidence is the capacity share of a region for which only one of two
	// witnesses speaks: what it said last is likely, but may be full or going.
	fadedConfidence regions.Permille = 500
)

// Judge gives each region of the snapshot its verdict, in order of ID, by two
// independent witnesses: the age of its status and this director's own probe.
//
//	status   probe     verdict
//	fresh    answers   ready
//	fresh    fails     degraded, with half the confidence, after eight with none
//	missed   answers   ready, with half the confidence
//	missed   fails     lost
//
// A probe answers if it ever did and has not failed twice in a row since; beside
// a fresh status it need not have been tried. A region that drains or leaves is
// judged so for as long as either witness says that it is there. One that was
// lost stays lost until two probes in a row were answered.
func Judge(in Inputs, now time.Time) []Verdict {
	probes := make(map[regions.ID]Probe, len(in.Probes))
	for _, p := range in.Probes {
		probes[p.Region] = p
	}
	merged := in.Snapshot.Regions()
	out := make([]Verdict, 0, len(merged))
	for i := range merged {
		r := &merged[i]
		v := judgeRegion(r, probes[r.ID], now)
		old := in.Control.verdict(r.ID)
		if old != nil && untried(r, probes[r.ID], now) {
			v = *old
			v.Reason = "silent and not yet probed, held as it was"
		}
		if old != nil && old.State == Lost && v.State < Leaving && probes[r.ID].Answered < returnProbes {
			v = Verdict{Region: r.ID, State: Lost, Reason: "was lost, not yet answering steadily"}
		}
		out = append(out, v)
	}
	return out
}

// untried reports whether neither witness has said anything yet.
func untried(r *regions.Region, probe Probe, now time.Time) bool {
	return now.Sub(r.Heard) >= StaleAfter && !probe.Ever && probe.Failed < failedProbes
}

func judgeRegion(r *regions.Region, probe Probe, now time.Time) Verdict {
	fresh := now.Sub(r.Heard) < StaleAfter
	failed := probe.Failed >= failedProbes
	answers := probe.Ever && !failed
	v := Verdict{Region: r.ID, Confidence: regions.Whole}
	switch {
	case !fresh && !answers:
		v.State, v.Confidence = Lost, 0
		v.Reason = fmt.Sprintf("no status, endpoint failed %d probes in a row", probe.Failed)
		if probe.Failed == 0 {
			v.Reason = "no status, not yet probed"
		}
	case r.Draining:
		v.State, v.Reason = Draining, "an operator drains the region"
	case r.Stopping:
		v.State, v.Reason = Leaving, "its agents are ending"
	case fresh && !failed:
		v.State, v.Reason = Ready, "status fresh, endpoint answers"
	case fresh:
		v.State, v.Confidence = Degraded, fadedConfidence
		if probe.Failed >= shunProbes {
			v.Confidence = 0
		}
		v.Reason = fmt.Sprintf("status fresh, endpoint failed %d probes in a row", probe.Failed)
	default:
		v.State, v.Confidence = Ready, fadedConfidence
		v.Reason = "no status, endpoint answers"
	}
	return v
}

// JudgeRelayed is the judgement of who neither hears the regions directly nor
// probes them, as a gateway hears of other regions by push/pull: those heard of
// within the given time are ready with half the confidence, all others lost.
func JudgeRelayed(s regions.Snapshot, now time.Time, within time.Duration) []Verdict {
	var out []Verdict
	for _, r := range s.Regions() {
		v := Verdict{Region: r.ID, State: Lost, Reason: "not heard of lately"}
		switch {
		case now.Sub(r.Heard) >= within:
		case r.Draining:
			v.State, v.Reason = Draining, "an operator drains the region"
		case r.Stopping:
			v.State, v.Reason = Leaving, "its agents are ending"
		default:
			v.State, v.Confidence, v.Reason = Ready, fadedConfidence, "heard of by relay"
		}
		out = append(out, v)
	}
	return out
}
