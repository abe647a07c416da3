package probe

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// A canary is a generation of one token, made to see whether a pod generates at
// all: a Triton can answer that a model is ready while the process that computes
// is dead or stuck. It costs the pod a slot for a moment, so it is rare, and is
// left out while requests show the same.

// StepCanary is what is known of a pod and model after a canary, seen at now; the
// observation carries in Took how long ago the canary began.
//
//	sight               pod takes requests                    pod is out by its canaries
//	ready               doubts of canaries end                comes back like one that is ready again
//	any other           out at the second in a row            as it was
//
// A failed canary does not count if a request was served since it began: then the
// pod is busy, and the canary waited behind others. A pod that is out for another
// reason is sent none. Where the canary was refused a connection or found it
// closed, the next probe will too, and sooner than another canary.
func (p Policy) StepCanary(s State, obs regions.Observation, now time.Time) State {
	began := now.Add(-obs.Took)
	switch {
	case obs.Sight == regions.SawReady && s.barred:
		if began.Before(s.failed) {
			return s // of the process before, perhaps
		}
		s.barred = false
		return p.ready(s, began, now)
	case obs.Sight == regions.SawReady:
		s.canaries = 0
		return s
	case obs.Sight == 0, !s.pod.Takes(), s.served.After(began):
		return s
	}
	s.canaries++
	if s.canaries < max(1, p.Canaries) {
		return s
	}
	s = p.leave(s, regions.PodGone, "its canary failed repeatedly ("+obs.Sight.String()+"): it says that it is ready, and does not generate", now)
	s.barred = true
	return s
}

// DueCanary is when the next canary should begin, given when the newest one did,
// zero for none; false if none is wanted. A pod whose canary failed, or that is out
// by it, is asked again as soon as a pod that is out is probed at the latest: the
// doubt is settled quickly, and a pod that takes no requests has the slot to spare.
func (p Policy) DueCanary(s State, asked time.Time) (time.Time, bool) {
	switch {
	case p.Canary <= 0, !s.pod.Takes() && !s.barred:
		return time.Time{}, false
	case s.barred, s.canaries > 0:
		return asked.Add(min(p.EveryOut, p.Canary)), true
	}
	last := s.since
	for _, t := range []time.Time{asked, s.served} {
		if t.After(last) {
			last = t
		}
	}
	return last.Add(p.Canary), true
}

// canaryLook is how often it is looked whether a canary is due, which also depends
// on what is seen meanwhile: a tenth of the shortest interval that is allowed.
const canaryLook = time.Second

// canaries makes them on one pod and model. They have goroutines and tokens of
// their own, since one that hangs for long must not delay a probe.
func (r *Runner) canaries(ctx context.Context, w *watch) {
	var asked time.Time
	early := rand.Float64() // the first ones are spread over the whole interval
	tick := time.NewTicker(canaryLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.ended:
			return
		case <-tick.C:
		}
		pod, state := w.now()
		due, wanted := r.options.Policy.DueCanary(state, asked)
		if !wanted || time.Until(due) > time.Duration(early*float64(r.options.Policy.Canary)) {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-w.ended:
			return
		case r.singing <- struct{}{}:
		}
		asked, early = time.Now(), rand.Float64()*jitter
		obs := r.canary(ctx, pod, w.key.model)
		<-r.singing
		if ctx.Err() != nil {
			return // the sight is of our own end
		}
		r.step(w, obs, r.options.Policy.StepCanary, r.metrics.sang)
	}
}

// canary asks once.
func (r *Runner) canary(ctx context.Context, pod regions.Pod, model regions.ModelName) regions.Observation {
	ctx, cancel := context.WithTimeout(ctx, r.options.CanaryTimeout)
	defer cancel()
	began := time.Now()
	obs := r.options.Canary.Probe(ctx, pod, model)
	obs.Pod, obs.Model, obs.Took = pod.ID, model, time.Since(began)
	return obs
}
