// Package pool holds a region's pods and gives them to requests. It knows which
// pods there are (discovery's word), which of them take requests (the probes'
// word) and what each has in flight (its own), and chooses by that under one
// lock: two models on one pod share a GPU, so that no part of the pool can be
// chosen from alone.
//
// Everything that depends on time takes it as an argument; there is no clock,
// no goroutine and no I/O here, so that a simulator drives the same code.
package pool

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/outlier"
)

// Pool is the pods of one region, as one agent uses them. It is safe for
// concurrent use.
type Pool struct {
	options Options
	metrics *metrics
	changed chan struct{} // capacity 1
	loaded  chan struct{} // capacity 1

	mu         sync.Mutex // guards all that follows, down to each pod and model
	pods       map[regions.PodID]*pod
	leaving    []*pod // not in the set any more, with requests that have not ended
	models     map[regions.ModelName]*model
	peers      []*peer
	claims     uint64
	leases     []Lease // not given out yet
	ticked     time.Time
	judged     time.Time
	rng        *rand.Rand
	found      []balance.Candidate // scratch of Claim
	seats      []*seat             // scratch of Claim, beside found
	paces      []regions.Permille  // scratch of compareLocked
	residences []regions.Micros    // likewise
}

// New makes a pool without pods.
func New(o Options) *Pool {
	if o.Selector == nil {
		o.Selector = func(regions.ModelName) balance.Selector { return balance.LeastConnections{} }
	}
	p := &Pool{
		options: o,
		metrics: newMetrics(o.Registry),
		changed: make(chan struct{}, 1),
		loaded:  make(chan struct{}, 1),
		pods:    map[regions.PodID]*pod{},
		models:  map[regions.ModelName]*model{},
		rng:     rand.New(rand.NewPCG(o.Seed, 0)),
	}
	for _, name := range o.Models {
		p.modelLocked(name)
	}
	return p
}

// Changed gives a token after a pod changed its state or its slots, entered the
// pool or left it, however many changes there were since the last token. It is
// for one receiver: who publishes the region's status.
func (p *Pool) Changed() <-chan struct{} { return p.changed }

// SetPods replaces the set of pods. A new pod takes no requests until
// [Pool.SetState] says so, and neither does one that is known by its ID but has
// another HTTP address: it is another server. A terminating pod takes no new
// requests; it, and one that is no longer in the set, drains until its leases
// end. A model that was ever in a set stays known, without pods if need be: its
// requests are for another region, not for nobody.
func (p *Pool) SetPods(now time.Time, pods []regions.Pod) {
	p.setPods(now, pods)
	p.freedAll()
}

func (p *Pool) setPods(now time.Time, pods []regions.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := false
	old := p.pods
	p.pods = make(map[regions.PodID]*pod, len(pods))
	for _, spec := range pods {
		if p.pods[spec.ID] != nil {
			continue // discovery refuses twins; the first is as good as the second
		}
		known := old[spec.ID]
		if known != nil && known.spec.HTTP == spec.HTTP {
			delete(old, spec.ID)
		} else {
			known = p.returnLocked(spec)
		}
		p.pods[spec.ID] = known
		changed = known.list(spec, &p.options, p.modelLocked) || changed
	}
	for _, gone := range old {
		gone.unlist()
		p.leaving = append(p.leaving, gone)
		changed = true
	}
	for _, current := range p.pods {
		current.sweep()
	}
	p.sweepLocked()
	for _, m := range p.models {
		changed = p.pardonLocked(now, m) || changed
	}
	if changed {
		p.notify()
	}
}

// returnLocked finds the server of spec among those that are leaving, so that
// its requests go on counting, or makes a new one.
func (p *Pool) returnLocked(spec regions.Pod) *pod {
	for i, left := range p.leaving {
		if left.spec.ID == spec.ID && left.spec.HTTP == spec.HTTP {
			p.leaving = append(p.leaving[:i], p.leaving[i+1:]...)
			return left
		}
	}
	return &pod{draw: p.rng.Uint32()}
}

// sweepLocked forgets pods that have left.
func (p *Pool) sweepLocked() {
	kept := p.leaving[:0]
	for _, left := range p.leaving {
		if left.sweep() {
			kept = append(kept, left)
		}
	}
	clear(p.leaving[len(kept):])
	p.leaving = kept
}

// modelLocked finds a model's pool, or makes it.
func (p *Pool) modelLocked(name regions.ModelName) *model {
	m := p.models[name]
	if m == nil {
		m = &model{name: name, selector: p.options.Selector(name)}
		p.models[name] = m
	}
	return m
}

// SetState takes in what the probes find of a pod for a model, and returns what
// it was until now. A pod or model that is not in the set is ignored and gone.
func (p *Pool) SetState(now time.Time, id regions.PodID, name regions.ModelName, st regions.PodState) (old regions.PodState) {
	old = p.setState(now, id, name, st)
	p.freed(name)
	return old
}

func (p *Pool) setState(now time.Time, id regions.PodID, name regions.ModelName, st regions.PodState) (old regions.PodState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.seatLocked(id, name)
	if s == nil {
		return regions.PodGone
	}
	old = s.state()
	s.told = st
	switch st {
	case regions.PodReady:
		s.step(now, outlier.Known, &p.options)
	case regions.PodWarming:
		s.step(now, outlier.Up, &p.options)
	default:
		s.step(now, outlier.Down, &p.options)
	}
	if p.pardonLocked(now, s.model) || s.state() != old {
		p.notify()
	}
	return old
}

// SetSuspect takes in that a pod is suspect for a model, or is no more: it may be lost,
// and is given requests only when no other pod has a free slot.
func (p *Pool) SetSuspect(id regions.PodID, name regions.ModelName, suspect bool) {
	p.mu.Lock()
	if s := p.seatLocked(id, name); s != nil {
		s.suspect = suspect
	}
	p.mu.Unlock()
	if !suspect {
		p.freed(name)
	}
}

// Tick does what time alone brings: warming pods open, ejected ones come back,
// silent agents are forgotten. Claims do that too, but while all requests wait
// there are none: call it about every 100 ms, and who waits is woken.
func (p *Pool) Tick(now time.Time) {
	p.mu.Lock()
	p.tickLocked(now)
	p.mu.Unlock()
	p.freedAll()
}

// freed tells that there may be room for a model. It must not be called under
// the lock.
func (p *Pool) freed(name regions.ModelName) {
	if p.options.OnFree != nil {
		p.options.OnFree(name)
	}
}

// freedAll tells that there may be room for any model.
func (p *Pool) freedAll() {
	if p.options.OnFree == nil {
		return
	}
	p.mu.Lock()
	names := slices.Collect(maps.Keys(p.models))
	p.mu.Unlock()
	slices.Sort(names) // so that a simulation is the same each time
	for _, name := range names {
		p.options.OnFree(name)
	}
}

// notify leaves a token for the receiver of Changed.
func (p *Pool) notify() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}
