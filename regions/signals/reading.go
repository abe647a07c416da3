package signals

import (
	"cmp"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/triton"
)

// stale is the age at which a page no longer says how a pod does: two readings of
// an idle pod may fail, the third is due. Its weight has fallen to an eighth.
const stale = 15 * time.Second

// Reading is what is known of one pod and model, for people to read.
type Reading struct {
	Facts regions.Facts
	// Age is how old the pod's newest metrics page is; -1 if it has none.
	Age time.Duration
	// Slots is how many sequences the pod runs at a time, as far as anybody knows, and
	// Learned what was learnt of that, 0 if nothing was. Beside a configured number it
	// tells whether that is about right: at most half and twice as many are learnt.
	Slots, Learned int
	// Full is how full its KV cache is; -1 if not known.
	Full regions.Permille
	// Pending are the requests in Triton's own queue, and Wait how long those
	// had been there that were served between the two newest pages. Both are -1 if
	// not known.
	Pending int64
	Wait    regions.Micros
}

// SlotsSource is where the number of slots comes from, in words.
func (r *Reading) SlotsSource() string {
	if r.Facts.Source == 0 {
		return "assumed"
	}
	return r.Facts.Source.String()
}

// Reading is what is known of a pod and model; false if the set does not have it.
func (s *Signals) Reading(pod regions.PodID, model regions.ModelName) (Reading, bool) {
	w := s.find(pod)
	if w == nil {
		return Reading{}, false
	}
	now := s.options.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.models[model]
	if m == nil {
		return Reading{}, false
	}
	return w.readingLocked(model, m, now), true
}

func (w *watch) readingLocked(name regions.ModelName, m *model, now time.Time) Reading {
	r := Reading{Facts: w.factsLocked(name, m), Age: -1, Slots: m.slots.Slots(), Full: -1, Pending: -1, Wait: -1}
	if m.slots.Learned() {
		r.Learned = m.slots.Slots()
	}
	if r.Facts.Slots > 0 {
		r.Slots = r.Facts.Slots
	}
	full, at := w.fullLocked(name, m)
	if now.Sub(at) <= stale {
		r.Full = full
	}
	if w.at.IsZero() {
		return r
	}
	r.Age = max(0, now.Sub(w.at))
	if r.Age <= stale {
		r.Pending, r.Wait = w.saidLocked(name).Pending, m.wait
	}
	return r
}

// factsLocked is what is known of a model on the pod. A pod's own word on its slots
// goes first: it is what it does, whatever was configured. An operator's goes before
// what was learnt.
func (w *watch) factsLocked(name regions.ModelName, m *model) regions.Facts {
	f := regions.Facts{Fingerprint: m.print, Waiting: -1, Active: -1, At: w.at}
	if m.heard.After(w.at) {
		f.At = m.heard
	}
	switch prior := m.slots.Prior(); {
	case m.reported > 0:
		f.Slots, f.Source = m.reported, regions.SlotsReported
	case !prior.Assumed:
		f.Slots, f.Source = prior.Slots, regions.SlotsConfigured
	case m.slots.Learned():
		f.Slots, f.Source = m.slots.Slots(), regions.SlotsLearned
	}
	// What is told together is about of one time: of two sources the one that has
	// fallen silent is left out.
	if full, at := w.fullLocked(name, m); full > 0 && f.At.Sub(at) <= stale {
		f.KV = full
	}
	if w.at.IsZero() || f.At.Sub(w.at) > stale {
		return f
	}
	said := w.saidLocked(name)
	if b := said.Batch; b != nil {
		f.Waiting, f.Active = int(min(b.Waiting, mostReported)), int(min(b.Active, mostReported))
	}
	// Without a gauge of the backend Triton's own queue is all there is to know, and
	// that it is empty means something only of a model that uses it.
	if m.queues {
		f.Waiting = max(f.Waiting, int(min(said.Pending, mostReported)))
	}
	return f
}

// fullLocked is how full the model's KV cache is by the newest word on it, and when
// that was said; -1 if it never was.
func (w *watch) fullLocked(name regions.ModelName, m *model) (regions.Permille, time.Time) {
	if full, known := w.saidLocked(name).KV.Full(); known && !w.at.Before(m.heard) {
		return full, w.at
	}
	if m.heard.IsZero() {
		return -1, time.Time{}
	}
	return m.full, m.heard
}

// saidLocked is what the newest page says of a model. Clients ask for an ensemble
// by its own name, while the backend reports as the model that does the work: on a
// pod that serves one model, the only engine of the page is that model's.
func (w *watch) saidLocked(name regions.ModelName) triton.ModelMetrics {
	on, met := w.page.Models[name]
	if !met {
		on.Pending = -1
	}
	if on.Batch != nil || on.KV != nil || len(w.models) != 1 {
		return on
	}
	var engine *triton.ModelMetrics
	for _, m := range w.page.Models {
		if m.Batch == nil && m.KV == nil {
			continue
		}
		if engine != nil {
			return on // which of them is not known
		}
		engine = &m
	}
	if engine != nil {
		on.Batch, on.KV = engine.Batch, engine.KV
	}
	return on
}

// saysBusyLocked reports whether the pod itself says that it has requests.
func (w *watch) saysBusyLocked() bool {
	for _, m := range w.page.Models {
		if m.Pending > 0 || m.Batch != nil && m.Batch.Active > 0 {
			return true
		}
	}
	return false
}

// state is a pod as its metrics show it.
type state struct {
	pod      regions.PodID
	age      time.Duration // of its page; -1 if there is none
	page     triton.Metrics
	readings map[regions.ModelName]Reading
}

// states are those of the pods that are set, sorted by ID.
func (s *Signals) states() []state {
	now := s.options.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]state, 0, len(s.watches))
	for id, w := range s.watches {
		w.mu.Lock()
		x := state{pod: id, age: -1, readings: make(map[regions.ModelName]Reading, len(w.models))}
		if !w.at.IsZero() {
			x.age, x.page = max(0, now.Sub(w.at)), w.page
		}
		for name, m := range w.models {
			x.readings[name] = w.readingLocked(name, m, now)
		}
		w.mu.Unlock()
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b state) int { return cmp.Compare(a.pod, b.pod) })
	return out
}
