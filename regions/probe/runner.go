package probe

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// jitter is the largest part of a wait by which a probe comes early. A tenth
// spreads the probes of pods that were set together over their whole interval
// within a few seconds; early, so that no promise of time is broken by it.
const jitter = 0.1

// Runner probes pods and keeps their states. Each pod and model is probed by a
// goroutine of its own, one probe at a time, so that a slow pod delays nobody.
type Runner struct {
	options Options
	prober  Prober
	metrics *metrics
	running chan struct{} // a token per probe in flight
	singing chan struct{} // and per canary
	added   chan struct{} // capacity 1: fresh is not empty

	mu      sync.Mutex // guards what follows; taken before a watch's
	watches map[key]*watch
	fresh   []*watch // not yet started
}

type key struct {
	pod   regions.PodID
	model regions.ModelName
}

// watch is one pod and model under watch.
type watch struct {
	key   key
	wake  chan struct{} // capacity 1: look at the state again
	ended chan struct{}

	mu    sync.Mutex // guards what follows, and orders calls of OnChange
	pod   regions.Pod
	state State
	seen  bool
	over  bool
}

// NewRunner makes a runner that asks pods through prober. It does nothing until
// [Runner.Run].
func NewRunner(o Options, prober Prober) *Runner {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnChange == nil {
		o.OnChange = func(regions.PodID, regions.ModelName, regions.PodState, regions.PodState, string) {}
	}
	if o.OnSuspect == nil {
		o.OnSuspect = func(regions.PodID, regions.ModelName, bool) {}
	}
	if o.Concurrency <= 0 {
		o.Concurrency = DefaultOptions().Concurrency
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultOptions().Timeout
	}
	if o.CanaryConcurrency <= 0 {
		o.CanaryConcurrency = DefaultOptions().CanaryConcurrency
	}
	if o.CanaryTimeout <= 0 {
		o.CanaryTimeout = DefaultOptions().CanaryTimeout
	}
	return &Runner{
		options: o, prober: prober, metrics: newMetrics(o.Registry),
		running: make(chan struct{}, o.Concurrency),
		singing: make(chan struct{}, o.CanaryConcurrency),
		added:   make(chan struct{}, 1),
		watches: map[key]*watch{},
	}
}

// Run probes the pods that are set until ctx is done and all probes have ended.
// It returns nil and can be called once.
func (r *Runner) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		r.mu.Lock()
		fresh := r.fresh
		r.fresh = nil
		r.mu.Unlock()
		for _, w := range fresh {
			all.Go(func() { r.watch(ctx, w) })
			if r.options.Canary != nil && r.options.Policy.Canary > 0 {
				all.Go(func() { r.canaries(ctx, w) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.added:
		}
	}
}

// SetPods replaces the set of pods. What is known of a pod is kept while its ID,
// HTTP address and model stay; a known ID at another address is another server,
// of which nothing is known. Give a set to whoever OnChange tells before giving
// it here.
func (r *Runner) SetPods(pods []regions.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := make(map[key]bool, len(r.watches))
	for _, pod := range pods {
		for _, m := range pod.Models {
			k := key{pod.ID, m.Name}
			wanted[k] = true
			if w := r.watches[k]; w != nil && w.keep(pod) {
				continue
			} else if w != nil {
				w.end()
			}
			w := &watch{key: k, pod: pod, wake: make(chan struct{}, 1), ended: make(chan struct{})}
			r.watches[k] = w
			r.fresh = append(r.fresh, w)
		}
	}
	for k, w := range r.watches {
		if !wanted[k] {
			w.end()
			delete(r.watches, k)
			r.metrics.forget(k.pod, k.model)
		}
	}
	notify(r.added)
}

// Observe takes in what a request saw of a pod: refused, closed or timed out
// while connecting, lost, or served. An answer with an error status is no sight
// of the pod's state, nor is a request that took too long. Pods that are not
// set are ignored.
func (r *Runner) Observe(obs regions.Observation) {
	r.mu.Lock()
	w := r.watches[key{obs.Pod, obs.Model}]
	r.mu.Unlock()
	if w == nil {
		return
	}
	r.take(w, obs)
	if obs.Sight != regions.SawServed { // most requests are, and it changes nothing
		notify(w.wake)
	}
}

// watch probes one pod and model whenever it is due.
func (r *Runner) watch(ctx context.Context, w *watch) {
	var probed time.Time
	early := 0.0
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
		pod, state := w.now()
		due := r.options.Policy.Due(state, probed)
		if !probed.IsZero() {
			due = due.Add(-time.Duration(early * float64(due.Sub(probed))))
		}
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-w.ended:
			return
		case r.running <- struct{}{}:
		}
		probed, early = time.Now(), rand.Float64()*jitter
		obs := r.probe(ctx, pod, w.key.model)
		<-r.running
		if ctx.Err() != nil {
			return // the sight is of our own end
		}
		r.take(w, obs)
		timer.Reset(0)
	}
}

// probe asks once.
func (r *Runner) probe(ctx context.Context, pod regions.Pod, model regions.ModelName) regions.Observation {
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	began := time.Now()
	obs := r.prober.Probe(ctx, pod, model)
	obs.Pod, obs.Model, obs.Took = pod.ID, model, time.Since(began)
	r.metrics.seconds.WithLabelValues(string(model)).Observe(obs.Took.Seconds())
	return obs
}

// take takes in what a probe or a request saw.
func (r *Runner) take(w *watch, obs regions.Observation) {
	r.step(w, obs, r.options.Policy.Step, r.metrics.saw)
}

// step steps a watch's state and tells of the change, if there is one.
func (r *Runner) step(w *watch, obs regions.Observation, by func(State, regions.Observation, time.Time) State, count func(regions.Observation)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	count(obs)
	if obs.Sight == 0 {
		r.options.Logger.Debug("a probe could not be made", "pod", w.key.pod, "model", w.key.model)
		return
	}
	old := w.state
	w.state = by(old, obs, time.Now())
	from, to, why := old.Pod(), w.state.Pod(), w.state.Why()
	if suspect := w.state.Suspect(); suspect != old.Suspect() {
		defer r.options.OnSuspect(w.key.pod, w.key.model, suspect) // behind OnChange: who is gone is not cleared before
	}
	first := !w.seen
	w.seen = true
	if from == to && !first {
		return
	}
	if from != to {
		r.metrics.changed(w.key.pod, w.key.model, to)
	}
	r.options.Logger.Info("pod state", "pod", w.key.pod, "model", w.key.model, "from", from, "to", to, "why", why)
	r.options.OnChange(w.key.pod, w.key.model, from, to, why)
}

// now is what the next probe needs.
func (w *watch) now() (regions.Pod, State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod, w.state
}

// keep takes over what discovery says anew of the same server, and reports
// whether it is the same.
func (w *watch) keep(pod regions.Pod) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pod.HTTP != pod.HTTP {
		return false
	}
	w.pod = pod
	return true
}

// end stops a watch: nothing more is told of it.
func (w *watch) end() {
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	close(w.ended)
}

// notify leaves a token in a channel of capacity 1.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
