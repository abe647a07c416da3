package pool

import (
	"fmt"
	"math/bits"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/outlier"
)

const (
	// tickEvery is how often what time brings is looked at: a slot that opens a
	// tenth of a second late is not missed.
	tickEvery = 100 * time.Millisecond

	// judgeEvery is how often the pods of a pool are compared. It takes 50 µs for a
	// hundred of them.
	judgeEvery = 500 * time.Millisecond

	// needed is how long every slot of a pool must have been taken for slow pods to
	// be better than none. A line that grows for half a minute waits longer than
	// people do for a slow pod's first byte; in a pool that is nine tenths loaded,
	// shorter ones come and go.
	needed = 30 * time.Second

	// promptSizes are the sizes of prompts, by powers of two, whose TTFT is kept
	// apart: 0 for those of which it is not known, the last for 4 MiB and more.
	promptSizes = 24

	// slowestPace bounds what one request counts as.
	slowestPace = 1000 * regions.Whole
)

// step takes in what happened to the seat.
func (s *seat) step(now time.Time, kind outlier.Kind, o *Options) {
	s.own = o.Outlier.Step(s.own, outlier.Event{Kind: kind, Slots: s.slots, Waited: s.record.Waited() > 0}, now)
}

// paceOf is a request's time to first byte in proportion to what the pool's pods
// took lately for a prompt of its size, which it then counts in.
func (m *model) paceOf(now time.Time, ttft regions.Micros, prompt int, o *Options) regions.Permille {
	of := &m.expected[min(bits.Len(uint(max(0, prompt))), promptSizes-1)]
	expected := of.Value()
	of.Add(now, ttft, o.HalfLife)
	if expected <= 0 {
		return regions.Whole
	}
	return regions.Permille(min(int64(ttft)*int64(regions.Whole)/int64(expected), int64(slowestPace)))
}

// tickLocked does what time alone brings.
func (p *Pool) tickLocked(now time.Time) {
	if now.Sub(p.ticked) < tickEvery {
		return
	}
	p.ticked = now
	p.forgetPeersLocked(now)
	judge := now.Sub(p.judged) >= judgeEvery
	if judge {
		p.judged = now
	}
	changed := false
	for _, m := range p.models {
		for _, s := range m.seats {
			old := s.state()
			s.step(now, outlier.Tick, &p.options)
			changed = changed || s.state() != old
		}
		changed = p.fillLocked(now, m) || changed
		if judge {
			p.compareLocked(now, m)
		}
	}
	if changed {
		p.notify()
	}
}

// fillLocked notes whether a model's pods are full, and takes back those that are
// out for being slow if they have been for too long. It reports whether it did.
func (p *Pool) fillLocked(now time.Time, m *model) bool {
	full := false
	for _, s := range m.seats {
		if open := s.open(); open > 0 {
			if _, room := s.candidate(now, open); room {
				m.full = time.Time{}
				return false
			}
			full = true
		}
	}
	if full && m.full.IsZero() {
		m.full = now
	}
	pardoned := false
	for _, s := range m.seats {
		if m.needsAll(now) && s.slow && s.state() == regions.PodEjected {
			s.step(now, outlier.Pardoned, &p.options)
			pardoned = true
		}
	}
	return pardoned
}

// needsAll reports whether the model's pods have been full for so long that slow
// ones are better than none.
func (m *model) needsAll(now time.Time) bool {
	return !m.full.IsZero() && now.Sub(m.full) >= needed
}

// compareLocked compares a model's pods with each other.
func (p *Pool) compareLocked(now time.Time, m *model) {
	p.paces, p.residences = p.paces[:0], p.residences[:0]
	for _, s := range m.seats {
		if pace, n := s.record.Pace(now); s.state().Takes() && n >= p.options.Outlier.Samples {
			p.paces = append(p.paces, pace)
		}
		if s.record.Residence.Samples(now, p.options.HalfLife) > 0 {
			p.residences = append(p.residences, s.record.Residence.Value())
		}
	}
	m.median, m.judged = outlier.Median(p.paces), len(p.paces)
	residence := outlier.Median(p.residences)
	for _, s := range m.seats {
		pace, n := s.record.Pace(now)
		s.pace = max(
			outlier.Pace(pace, n, m.median),
			outlier.ResidencePace(s.record.Residence.Value(), s.record.Residence.Samples(now, p.options.HalfLife), residence),
		)
	}
	for _, s := range m.seats {
		p.judgeLocked(now, s)
	}
}

// judgeLocked ejects a seat that should be, if it may be.
func (p *Pool) judgeLocked(now time.Time, s *seat) {
	if !s.state().Takes() {
		return
	}
	policy, m := &p.options.Outlier, s.model
	pace, n := s.record.Pace(now)
	var reason, why string
	switch {
	case policy.Errs(&s.own):
		reason = "errors"
	case !m.needsAll(now) && policy.Slow(&s.own, pace, n, m.median, m.judged, m.ttft.Value()):
		reason = "slow"
		why = fmt.Sprintf("its first bytes take %.1f times as long as the pool's", float64(pace)/float64(m.median))
	default:
		return
	}
	if taking, ejected := m.standing(); !outlier.MayEject(taking, ejected) {
		return
	}
	if reason == "errors" {
		why = "its requests failed, one after another"
	}
	s.step(now, outlier.Ejected, &p.options)
	s.record.Forget()
	s.why, s.slow, s.pace = why, reason == "slow", 0
	p.metrics.ejections.WithLabelValues(string(m.name), reason).Inc()
	p.notify()
}

// standing counts the pods of a model that take requests by all evidence, and
// those of them that are ejected by opinion.
func (m *model) standing() (taking, ejected int) {
	for _, s := range m.seats {
		if !s.listed || s.pod.spec.Terminating || !s.told.Takes() {
			continue
		}
		taking++
		if s.own.Pod() == regions.PodEjected {
			ejected++
		}
	}
	return taking, ejected
}

// pardonLocked takes back ejected pods, those that have been out for longest
// first, until no more than half are out, and reports whether it did.
func (p *Pool) pardonLocked(now time.Time, m *model) bool {
	pardoned := false
	for outlier.Excessive(m.standing()) {
		var first *seat
		for _, s := range m.seats {
			if s.state() == regions.PodEjected && s.told.Takes() && (first == nil || s.own.Until().Before(first.own.Until())) {
				first = s
			}
		}
		if first == nil {
			return pardoned
		}
		first.step(now, outlier.Pardoned, &p.options)
		pardoned = true
	}
	return pardoned
}
