package signals

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/slots"
	"github.com/rhumb-lb/rhumb/regions/triton"
)

// watch is one pod and what is known of it.
type watch struct {
	wake  chan struct{} // capacity 1: a fingerprint is due
	ended chan struct{}

	mu      sync.Mutex // guards what follows, and orders calls of OnFacts
	pod     regions.Pod
	page    triton.Metrics
	at      time.Time // of the page; zero before the first
	tried   time.Time // the newest reading, good or not
	failing bool
	models  map[regions.ModelName]*model
	over    bool
}

// model is what is known of one model on a pod.
type model struct {
	slots    slots.State
	reported int // by the pod, 0 if it does not
	taking   bool
	print    regions.Fingerprint
	last     regions.Fingerprint // before it stopped to take requests
	marked   time.Time           // when the fingerprint was asked for; zero to ask at once
	unmarked int                 // how often in a row it could not be had, at most 10
	full     regions.Permille    // of the KV cache, by the newest load report
	heard    time.Time           // of that report; zero if there was none
	told     time.Time
	queues   bool           // it has had requests in Triton's own queue
	wait     regions.Micros // there, between the two newest pages; -1 if not known
}

// mostReported is far above what any server batches; more is nonsense, and not to
// be believed of a pod.
const mostReported = 1 << 16

func newWatch(pod regions.Pod, assumed int) *watch {
	w := &watch{wake: make(chan struct{}, 1), ended: make(chan struct{}), models: map[regions.ModelName]*model{}}
	w.takeLocked(pod, assumed)
	return w
}

// keep takes over what discovery says anew of the same server, and reports whether
// it is the same.
func (w *watch) keep(pod regions.Pod, assumed int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pod.HTTP != pod.HTTP {
		return false
	}
	if w.pod.Metrics != pod.Metrics {
		w.page, w.at, w.tried, w.failing = triton.Metrics{}, time.Time{}, time.Time{}, false
		for _, m := range w.models {
			m.reported, m.queues, m.wait = 0, false, -1
		}
	}
	w.takeLocked(pod, assumed)
	return true
}

// takeLocked takes over what discovery says. Where it does not say how many slots a
// model has, they are as many as assumed.
func (w *watch) takeLocked(pod regions.Pod, assumed int) {
	w.pod = pod
	next := make(map[regions.ModelName]*model, len(pod.Models))
	for _, spec := range pod.Models {
		prior := slots.Prior{Slots: spec.Slots}
		if spec.Slots <= 0 {
			prior = slots.Prior{Slots: assumed, Assumed: true}
		}
		m := w.models[spec.Name]
		if m == nil {
			m = &model{wait: -1}
		}
		if m.slots.Prior() != prior {
			m.slots = slots.Start(prior)
		}
		next[spec.Name] = m
	}
	w.models = next
}

// end stops a watch: nothing more is told of it.
func (w *watch) end() {
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	close(w.ended)
}

func (m *model) observe(now time.Time, inFlight, ahead int, out regions.Outcome) {
	m.slots = slots.DefaultPolicy().Step(m.slots, slots.Observation{InFlight: inFlight, Ahead: ahead, Outcome: out}, now)
}

// scrape reads the pod's metrics, if it has any and they are due.
func (s *Signals) scrape(ctx context.Context, w *watch) {
	w.mu.Lock()
	pod, tried, failing, said := w.pod, w.tried, w.failing, w.saysBusyLocked()
	w.mu.Unlock()
	now := s.options.Now()
	switch {
	case pod.Metrics == (netip.AddrPort{}):
		return
	case tried.IsZero():
	case now.Sub(tried) < s.options.Busy*8/10: // woken for something else
		return
	case now.Sub(tried) < s.options.Idle*9/10 && (failing || !said && !s.busy(pod.ID)):
		return
	}
	within, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	page, err := s.asker.Metrics(within, pod.Metrics)
	if ctx.Err() != nil {
		return // the agent ends
	}
	s.took(w, pod.Metrics, page, err, now)
}

// took takes in a reading of an address that began at now.
func (s *Signals) took(w *watch, at netip.AddrPort, page triton.Metrics, err error, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.pod.Metrics != at {
		return
	}
	was := w.failing
	w.failing, w.tried = err != nil, now
	switch {
	case w.failing:
		s.metrics.failed.Inc()
		if !was {
			s.options.Logger.Warn("pod's metrics can't be read", "pod", w.pod.ID, "error", err)
		}
		return
	case was:
		s.options.Logger.Info("pod's metrics can be read again", "pod", w.pod.ID)
	}
	before, again := w.page, !w.at.IsZero()
	w.page, w.at = page, now
	for name, m := range w.models {
		on := w.saidLocked(name)
		m.queues = m.queues || on.Pending > 0
		if on.Batch != nil && on.Batch.Max > 0 {
			m.reported = int(min(on.Batch.Max, mostReported))
		}
		if wait, known := on.Wait(before.Models[name]); known && again {
			m.wait = wait
		}
		s.tellLocked(w, name, m, now)
	}
}

// mark asks which load of each model the pod has, where that is due.
func (s *Signals) mark(ctx context.Context, w *watch) {
	now := s.options.Now()
	w.mu.Lock()
	at, id := w.pod.HTTP, w.pod.ID
	var due []regions.ModelName
	for name, m := range w.models {
		if m.taking && (m.marked.IsZero() || now.Sub(m.marked) >= s.options.Renew) {
			m.marked = now
			due = append(due, name)
		}
	}
	w.mu.Unlock()
	for _, name := range due {
		within, cancel := context.WithTimeout(ctx, s.options.Timeout)
		got, err := s.asker.Fingerprint(within, at, name)
		cancel()
		if ctx.Err() != nil {
			return
		}
		s.tookMark(w, id, name, got, err, now)
	}
}

// askAgain is how soon a pod is asked again that did not answer which load of a model it
// has, the first time; each further time it takes twice as long. Without it the pod's
// streams are not resumed.
const askAgain = time.Second

// tookMark takes in a fingerprint. Another load of a model has slots of its own.
func (s *Signals) tookMark(w *watch, id regions.PodID, name regions.ModelName, got regions.Fingerprint, err error, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.models[name]
	if w.over || m == nil {
		return
	}
	if !m.marked.Equal(now) {
		return // it has stopped to take requests since it was asked
	}
	if err != nil {
		if m.unmarked == 0 {
			s.options.Logger.Warn("it is not known which load of a model a pod has", "pod", id, "model", name, "error", err)
		}
		m.marked = now.Add(min(askAgain<<m.unmarked, s.options.Renew) - s.options.Renew)
		m.unmarked = min(m.unmarked+1, 10)
		return
	}
	if m.unmarked = 0; got != m.print {
		if m.print != (regions.Fingerprint{}) {
			m.last = m.print
		}
		if m.last != (regions.Fingerprint{}) && m.last != got {
			s.options.Logger.Info("a pod has another load of a model", "pod", id, "model", name, "from", m.last, "to", got)
			m.slots, m.reported = slots.Start(m.slots.Prior()), 0
		}
		m.print = got
		s.tellLocked(w, name, m, now)
	}
}
