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
	"github.com/rhumb-lb/rhumb/regions/proxy/answer"
	"github.com/rhumb-lb/rhumb/regions/proxy/link"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/vigil"
	"github.com/rhumb-lb/rhumb/regions/rpc"
)

// attempt is one try of a request at one place, from the claim to its release.
type attempt struct {
	x     *exchange
	place place
	begun time.Time
	stop  context.CancelCauseFunc
	over  func() error // why it was stopped; nil while it runs
	vigil *vigil.Vigil // rests unless the pod is waited for

	conn     *link.Conn   // nil until connected, and with TLS
	linked   bool         // a connection was had
	reused   bool         // it had served another request
	wrote    int64        // written to conn before this request
	answered atomic.Bool  // the head of an answer is here
	first    atomic.Int64 // nanoseconds to the first byte, plus one; 0: none yet

	// sent is what goes to the place. repeatable says that it may be sent again although it
	// may have begun to run, and paid that the budget for it was had; events, that the
	// answer comes in parts.
	sent         payload
	repeatable   bool
	paid, events atomic.Bool

	res     *http.Response // the pod's, which has its trailers at its end
	own     *http.Response // a call's as the client gets it
	status  int
	body    io.ReadCloser       // of the answer
	bodyErr error               // how the answer's body ended; io.EOF is well
	told    answer.Told         // of a stream of calls that nobody follows
	print   regions.Fingerprint // of the load that answers, as far as is known
	sick    bool                // it told of an error in the middle of an answer
	erred   bool                // it told of one, which may be the request's own
	full    bool                // it told that the pod has no room
	later   bool                // it goes on with an answer
	settled bool
	parts   bool // the pod is let go, and ends its side itself
}

func newAttempt(x *exchange, to place, body payload) *attempt {
	a := &attempt{x: x, place: to, begun: x.proxy.opts.Now(), sent: body}
	if to.print != nil {
		a.print = to.print()
	}
	a.later = x.stream != nil && x.stream.begun.Load()
	a.repeatable = x.req.Replayable && !x.route.NoReplay && x.replays < x.limits.Replays && body.Whole()
	x.proxy.metrics.inFlight.WithLabelValues(string(x.req.Model)).Inc()
	if x.req.From != "" && to.pod != "" {
		x.proxy.guests.add(x.req.Model, 1, a.begun)
	}
	a.vigil = vigil.New(func() bool { return x.movable(a) }, func(why error) { a.stop(why) })
	return a
}

// seat is where the attempt is.
func (a *attempt) seat() seat { return seat{a.place.pod, a.x.req.Model} }

// send sends the request with a body and waits for the head of the answer.
func (a *attempt) send(out *http.Request) (*http.Response, error) {
	ctx, stop := context.WithCancelCause(out.Context())
	a.stop, a.over = stop, func() error { return context.Cause(ctx) }
	if a.place.pod != "" {
		a.x.proxy.flights.begin(a)
	}
	if a.x.owed() {
		a.vigil.Wait(a.x.limits.FirstByte, errSilent)
	}
	req := a.request(out.WithContext(httptrace.WithClientTrace(ctx, a.trace())))
	if a.x.duplex() {
		// While the client is waited for, the transport does not see that the attempt
		// is given up.
		context.AfterFunc(ctx, func() { _ = req.Body.Close() })
	}
	to := link.Target{
		Scheme: a.place.scheme, Host: a.place.host, Region: a.place.pod == "",
		GRPC: a.x.req.Frontend == regions.GRPC, Fresh: a.x.replays > 0, Whole: a.sent.Whole(),
	}
	res, err := a.x.proxy.links.To(to).RoundTrip(req)
	if errors.Is(err, link.ErrNotHTTP2) && !to.GRPC {
		// Nothing of the request was written, so that its body is as it was.
		req.Body = a.sent.Open(a.moved)
		res, err = a.x.proxy.links.To(to).RoundTrip(req)
	}
	if err != nil {
		return nil, link.Begun(a.given(err))
	}
	a.answered.Store(true)
	a.vigil.Rest()
	a.status = res.StatusCode
	if err := a.vet(res); err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	if a.x.stream != nil && a.x.stream.calls != nil {
		a.x.prompt = a.x.stream.calls.Size()
	}
	// A question for metadata is answered by a pod that generates nothing, too.
	if a.verdict() == regions.EndServed && !a.x.req.Aside {
		a.sight(regions.SawServed, a.ttft())
		if a.place.began != nil {
			a.place.began(a.x.proxy.opts.Now(), a.ttft(), a.x.prompt)
		}
	}
	a.body, a.res = res.Body, res
	if a.x.req.Frontend != regions.GRPC {
		res.Body = &answerBody{a}
		return res, nil
	}
	// Calls have trailers that nobody announces: the client's are put to a copy, in which
	// the reverse proxy looks for no others.
	own := *res
	own.Body, own.Trailer = &answerBody{a}, nil
	a.own = &own
	return a.own, nil
}

// payload is what is sent: the client's body, or one made of it.
type payload = answer.Payload

// request is the request as it goes to the place.
func (a *attempt) request(out *http.Request) *http.Request {
	req, body := out, a.sent
	req.URL = &url.URL{Scheme: a.place.scheme, Host: a.place.host, Path: out.URL.Path, RawPath: out.URL.RawPath, RawQuery: out.URL.RawQuery}
	req.Host = a.place.host
	req.Header = maps.Clone(out.Header)
	if a.place.pod == "" {
		req.Header.Set(SpillHeader, a.x.proxy.opts.Vouch(a.place.region, a.x.req))
	}
	if a.x.req.Key != "" {
		req.Header.Del("Authorization")
		req.Header.Del("X-Api-Key")
	}
	if a.x.stream != nil && a.x.stream.calls != nil {
		req.Header.Set(rpc.AcceptEncodingHeader, "identity") // messages are read here
	}
	if !a.x.req.Until.IsZero() {
		req.Header.Set(rpc.TimeoutHeader, rpc.FormatTimeout(a.x.req.Until.Sub(a.begun)))
	}
	if a.place.pod != "" && a.x.proxy.opts.Load != nil && a.x.req.Replayable {
		req.Header.Set(loadFormatHeader, "text")
	}
	if a.x.stream != nil && a.x.stream.calls != nil {
		a.x.stream.calls.Hold(a.slots())
	}
	req.Body, req.ContentLength = body.Open(a.moved), body.Length()
	// A chunked body that is in memory by now goes out with its length.
	req.TransferEncoding, req.Trailer = nil, nil
	if (a.place.pod == "" || a.x.req.Frontend == regions.GRPC) && a.x.req.Replayable && body.Whole() {
		// HTTP/2 says which requests a peer that leaves has not begun. The library
		// takes some others for such, so this is for those that may run twice.
		req.GetBody = func() (io.ReadCloser, error) { return body.Open(a.moved), nil }
	}
	return req
}

// vet finds out from the head of an answer that it is none.
func (a *attempt) vet(res *http.Response) error {
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		return errSwitched
	case a.place.pod == "" && res.Header.Get(NotStartedHeader) != "":
		return errNoRoom
	case a.x.req.Frontend == regions.GRPC:
		return a.vetCall(res)
	default:
		return nil
	}
}

// trace notes what the transport does. The hook of the first byte runs on
// another goroutine, the others on this one. The transport connects anew by itself
// where it is sure that nothing was sent.
func (a *attempt) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { a.linked, a.conn = false, nil },
		GotConn: func(info httptrace.GotConnInfo) {
			a.linked, a.reused = true, info.Reused
			if c, ok := info.Conn.(*link.Conn); ok {
				a.conn, a.wrote = c, c.Wrote()
			}
		},
		GotFirstResponseByte: func() {
			a.first.CompareAndSwap(0, int64(a.x.proxy.opts.Now().Sub(a.begun))+1)
		},
	}
}

// moved is called as the request's body streams to the pod: that is progress, and of a
// request that goes on while it is answered something to be answered.
func (a *attempt) moved() {
	answered := a.answered.Load()
	switch {
	case a.x.duplex() && answered:
		a.vigil.Wait(a.x.limits.Token, errStalled)
	case a.x.duplex():
		a.vigil.Wait(a.x.limits.FirstByte, errSilent)
	case !answered:
		a.vigil.Again()
	}
}

// given is an error, or why the attempt was given up: over HTTP/2 the transport does
// not tell. A clean end stays one.
func (a *attempt) given(err error) error {
	why := a.over()
	if err == nil || errors.Is(err, io.EOF) || why == nil {
		return err
	}
	return why
}

// answerBody reads the answer, each read under Token, and notes its end.
type answerBody struct{ a *attempt }

// Read reads from the pod.
func (b *answerBody) Read(p []byte) (int, error) {
	if b.a.x.owed() {
		b.a.vigil.Wait(b.a.x.limits.Token, errStalled)
	}
	n, err := b.a.body.Read(p)
	b.a.vigil.Rest()
	b.a.hear(p[:n])
	err = b.a.given(err)
	if err != nil && b.a.bodyErr == nil {
		b.a.bodyErr = err
	}
	if err != nil && b.a.x.req.Frontend == regions.GRPC && b.a.x.stream == nil {
		err = b.a.callEnded(err)
	}
	return n, err
}

// Close stops reading.
func (b *answerBody) Close() error { return b.a.body.Close() }

// ttft is the time to the first byte, 0 if none came.
func (a *attempt) ttft() time.Duration { return time.Duration(max(0, a.first.Load()-1)) }

// nothingWritten reports that provably no byte of the request left.
func (a *attempt) nothingWritten() bool {
	return !a.linked || a.conn != nil && a.conn.Wrote() == a.wrote
}

// verdict is how an answer counts that the pod has given in full. 500 is Triton's answer
// to much that is wrong with a request, too, and 501 to the wrong kind of request for a
// model.
func (a *attempt) verdict() regions.End {
	switch {
	case a.sick:
		return regions.EndPodError
	case a.full:
		return regions.EndNotStarted
	case a.erred || a.status == http.StatusInternalServerError:
		return regions.EndFailed
	case a.status > http.StatusNotImplemented:
		return regions.EndPodError
	default:
		return regions.EndServed
	}
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
	case a.x.body.Failure() != nil: // first: the server takes a failed read for a departure
		return regions.EndClientGone, a.x.body.Failure()
	case errors.Is(a.x.cause(), errTotal):
		return regions.EndTimeout, errTotal
	case a.x.cause() != nil:
		return regions.EndClientGone, a.x.cause()
	case errors.As(err, new(*resume.PodError)):
		return regions.EndFailed, &lostError{a.place, err}
	case errors.Is(err, errSwitched):
		return regions.EndPodError, &lostError{a.place, err}
	case errors.Is(err, errDraining):
		a.sight(regions.SawClosed, took)
		return regions.EndNotStarted, &lostError{a.place, err}
	case errors.Is(err, errNoRoom), errors.Is(err, link.ErrNotBegun):
		return regions.EndNotStarted, &lostError{a.place, err}
	case errors.Is(err, errSilent): // no sight: some requests are slow
		return regions.EndTimeout, &lostError{a.place, err}
	case errors.Is(err, vigil.ErrAbandoned): // its probes know
	case !a.linked && link.Scarce(err):
		return regions.EndNotStarted, fmt.Errorf("%w: %w", errOwnTrouble, err)
	case !a.linked && link.TimedOut(err):
		a.sight(regions.SawTimeout, took)
		err = fmt.Errorf("%w: %w", errNoConnection, err)
	case !a.linked:
		a.sight(regions.SawRefused, took)
	case !a.reused && a.first.Load() == 0 && took < soon:
		a.sight(regions.SawClosed, took)
	default:
		a.sight(regions.SawLost, took)
	}
	return regions.EndPodLost, &lostError{a.place, err}
}

// ended classes the end of an attempt whose answer had begun.
func (a *attempt) ended() regions.End {
	var said *answer.CallError
	switch {
	case errors.Is(a.bodyErr, io.EOF):
		return a.verdict()
	case errors.Is(a.bodyErr, errStalled) && a.x.duplex() && !a.x.followed():
		return regions.EndClientGone // it may be the client's turn
	case errors.Is(a.bodyErr, errStalled):
		return regions.EndTimeout
	case errors.Is(a.bodyErr, vigil.ErrAbandoned):
		return regions.EndPodLost
	case errors.As(a.bodyErr, new(*resume.PodError)):
		return a.verdict()
	case errors.As(a.bodyErr, &said) && said.Code == rpc.Internal: // such as to what is no message
		return regions.EndFailed
	case said != nil:
		return regions.EndPodError
	case errors.Is(a.x.cause(), errTotal):
		return regions.EndTimeout
	case a.bodyErr == nil, a.x.w.Err != nil, a.x.cause() != nil, a.x.body.Failure() != nil:
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
		a.vigil.Rest()
		if !a.parts {
			a.stop(nil)
		}
		a.x.proxy.flights.end(a)
	}
	x := a.x
	x.end = end
	now := x.proxy.opts.Now()
	outcome := regions.Outcome{End: end, Took: now.Sub(a.begun), SawBytes: a.first.Load() != 0, Prompt: x.prompt}
	// Only inference has a TTFT: a question for metadata is answered in no time
	// and says nothing of how busy the pod is.
	if outcome.SawBytes && !x.req.Aside {
		outcome.TTFT = a.ttft()
		if !a.later {
			x.proxy.metrics.ttft.WithLabelValues(string(x.req.Model)).Observe((a.begun.Sub(x.begun) + outcome.TTFT).Seconds())
		}
	}
	a.place.done(now, outcome)
	if x.req.From != "" && a.place.pod != "" {
		x.proxy.guests.add(x.req.Model, -1, now)
	}
	if a.place.region != "" {
		x.proxy.admission.Free(x.req.Model)
	}
	x.proxy.metrics.inFlight.WithLabelValues(string(x.req.Model)).Dec()
}
