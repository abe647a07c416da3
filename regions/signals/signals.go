// Package signals keeps what is known of pods beyond whether they serve: what
// their metrics pages and the load reports beside their answers say, which load of
// a model they have, and how many sequences they run at once. All of it is a hint
// for balancing, for people and for autoscalers; none of it is health.
package signals

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/triton"
)

const (
	// jitter is the largest part of a wait by which a reading comes early, so that
	// pods which were set together are not read together.
	jitter = 0.1

	// countsFor is how long the counts of requests in flight are used: they only
	// tell busy pods from idle ones, and to count takes the pool's lock.
	countsFor = 500 * time.Millisecond

	// reportsApart is the least time between two tellings of load reports of one pod
	// and model. A pod that answers a thousand requests a second sends as many.
	reportsApart = 100 * time.Millisecond
)

// Signals reads pods and keeps what they said. Each pod is read by a goroutine of
// its own, so that one that hangs delays nobody.
type Signals struct {
	options Options
	asker   Asker
	metrics *metrics
	reading chan struct{} // a token per reading under way
	added   chan struct{} // capacity 1: fresh is not empty

	mu      sync.Mutex // guards what follows; taken before a watch's
	watches map[regions.PodID]*watch
	fresh   []*watch // not yet started

	countMu sync.Mutex
	counts  map[regions.PodID]int // guarded by countMu
	counted time.Time             // guarded by countMu
}

// New makes one that asks pods through asker. It does nothing until
// [Signals.Run].
func New(o Options, asker Asker) *Signals {
	o.complete()
	s := &Signals{
		options: o, asker: asker, reading: make(chan struct{}, o.Concurrency), added: make(chan struct{}, 1),
		watches: map[regions.PodID]*watch{},
	}
	s.metrics = newMetrics(s)
	if o.Registry != nil {
		o.Registry.MustRegister(s.metrics)
	}
	return s
}

// Run reads the pods that are set until ctx is done and all readings have ended.
// It returns nil and can be called once.
func (s *Signals) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		s.mu.Lock()
		fresh := s.fresh
		s.fresh = nil
		s.mu.Unlock()
		for _, w := range fresh {
			all.Go(func() { s.watch(ctx, w) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.added:
		}
	}
}

// SetPods replaces the set of pods. What is known of a pod is kept while its ID
// and HTTP address stay, and what its metrics said while that address stays too; a
// known ID at another address is another server, of which nothing is known. Give a
// set here before those who call [Signals.Changed] have it.
func (s *Signals) SetPods(pods []regions.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[regions.PodID]*watch, len(pods))
	for _, pod := range pods {
		if next[pod.ID] != nil {
			continue // discovery refuses twins; the first is as good as the second
		}
		w := s.watches[pod.ID]
		if w == nil || !w.keep(pod, s.options.Slots) {
			w = newWatch(pod, s.options.Slots)
			s.fresh = append(s.fresh, w)
		}
		next[pod.ID] = w
	}
	for id, old := range s.watches {
		if next[id] != old {
			old.end()
		}
	}
	s.watches = next
	wake(s.added)
}

// Changed takes in a pod's state for a model: one that begins to take requests is
// asked which load of the model it has. That of before is forgotten at once when it
// stops, since it may come back with another.
func (s *Signals) Changed(pod regions.PodID, model regions.ModelName, to regions.PodState) {
	w := s.find(pod)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.models[model]
	if m == nil {
		return
	}
	takes := to.Takes()
	if takes == m.taking {
		return
	}
	m.taking, m.marked = takes, time.Time{}
	switch {
	case takes:
		wake(w.wake)
	case m.print != (regions.Fingerprint{}):
		m.last, m.print = m.print, regions.Fingerprint{}
		s.tellLocked(w, model, m, s.options.Now())
	}
}

// Heard takes in a load report that came beside an answer of a pod; see
// [triton.ParseLoad]. One that can't be read is counted, and changes nothing.
func (s *Signals) Heard(pod regions.PodID, model regions.ModelName, header string, now time.Time) {
	w := s.find(pod)
	if w == nil {
		return
	}
	load, err := triton.ParseLoad(header)
	if err != nil {
		s.metrics.unread.Inc()
		s.options.Logger.Debug("a pod's load report can't be read", "pod", pod, "model", model, "error", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.models[model]
	if w.over || m == nil || load.KV < 0 {
		return
	}
	m.full, m.heard = load.KV, now
	if now.Sub(m.told) >= reportsApart {
		s.tellLocked(w, model, m, now)
	}
}

// Observe takes in how a request on a pod ended: inFlight is how many requests of
// the model were on the pod when it was claimed, this one included, and ahead how
// many more wanted a slot, at the gateway or inside of the pod beyond its slots.
// Pods that are not set are ignored. It must not be called with a lock that
// OnFacts takes.
func (s *Signals) Observe(now time.Time, pod regions.PodID, model regions.ModelName, inFlight, ahead int, out regions.Outcome) {
	w := s.find(pod)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.models[model]
	if w.over || m == nil || m.reported > 0 || !s.options.Learn {
		return
	}
	before := m.slots.Slots()
	m.observe(now, inFlight, ahead, out)
	if after := m.slots.Slots(); after != before {
		s.options.Logger.Debug("slots learnt", "pod", pod, "model", model, "from", before, "to", after)
		s.tellLocked(w, model, m, now)
	}
}

func (s *Signals) find(pod regions.PodID) *watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches[pod]
}

// tellLocked tells what is known of a model on a pod. The watch is locked.
func (s *Signals) tellLocked(w *watch, name regions.ModelName, m *model, now time.Time) {
	m.told = now
	s.options.OnFacts(w.pod.ID, name, w.factsLocked(name, m))
}

// busy reports whether a pod has requests, of this agent or, by its own word, of
// others.
func (s *Signals) busy(id regions.PodID) bool {
	if s.options.InFlight == nil {
		return true
	}
	s.countMu.Lock()
	defer s.countMu.Unlock()
	if now := s.options.Now(); s.counts == nil || now.Sub(s.counted) >= countsFor {
		s.counts, s.counted = s.options.InFlight(), now
	}
	return s.counts[id] > 0
}

// watch reads one pod whenever it is due.
func (s *Signals) watch(ctx context.Context, w *watch) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.ended:
			return
		case <-w.wake:
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-w.ended:
			return
		case s.reading <- struct{}{}:
		}
		s.scrape(ctx, w)
		s.mark(ctx, w)
		<-s.reading
		if ctx.Err() != nil {
			return
		}
		timer.Reset(s.options.Busy - time.Duration(rand.Float64()*jitter*float64(s.options.Busy)))
	}
}

// wake leaves one wake-up, if none waits.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
