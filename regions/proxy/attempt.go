package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// attempt is one try of a request at one place, from the claim to its release.
type attempt struct {
	x       *exchange
	place   place
	begun   time.Time
	stop    context.CancelCauseFunc
	stalled *time.Timer // runs only while the pod is waited for

	conn     *countedConn // nil until connected, and with TLS
	linked   bool         // a connection was had
	reused   bool         // it had served another request
	wrote    int64        // written to conn before this request
	answered atomic.Bool  // the head of an answer is here
	first    atomic.Int64 // nanoseconds to the first byte, plus one; 0: none yet

	status  int
	bodyErr error // how the answer's body ended; io.EOF is well
	settled bool
}

func newAttempt(x *exchange, to place) *attempt {
	x.proxy.metrics.inFlight.WithLabelValues(string(x.req.Model)).Inc()
	if x.guest && to.pod != "" {
		x.proxy.guests.add(x.req.Model, 1)
	}
	return &attempt{x: x, place: to, begun: x.proxy.opts.Now()}
}

// send sends the request and waits for the head of the answer.
func (a *attempt) send(out *http.Request) (*http.Response, error) {
	limits := a.x.limits
	ctx, stop := context.WithCancelCause(out.Context())
	a.stop = stop
	req := out.WithContext(httptrace.WithClientTrace(ctx, a.trace()))
	req.URL = &url.URL{Scheme: a.place.scheme, Host: a.place.host, Path: out.URL.Path, RawPath: out.URL.RawPath, RawQuery: out.URL.RawQuery}
	req.Host = a.place.host
	if a.place.pod == "" {
		req.Header = maps.Clone(out.Header)
		req.Header.Set(SpilledHeader, string(a.x.proxy.opts.Region))
	} else if a.x.req.HasKey {
		// The other region's gateway checks the key again; a pod must not see it.
		req.Header = maps.Clone(out.Header)
		req.Header.Del("Authorization")
		req.Header.Del("X-Api-Key")
	}
	a.stalled = time.AfterFunc(limits.PodStall, func() { stop(errStalled) })
	req.Body, req.ContentLength = a.x.body.open(a.moved), a.x.body.length
	// A chunked body that is in memory by now goes out with its length.
	req.TransferEncoding, req.Trailer = nil, nil
	if a.place.pod == "" && a.x.req.Replayable && a.x.body.whole() {
		// HTTP/2 says which requests a peer that leaves has not begun. The library
		// takes some others for such, so this is for those that may run twice.
		req.GetBody = func() (io.ReadCloser, error) { return a.x.body.open(a.moved), nil }
	}
	res, err := a.x.proxy.links.to(a.place, a.x.replays, a.x.body.whole()).RoundTrip(req)
	if errors.Is(err, errNotHTTP2) {
		// Nothing of the request was written, so that its body is as it was.
		req.Body = a.x.body.open(a.moved)
		res, err = a.x.proxy.links.to(a.place, a.x.replays, a.x.body.whole()).RoundTrip(req)
	}
	if err != nil {
		return nil, err
	}
	a.answered.Store(true)
	a.stalled.Stop()
	a.x.body.forget()
	if res.StatusCode == http.StatusSwitchingProtocols {
		_ = res.Body.Close()
		return nil, errSwitched
	}
	a.status = res.StatusCode
	if !a.podError() {
		a.sight(regions.SawServed, a.ttft())
	}
	res.Body = &answerBody{res.Body, a}
	return res, nil
}

// trace notes what the transport does. The hook of the first byte runs on
// another goroutine, the other on this one.
func (a *attempt) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			a.linked, a.reused = true, info.Reused
			if c, ok := info.Conn.(*countedConn); ok {
				a.conn, a.wrote = c, c.wrote.Load()
			}
		},
		GotFirstResponseByte: func() {
			a.first.CompareAndSwap(0, int64(a.x.proxy.opts.Now().Sub(a.begun))+1)
		},
	}
}

// moved is called as the request's body streams to the pod: that is progress.
func (a *attempt) moved() {
	if !a.answered.Load() {
		a.stalled.Reset(a.x.limits.PodStall)
	}
}

// answerBody reads the answer, each read under PodStall, and notes its end.
type answerBody struct {
	io.ReadCloser
	a *attempt
}

// Read reads from the pod.
func (b *answerBody) Read(p []byte) (int, error) {
	b.a.stalled.Reset(b.a.x.limits.PodStall)
	n, err := b.ReadCloser.Read(p)
	b.a.stalled.Stop()
	if err != nil && b.a.bodyErr == nil {
		b.a.bodyErr = err
	}
	return n, err
}

// ttft is the time to the first byte, 0 if none came.
func (a *attempt) ttft() time.Duration { return time.Duration(max(0, a.first.Load()-1)) }

// nothingWritten reports that provably no byte of the request left.
func (a *attempt) nothingWritten() bool {
	return !a.linked || a.conn != nil && a.conn.wrote.Load() == a.wrote
}

// podError reports that the pod answered that something is wrong with itself.
// Not so 501: that is Triton's answer to the wrong kind of request for a model.
func (a *attempt) podError() bool {
	return a.status >= http.StatusInternalServerError && a.status != http.StatusNotImplemented
}

// soon is how quickly a pod that takes no more work closes a fresh connection:
// its listener does so at once, while a generation that is lost has run for
// longer.
const soon = time.Second

// failed classes a failure before the answer's head, reports what was seen of
// the pod and says it as the error that the client's answer is made from.
func (a *attempt) failed(err error) (regions.End, error) {
	took := a.x.proxy.opts.Now().Sub(a.begun)
	switch {
	case a.x.body.failure() != nil: // first: the server takes a failed read for a departure
		return regions.EndClientGone, a.x.body.failure()
	case a.x.in.Context().Err() != nil:
		return regions.EndClientGone, errClientGone
	case errors.Is(err, errSwitched):
		return regions.EndPodError, &lostError{a.place, err}
	case errors.Is(err, errStalled):
		a.sight(regions.SawTimeout, took)
		return regions.EndTimeout, &lostError{a.place, err}
	case !a.linked && ownTrouble(err):
		return regions.EndNotStarted, fmt.Errorf("%w: %w", errOwnTrouble, err)
	case !a.linked && timedOut(err):
		a.sight(regions.SawTimeout, took)
	case !a.linked:
		a.sight(regions.SawRefused, took)
	case !a.reused && a.first.Load() == 0 && took < soon:
		a.sight(regions.SawClosed, took)
	default:
		a.sight(regions.SawLost, took)
	}
	return regions.EndPodLost, &lostError{a.place, err}
}

// replayable reports that the request may be sent elsewhere after this attempt
// ended so: not once a byte of an answer came, not after a timeout (the pod may
// still be at it), and if the request may have begun to run, only if running it
// twice is harmless.
func (a *attempt) replayable(end regions.End) bool {
	x := a.x
	limits := &x.limits
	if end != regions.EndPodLost || a.first.Load() != 0 {
		return false
	}
	if a.nothingWritten() {
		return x.misses < limits.Misses && x.body.intact()
	}
	return x.replays < limits.Replays && x.req.Replayable && x.body.whole()
}

// ended classes the end of an attempt whose answer had begun.
func (a *attempt) ended() regions.End {
	switch {
	case errors.Is(a.bodyErr, io.EOF) && a.podError():
		return regions.EndPodError
	case errors.Is(a.bodyErr, io.EOF):
		return regions.EndServed
	case errors.Is(a.bodyErr, errStalled):
		a.sight(regions.SawTimeout, a.x.proxy.opts.Now().Sub(a.begun))
		return regions.EndTimeout
	case a.bodyErr == nil, a.x.w.err != nil, a.x.in.Context().Err() != nil, a.x.body.failure() != nil:
		return regions.EndClientGone
	default:
		a.sight(regions.SawLost, a.x.proxy.opts.Now().Sub(a.begun))
		return regions.EndPodLost
	}
}

// sight tells what was seen of a pod; other regions are not observed.
func (a *attempt) sight(s regions.Sight, took time.Duration) {
	if a.place.pod != "" {
		a.x.proxy.opts.Observe(regions.Observation{Pod: a.place.pod, Model: a.x.req.Model, Sight: s, Took: took})
	}
}

// settle releases the claim, once.
func (a *attempt) settle(end regions.End) {
	if a.settled {
		return
	}
	a.settled = true
	if a.stop != nil {
		a.stalled.Stop()
		a.stop(nil)
	}
	x := a.x
	x.end = end
	now := x.proxy.opts.Now()
	outcome := regions.Outcome{End: end, Took: now.Sub(a.begun), SawBytes: a.first.Load() != 0}
	// Only inference has a TTFT: a question for metadata is answered in no time
	// and says nothing of how busy the pod is.
	if outcome.SawBytes && x.in.Method == http.MethodPost {
		outcome.TTFT = a.ttft()
		x.proxy.metrics.ttft.WithLabelValues(string(x.req.Model)).Observe((a.begun.Sub(x.begun) + outcome.TTFT).Seconds())
	}
	a.place.done(now, outcome)
	if x.guest && a.place.pod != "" {
		x.proxy.guests.add(x.req.Model, -1)
	}
	x.proxy.metrics.inFlight.WithLabelValues(string(x.req.Model)).Dec()
}
