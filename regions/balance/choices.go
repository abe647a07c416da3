package balance

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// choices are the selectors by their names in the configuration.
var choices = []struct {
	name string
	make func(*rand.Rand) Selector
}{
	{"least-connections", func(*rand.Rand) Selector { return LeastConnections{} }},
	{"round-robin", func(*rand.Rand) Selector { return RoundRobin{} }},
	{"weighted", func(*rand.Rand) Selector { return NewWeighted() }},
	{"ip-hash", func(*rand.Rand) Selector { return Hash{Key: clientKey} }},
	{"uri-hash", func(*rand.Rand) Selector { return Hash{Key: uriKey} }},
	{"hash", func(*rand.Rand) Selector { return Hash{Key: affinityKey} }},
	{"peak-ewma", func(rng *rand.Rand) Selector { return NewPeakEWMA(rng) }},
	{"lanes", func(*rand.Rand) Selector { return NewLanes() }},
}

// Names are the ways to choose a pod, as in the configuration.
func Names() []string {
	var out []string
	for _, c := range choices {
		out = append(out, c.name)
	}
	return out
}

// ByName makes the selector of a name, for one pool; [Names] has them. What it
// does by chance it draws from rng.
func ByName(name string, rng *rand.Rand) (Selector, error) {
	for _, c := range choices {
		if c.name == name {
			return c.make(rng), nil
		}
	}
	return nil, fmt.Errorf("there is no way %q to choose a pod; there are %s", name, strings.Join(Names(), ", "))
}

// RoundRobin chooses the pod whose last turn is the longest ago, whatever its
// load. It is fair over sets that change: a new pod has its turn at once, and no
// pod has two before each other has one.
type RoundRobin struct{}

// Select implements [Selector].
func (RoundRobin) Select(_ time.Time, _ regions.Request, among []Candidate) int {
	best := 0
	for i := range among {
		if older(&among[i], &among[best]) {
			best = i
		}
	}
	return best
}

// Weighted gives each pod a share of the requests in proportion to its slots,
// spread evenly over time, whatever its load: each pod's credit grows by its slots
// at each choice, the pod with the most is chosen and pays what all were given.
// (This is the smooth weighted round-robin of nginx, by its commit 52327e0.)
type Weighted struct {
	credit map[regions.PodID]int64 // milli-slots; only of pods in the last set
	next   map[regions.PodID]int64
}

// NewWeighted makes a selector for one pool.
func NewWeighted() *Weighted {
	return &Weighted{credit: map[regions.PodID]int64{}, next: map[regions.PodID]int64{}}
}

// Select implements [Selector].
func (w *Weighted) Select(_ time.Time, _ regions.Request, among []Candidate) int {
	best, total := 0, int64(0)
	clear(w.next)
	for i := range among {
		c := &among[i]
		w.next[c.Pod] = w.credit[c.Pod] + int64(c.ModelSlots)
		total += int64(c.ModelSlots)
		if w.next[c.Pod] > w.next[among[best].Pod] {
			best = i
		}
	}
	w.next[among[best].Pod] -= total
	w.credit, w.next = w.next, w.credit
	return best
}
