package balance

import (
	"math"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/rhumb-lb/rhumb/regions"
)

// Hash sends requests of one key to one pod for as long as that pod has room:
// rendezvous hashing (Thaler and Ravishankar, 1998) weighed by slots, so that
// the loss of a pod moves its keys only, with bounded loads (Mirrokni, Thorup and
// Zadimoghaddam, 2016), so that a popular key can't drown its pod: beyond 1.25
// times the pods' mean load it overflows to its next choice.
type Hash struct {
	// Key is a hash of what of a request stays together. A request that has nothing
	// of the kind has no preference and goes where least is.
	Key func(regions.Request) (key uint64, has bool)
}

func clientKey(r regions.Request) (uint64, bool) {
	a := r.Client.As16() // of IPv4 as mapped into IPv6
	return xxhash.Sum64(a[:]), r.Client.IsValid()
}

func uriKey(r regions.Request) (uint64, bool) { return xxhash.Sum64String(r.URI), r.URI != "" }

func affinityKey(r regions.Request) (uint64, bool) {
	return xxhash.Sum64String(r.Affinity), r.Affinity != ""
}

// The bound on a pod's load: 5/4 of the mean. The paper's analysis has 1 + ε; a
// quarter keeps nine of ten keys at home and the fullest pod's queue short.
const boundNum, boundDen = 5, 4

// Select implements [Selector].
func (h Hash) Select(now time.Time, req regions.Request, among []Candidate) int {
	key, has := h.Key(req)
	if !has {
		return LeastConnections{}.Select(now, req, among)
	}
	inFlight, slots := int64(1), int64(0) // with this request
	for i := range among {
		inFlight += int64(among[i].ModelInFlight)
		slots += int64(among[i].ModelSlots)
	}
	best, top := -1, math.Inf(-1)
	for i := range among {
		c := &among[i]
		// in-flight + 1 <= ceil(bound × mean × slots), in integers.
		share := (inFlight*int64(c.ModelSlots)*boundNum + slots*boundDen - 1) / (slots * boundDen)
		if int64(c.ModelInFlight)+1 > share {
			continue
		}
		if s := score(key, c); s > top {
			best, top = i, s
		}
	}
	if best < 0 { // all at their bound by rounding
		return LeastConnections{}.Select(now, req, among)
	}
	return best
}

// score is a pod's draw for a key: -slots / ln(u) with u uniform in (0, 1), by
// which each pod wins in proportion to its slots (weighted rendezvous).
func score(key uint64, c *Candidate) float64 {
	var d xxhash.Digest
	d.ResetWithSeed(key)
	_, _ = d.WriteString(string(c.Pod)) // never fails
	u := (float64(d.Sum64()>>11) + 0.5) / (1 << 53)
	return -float64(c.ModelSlots) / math.Log(u)
}
