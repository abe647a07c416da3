package proxy

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy/client"
)

// exchange is one client's request from its arrival to its end, over one or
// more attempts. It is the reverse proxy's transport for this one request.
type exchange struct {
	proxy  *Proxy
	limits Limits        // as they were when the request came
	in     *http.Request // its context has the request's total time
	out    *http.Request // as it goes out, but for the place
	w      *client.Writer
	req    regions.Request
	route  Route
	body   *client.Body
	prompt int       // bytes of the body
	begun  time.Time // the request was read

	known   bool          // the model is known here or there
	replays int           // attempts lost after something was written
	misses  int           // attempts lost before
	spills  int           // other regions asked
	resumed int           // how often its stream went on elsewhere
	again   regions.PodID // lost on a kept connection: perhaps only the connection was
	current *attempt
	doubted func(now time.Time) // blames the pod whose error may be the request's own
	stream  *stream             // the answer in parts, nil if it is none
	end     regions.End
}

// RoundTrip makes attempts until one has the beginning of an answer or no further
// one is sound.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	x.out = out
	var body payload = x.body
	if x.stream = x.newStream(); x.stream != nil {
		body = x.stream
	}
	defer x.body.Forget()
	if x.stream != nil && x.stream.object != nil {
		return x.stream.gather()
	}
	return x.launch(body)
}

// launch makes attempts with a body until one has the beginning of an answer, which
// for a stream is its first event.
func (x *exchange) launch(body payload) (*http.Response, error) {
	var next place // of the next attempt, if that is known
	for {
		to := next
		if next = (place{}); to.done == nil {
			var err error
			if to, err = x.choose(); err != nil {
				return nil, err
			}
		}
		a := newAttempt(x, to, body)
		x.current = a
		res, err := a.send(x.out)
		if err == nil && x.stream != nil && x.stream.takes(res) {
			res, err = x.stream.open(res)
		}
		switch {
		case err == nil && x.busy(a, res):
			_ = res.Body.Close()
			a.settle(regions.EndNotStarted)
			x.avoid(a)
			continue
		case err == nil:
			if to, asked := x.doubtful(a); asked {
				_ = res.Body.Close()
				a.settle(regions.EndFailed)
				next = to
				continue
			}
			x.clear(a)
			return res, nil
		}
		end, err := a.failed(err)
		a.settle(end)
		if !x.retries(a, end, err) {
			return nil, err
		}
		x.proxy.log.Debug("trying a request elsewhere", "model", x.req.Model, "after", err)
		x.avoid(a)
	}
}

// owed reports that a pod has something to say, rather than the client.
func (x *exchange) owed() bool {
	return x.stream == nil || x.stream.calls == nil || x.stream.calls.Owed()
}

// followed reports that it is known what the pod has to say, of a request that goes on
// while it is answered.
func (x *exchange) followed() bool {
	return x.stream != nil && x.stream.calls != nil && x.stream.calls.Whole()
}

// avoid takes the attempt's pod out of the next choice.
func (x *exchange) avoid(a *attempt) {
	if a.place.pod == "" {
		return // its region's lease has heard
	}
	x.req.Tried = append(slices.Clip(x.req.Tried), a.place.pod)
	if a.reused {
		x.again = a.place.pod
	}
}

// fail answers a request that got no answer from a pod.
func (x *exchange) fail(_ http.ResponseWriter, r *http.Request, err error) {
	f := faultOf(err)
	if x.end == 0 {
		x.end = regions.EndNotStarted
		if f.client {
			x.end = regions.EndClientGone
		}
	}
	if f.status == http.StatusBadGateway || f.status == http.StatusGatewayTimeout {
		x.proxy.log.Warn("request failed", "model", x.req.Model, "path", r.URL.Path, "status", f.status, "err", err)
	}
	f.write(x.w, r, x)
}

// finish runs when the exchange is over, by return or by panic.
func (x *exchange) finish() {
	x.body.Release()
	if x.stream != nil && x.stream.calls != nil {
		x.stream.calls.Done()
	}
	if a := x.current; a != nil && !a.settled {
		end := a.ended()
		a.settle(end)
		if end == regions.EndPodLost || end == regions.EndTimeout {
			x.proxy.log.Warn("answer cut", "model", x.req.Model, "at", a.place.name(), "end", end.String(), "err", a.bodyErr)
			if !x.in.ProtoAtLeast(1, 1) {
				x.w.Reset()
			}
		}
	}
	x.proxy.retries.end(x)
	x.proxy.metrics.ended(x.req.Model, x.known || x.proxy.opts.Pool.Lists(x.req.Model), x.end)
	x.w.Extend() // what is still buffered goes out after this
}

// cause is why the request's time is over, nil if it is not.
func (x *exchange) cause() error {
	switch cause := context.Cause(x.in.Context()); {
	case cause == nil:
		return nil
	case errors.Is(cause, errTotal), errors.Is(cause, errDeadline):
		return cause
	default:
		return errClientGone
	}
}

// rest waits until then, and reports false if the request's time is over before.
func (x *exchange) rest(until time.Time) bool {
	timer := time.NewTimer(until.Sub(x.proxy.opts.Now()))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-x.in.Context().Done():
		return false
	}
}
