package proxy

import (
	"net/http"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// exchange is one client's request from its arrival to its end, over one or
// more attempts. It is the reverse proxy's transport for this one request.
type exchange struct {
	proxy  *Proxy
	limits Limits // as they were when the request came
	in     *http.Request
	w      *clientWriter
	req    regions.Request
	body   *payload
	begun  time.Time // the request was read

	spilledIn bool          // says that it came from another region's gateway
	guest     bool          // and there is such a region
	known     bool          // the model is known here or there
	replays   int           // attempts lost after something was written
	misses    int           // attempts lost before
	again     regions.PodID // lost on a kept connection: perhaps only the connection was
	current   *attempt
	end       regions.End
}

// RoundTrip makes attempts until one has the head of an answer or no further
// one is sound.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	for {
		to, err := x.choose()
		if err != nil {
			return nil, err
		}
		a := newAttempt(x, to)
		x.current = a
		res, err := a.send(out)
		if err == nil {
			return res, nil
		}
		end, err := a.failed(err)
		a.settle(end)
		if !a.replayable(end) {
			return nil, err
		}
		if a.nothingWritten() {
			x.misses++
		} else {
			x.replays++
		}
		x.proxy.metrics.replays.WithLabelValues(string(x.req.Model)).Inc()
		x.proxy.log.Debug("replaying a request", "model", x.req.Model, "after", err)
		x.avoid(a)
	}
}

// avoid takes the attempt's pod out of the next choice.
func (x *exchange) avoid(a *attempt) {
	// A region is noted by an empty name, so that the request has tried something
	// and does not arrive once more.
	x.req.Tried = append(slices.Clip(x.req.Tried), a.place.pod)
	if a.reused {
		x.again = a.place.pod
	}
}

// choose claims a pod, or failing that a place in another region.
func (x *exchange) choose() (place, error) {
	now := x.proxy.opts.Now()
	if len(x.req.Tried) == 0 && !x.req.Aside {
		x.proxy.opts.Pool.Arrive(x.req.Model)
	}
	lease, refusal := x.proxy.opts.Pool.Claim(now, x.req)
	if refusal == pool.AllTried && x.again != "" {
		// No other pod, and this one was lost on a connection that it may have
		// closed for age just then. A fresh one tells.
		// Its name is blanked rather than taken out, for the same reason.
		x.req.Tried = slices.Clone(x.req.Tried)
		x.req.Tried[slices.Index(x.req.Tried, x.again)] = ""
		x.again = ""
		lease, refusal = x.proxy.opts.Pool.Claim(now, x.req)
	}
	if refusal != pool.UnknownModel {
		x.know()
	}
	if refusal == pool.Claimed {
		pod := lease.Pod()
		return place{scheme: "http", host: pod.HTTP.String(), pod: pod.ID, done: lease.Done}, nil
	}
	if to, ok := x.spill(now); ok {
		return to, nil
	}
	if refusal == pool.UnknownModel && x.proxy.opts.Spill != nil && x.proxy.opts.Spill.Knows(x.req.Model) {
		refusal = pool.NoPod
	}
	return place{}, &refusedError{refusal, x.req.Model}
}

// spill finds a place in another region, one hop at most.
func (x *exchange) spill(now time.Time) (place, bool) {
	if x.spilledIn || x.proxy.opts.Spill == nil {
		return place{}, false
	}
	lease, ok := x.proxy.opts.Spill.Spill(now, x.req)
	if !ok {
		return place{}, false
	}
	x.know()
	x.proxy.metrics.spilled.WithLabelValues(string(x.req.Model), "out").Inc()
	to := lease.Endpoint()
	return place{scheme: to.Scheme, host: to.HostPort(), region: lease.Region(), done: lease.Done}, true
}

// know marks the model as one that may be a metric's label.
func (x *exchange) know() {
	if x.known {
		return
	}
	x.known = true
	if x.spilledIn {
		x.proxy.metrics.spilled.WithLabelValues(string(x.req.Model), "in").Inc()
	}
}

// fail answers a request that got no answer from a pod.
func (x *exchange) fail(_ http.ResponseWriter, r *http.Request, err error) {
	f := faultOf(err)
	if x.end == 0 {
		x.end = regions.EndNotStarted
		if f.status < http.StatusInternalServerError && f.status != http.StatusNotFound {
			x.end = regions.EndClientGone
		}
	}
	if f.status == http.StatusBadGateway || f.status == http.StatusGatewayTimeout {
		x.proxy.log.Warn("request failed", "model", x.req.Model, "path", r.URL.Path, "status", f.status, "err", err)
	}
	f.write(x.w, r.ProtoMajor, x.proxy.opts.Region)
}

// finish runs when the exchange is over, by return or by panic.
func (x *exchange) finish() {
	x.body.release()
	if a := x.current; a != nil && !a.settled {
		end := a.ended()
		a.settle(end)
		if end == regions.EndPodLost || end == regions.EndTimeout {
			x.proxy.log.Warn("stream cut", "model", x.req.Model, "at", a.place.name(), "end", end.String(), "err", a.bodyErr)
			if !x.in.ProtoAtLeast(1, 1) {
				x.w.reset()
			}
		}
	}
	x.proxy.metrics.ended(x.req.Model, x.known, x.end)
	x.w.extend() // what is still buffered goes out after this
}
