package proxy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/peek"
	"github.com/rhumb-lb/rhumb/regions/proxy/answer"
	"github.com/rhumb-lb/rhumb/regions/rpc"
)

// vetCall looks at an answer without a message, which is a status alone. A pod that
// shuts down has begun nothing.
func (a *attempt) vetCall(res *http.Response) error {
	code, ok := rpc.Answered(res.Header)
	if !ok || a.place.pod == "" {
		return nil
	}
	said := res.Header.Get(rpc.MessageHeader)
	a.status, a.full = codeStatus(code), isBusy(said)
	switch {
	case code != rpc.Unavailable:
		return nil
	case strings.Contains(said, "shutting down") && a.resendable():
		return errDraining
	case strings.Contains(said, "shutting down"):
		a.sight(regions.SawClosed, a.x.proxy.opts.Now().Sub(a.begun))
		return nil
	default:
		return nil
	}
}

// callEnded takes the end of a call's answer. One that was cut ends for the client with
// a status that says so: a stream that is only reset could be anything.
func (a *attempt) callEnded(err error) error {
	x := a.x
	if errors.Is(err, io.EOF) {
		if code, ok := rpc.Answered(a.res.Trailer); ok {
			a.status = codeStatus(code)
			a.own.Trailer = a.callTrailer(nil)
		}
		return err
	}
	if cause := x.cause(); x.w.Err != nil || errors.Is(cause, errClientGone) {
		return err // nobody is there any more
	}
	a.own.Trailer = a.callTrailer(err)
	x.proxy.log.Warn("call ended before its time", "model", x.req.Model, "at", a.place.name(), "err", err)
	return io.EOF
}

// hear notes the errors that a stream of calls tells of its requests, if it passes as it
// comes.
func (a *attempt) hear(p []byte) {
	x := a.x
	if !x.duplex() || x.stream != nil {
		return
	}
	told := a.told.Hear(p)
	x.proxy.metrics.told(x.req.Model, len(told))
	a.erred = a.erred || len(told) > 0
}

// trailers are what the pod's answer ended with, which for a status alone is its head.
func (a *attempt) trailers() http.Header {
	if _, alone := rpc.Answered(a.res.Header); alone {
		return a.res.Header
	}
	return a.res.Trailer
}

// trailer is what came behind the pod's answer, nil if there was none.
func (a *attempt) trailer() http.Header {
	if a.res == nil {
		return nil
	}
	return a.res.Trailer
}

// callTrailer is the end of a call, as the pod has said it or, of one that was lost, as
// we do.
func (a *attempt) callTrailer(lost error) http.Header {
	code, said := rpc.Answered(a.trailer())
	ended, theirs := errors.AsType[*answer.CallError](lost)
	own := lost != nil && !theirs
	switch {
	case theirs && !said: // with a status alone
		h := rpc.Trailer(ended.Code, "")
		h.Set(rpc.MessageHeader, a.res.Header.Get(rpc.MessageHeader))
		return h
	case own:
		switch code = rpc.Unavailable; {
		case errors.As(lost, new(peek.BodyError)):
			return rpc.Trailer(rpc.InvalidArgument, cutText(lost))
		case errors.Is(lost, errStalled), errors.Is(lost, errIdle), a.x.cause() != nil:
			code = rpc.DeadlineExceeded
		}
		return rpc.Trailer(code, "stream_interrupted: "+cutText(lost))
	case !said, a.parts && code != rpc.OK: // it was left once nothing was missing
		return rpc.Trailer(rpc.OK, "")
	default:
		h := a.trailer().Clone()
		maps.DeleteFunc(h, func(name string, _ []string) bool { return strings.HasPrefix(name, "Rhumb-") })
		return h
	}
}

// slots are those of the attempt's place beside the first. Another region counts for
// itself.
func (a *attempt) slots() answer.Slots {
	if a.place.more == nil {
		return answer.Unbounded()
	}
	return answer.Slots{Take: func() bool { return a.place.more(a.x.proxy.opts.Now()) }, Give: a.place.less}
}

// parting is how long a pod may take to end a stream in which it has answered all: one
// that lives does so in a round trip.
const parting = time.Second

// rests reports that a stream of calls has no pod, and lets go of one that has answered
// all: its slot is for others while the client is silent, and the next request goes where
// it is answered first.
func (s *stream) rests() bool {
	if s.calls == nil || s.idle {
		return s.idle
	}
	rests, whole := s.calls.Rest()
	if !rests {
		return false
	}
	a, parted := s.x.current, make(chan struct{})
	a.bodyErr, s.idle, s.parted = io.EOF, true, parted
	a.parts = whole
	a.settle(a.ended())
	go func() { // the next request does not wait for it
		defer close(parted)
		late := time.AfterFunc(parting, func() { a.stop(nil) })
		defer late.Stop()
		_, _ = io.Copy(io.Discard, a.body)
		_ = a.body.Close()
		a.stop(nil)
	}()
	return true
}

// wake waits for the next request of a stream that rests, and finds it a pod as if it had
// come by itself. One for which there is none ends with an error, and the stream goes on.
func (s *stream) wake() {
	x := s.x
	if err := s.await(); err != nil {
		s.end = err
		if cause := cmp.Or(x.cause(), err); !errors.Is(err, io.EOF) && !errors.Is(cause, errClientGone) {
			s.lost, s.end = cause, io.EOF
		}
		return
	}
	s.begun.Store(false)
	x.begun = x.proxy.opts.Now()
	x.replays, x.misses, x.spills, x.again, x.doubted = 0, 0, 0, "", nil
	x.req.Tried, x.req.Same = nil, regions.Fingerprint{}
	if s.calls.Leaves() {
		x.avoid(x.current)
	}
	res, err := x.launch(s)
	switch {
	case err == nil && x.current.events.Load():
		s.idle = false
	case err == nil:
		_ = res.Body.Close()
		x.current.settle(x.current.verdict())
		if code, _ := rpc.Answered(res.Header); !s.calls.Whole() {
			s.lost, s.end = &answer.CallError{Code: code}, io.EOF
			return
		}
		s.refuse(cmp.Or(res.Header.Get(rpc.MessageHeader), "the pod has refused the request"))
	case x.cause() == nil && x.body.Failure() == nil:
		s.refuse(faultOf(err).text)
	default:
		s.idle, s.cut = false, err
	}
}

// await waits for the client.
func (s *stream) await() error {
	ctx, stop := context.WithCancelCause(s.x.in.Context())
	defer stop(nil)
	idle := time.AfterFunc(s.x.limits.Idle, func() { stop(errIdle) })
	defer idle.Stop()
	defer s.x.proxy.resting.begin(s, stop)()
	return s.calls.Await(ctx)
}

// refuse ends what was asked of a stream that rests, and the stream itself if that can't be
// followed, so that it is not known to whom to say it.
func (s *stream) refuse(why string) {
	if s.calls.Whole() {
		s.out = s.calls.Refuse(why)
		return
	}
	s.tell(unservedError(why), errNoPlace)
}

// unservedError is why nobody serves a request.
type unservedError string

// Error is what the client is told.
func (e unservedError) Error() string { return string(e) }

// codeStatus is the HTTP status that counts like a call's.
func codeStatus(code rpc.Code) int {
	switch code {
	case rpc.Unavailable:
		return http.StatusServiceUnavailable
	case rpc.Internal:
		return http.StatusInternalServerError
	default:
		return http.StatusOK
	}
}
