package proxy

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admit"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// Spiller gives out other regions for requests that no pod here can take.
type Spiller interface {
	// Spill chooses a region for the request, or reports that there is none. With must
	// there is no pod here at all, so that a region that has enough from here already
	// is better than none. It is called again for one request when a region that it
	// gave was lost or had no room; by then it has heard so from that region's Done.
	Spill(now time.Time, req regions.Request, must bool) (SpillLease, bool)
	// Knows reports that some region has the model, whether or not one can take a
	// request now: then the model is unavailable, not unknown.
	Knows(model regions.ModelName) bool
	// HasPeer reports that there is another region of that name.
	HasPeer(region regions.ID) bool
}

// SpillLease is a place in another region that a request holds.
type SpillLease interface {
	// Region and Endpoint say where.
	Region() regions.ID
	Endpoint() regions.Endpoint
	// Done ends the lease; it is called exactly once. An end of
	// [regions.EndNotStarted] says that the region had no room.
	Done(now time.Time, out regions.Outcome)
}

// spillTries is how many regions are asked for one request: the row's best, and one
// that may know better than the row. Each costs a round trip before the request waits
// at home again.
const spillTries = 2

// place is where an attempt goes: a pod of this region or another region.
type place struct {
	scheme, host string
	pod          regions.PodID // empty for a region
	region       regions.ID    // empty for a pod
	// print tells which load of the model is there, as far as is known; nil for a region.
	print func() regions.Fingerprint
	// began tells of the first byte of an answer; nil for a region.
	began func(now time.Time, ttft time.Duration, prompt int)
	done  func(now time.Time, out regions.Outcome)
	// more takes one more slot of the pod, and less gives one back; nil for a region.
	more func(now time.Time) bool
	less func()
	// blame says that an error was the pod's doing; nil for a region.
	blame func(now time.Time)
}

// name is the place's name in logs and errors.
func (p place) name() string {
	if p.pod != "" {
		return "pod " + string(p.pod)
	}
	return "region " + string(p.region)
}

// search is the search for a place for one attempt.
type search struct {
	x     *exchange
	begun time.Time
	found place
	err   error // why there will be none
	// tried is whether there was a try, and none whether the last one found no pod, rather
	// than busy ones.
	tried, none bool
}

// choose finds a pod, or failing that a place in another region, waiting for one in
// the line if need be.
func (x *exchange) choose() (place, error) {
	s := &search{x: x, begun: x.proxy.opts.Now()}
	if x.req.Aside {
		s.try(s.begun, admit.Line{})
		if s.found.done == nil && s.err == nil {
			s.err = s.refused(pool.NoPod)
		}
		return s.found, s.err
	}
	err := x.proxy.admission.Enter(x.in.Context(), x.req, x.begun, s.try)
	var refused *admit.RefusedError
	switch {
	case err == nil:
		return s.found, s.err
	case errors.As(err, &refused):
		if !s.tried { // the line was too long to begin with
			s.none = !x.proxy.opts.Pool.Takes(x.req.Model)
		}
		return place{}, &waitedError{refused, s.none, x.req.Model}
	default:
		return place{}, x.cause()
	}
}

// try is one try for a place.
func (s *search) try(now time.Time, line admit.Line) admit.Verdict {
	x := s.x
	refusal := s.claim(now)
	if refusal == pool.Claimed {
		return admit.Done
	}
	if refusal != pool.UnknownModel {
		x.know()
	}
	s.tried, s.none = true, refusal != pool.Full
	switch {
	case x.req.From != "":
		// The region that sent it has the line, and other regions to ask.
		s.err = s.refused(refusal)
		return admit.Done
	case x.spillable(refusal, line, now) && s.spill(now, refusal != pool.Full):
		return admit.Done
	case refusal == pool.UnknownModel && (x.proxy.opts.Spill == nil || !x.proxy.opts.Spill.Knows(x.req.Model)):
		s.err = s.refused(refusal)
		return admit.Done
	case refusal == pool.Full && len(x.req.Tried) == 0 && x.req.Frontend == regions.HTTP:
		return admit.Wait
	default:
		return admit.Pass
	}
}

// forgiveAfter is when pods that failed a request are tried again, if there are no
// others: a pod that was restarted is up by then, or never.
const forgiveAfter = time.Second

// claim asks the pool.
func (s *search) claim(now time.Time) pool.Refusal {
	x := s.x
	lease, refusal := x.proxy.opts.Pool.Claim(now, x.req)
	if refusal == pool.AllTried && x.again != "" {
		// No other pod, and this one was lost on a connection that it may have
		// closed for age just then. A fresh one tells.
		x.req.Tried = slices.DeleteFunc(slices.Clone(x.req.Tried), func(id regions.PodID) bool { return id == x.again })
		x.again = ""
		lease, refusal = x.proxy.opts.Pool.Claim(now, x.req)
	}
	if refusal == pool.AllTried && now.Sub(s.begun) >= forgiveAfter {
		x.req.Tried = nil
	}
	if refusal != pool.Claimed {
		return refusal
	}
	x.know()
	pod := lease.Pod()
	s.found = place{
		scheme: "http", host: pod.At(x.req.Frontend).String(), pod: pod.ID,
		print: lease.Fingerprint, began: lease.Began, done: lease.Done,
		more: lease.More, less: lease.Less, blame: lease.Blame,
	}
	return refusal
}

// another finds a pod at once that has not failed the request yet, for its next attempt.
func (x *exchange) another(failed regions.PodID) (place, bool) {
	tried := x.req.Tried
	x.req.Tried = append(slices.Clip(tried), failed)
	s := &search{x: x, begun: x.proxy.opts.Now()}
	if s.claim(s.begun) != pool.Claimed {
		x.req.Tried = tried
		return place{}, false
	}
	return s.found, true
}

// spillable reports that the request may go to another region: one hop at most, if no
// pod here takes it, or if the line is too long and the region is not itself the
// place where others go.
func (x *exchange) spillable(refusal pool.Refusal, line admit.Line, now time.Time) bool {
	if x.proxy.opts.Spill == nil || x.spills >= spillTries || x.req.Same != (regions.Fingerprint{}) {
		return false
	}
	return refusal != pool.Full || line.Overflow && !x.proxy.guests.hosts(x.req.Model, now)
}

// spill finds a place in another region.
func (s *search) spill(now time.Time, must bool) bool {
	x := s.x
	lease, ok := x.proxy.opts.Spill.Spill(now, x.req, must)
	if !ok {
		return false
	}
	x.know()
	x.spills++
	x.proxy.metrics.spilled.WithLabelValues(string(x.req.Model), "out").Inc()
	to := lease.Endpoint()
	s.found = place{scheme: to.Scheme, host: to.HostPort(), region: lease.Region(), done: lease.Done}
	return true
}

// refused is the error of a request that gets no place.
func (s *search) refused(why pool.Refusal) error {
	x := s.x
	if why == pool.UnknownModel && x.proxy.opts.Spill != nil && x.proxy.opts.Spill.Knows(x.req.Model) {
		why = pool.NoPod
	}
	return &refusedError{why, x.req.Model, x.req.From != ""}
}

// know marks the model as one that may be a metric's label.
func (x *exchange) know() {
	if x.known {
		return
	}
	x.known = true
	x.proxy.retries.begin(x.req.Model, x.begun)
	if x.req.From != "" {
		x.proxy.metrics.spilled.WithLabelValues(string(x.req.Model), "in").Inc()
	}
}

// hostFor is how long a region that took in another's request does not send its own
// on for being busy: the time in which the directors' rows follow. Two regions that
// each send the other what they could do themselves do the same work later.
const hostFor = 5 * time.Second

// guests are the requests that other regions' gateways have sent here.
type guests struct {
	mu   sync.Mutex
	n    map[regions.ModelName]int       // above zero; guarded by mu
	last map[regions.ModelName]time.Time // when the newest came or went; guarded by mu
}

func (g *guests) add(m regions.ModelName, by int, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n == nil {
		g.n, g.last = map[regions.ModelName]int{}, map[regions.ModelName]time.Time{}
	}
	g.last[m] = now
	if g.n[m] += by; g.n[m] == 0 {
		delete(g.n, m)
	}
}

// hosts reports that the region takes in requests for a model at the moment.
func (g *guests) hosts(m regions.ModelName, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	last, ok := g.last[m]
	return g.n[m] > 0 || ok && now.Sub(last) < hostFor
}

// SpilledIn are the requests from other regions' gateways that hold a pod here,
// by model.
func (p *Proxy) SpilledIn() map[regions.ModelName]int {
	p.guests.mu.Lock()
	defer p.guests.mu.Unlock()
	return maps.Clone(p.guests.n)
}
