package proxy

import (
	"errors"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admit"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// search is the search for a place for one attempt.
type search struct {
	x     *exchange
	begun time.Time
	found place
	err   error // why there will be none
	// full is whether the last try found pods, all of them busy.
	full bool
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
	err := x.proxy.admission.Enter(x.ctx, x.req, x.begun, s.try)
	var refused *admit.RefusedError
	switch {
	case err == nil:
		return s.found, s.err
	case errors.As(err, &refused):
		return place{}, &waitedError{refused, s.full, x.req.Model}
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
	s.full = refusal == pool.Full
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
		print: lease.Fingerprint(), done: lease.Done,
	}
	return refusal
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
