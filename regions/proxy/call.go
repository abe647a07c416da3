package proxy

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/rhumb-lb/rhumb/regions/rpc"
)

// vetCall looks at an answer without a message, which is a status alone. A pod that
// shuts down, or whose queue is full, has begun nothing.
func (a *attempt) vetCall(res *http.Response) error {
	code, ok := rpc.Answered(res.Header)
	if !ok || a.place.pod == "" {
		return nil
	}
	a.inBand = podCode(code)
	said := res.Header.Get("Grpc-Message")
	switch {
	case code != rpc.Unavailable || !a.x.body.Intact():
		return nil
	case strings.Contains(said, "shutting down"):
		return errDraining
	case slices.ContainsFunc(busyWords[:], func(w string) bool { return strings.Contains(said, w) }):
		return errBusy
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
			a.inBand = podCode(code)
		}
		return err
	}
	if cause := x.cause(); x.w.Err != nil || cause != nil && !errors.Is(cause, errTotal) {
		return err // nobody is there any more
	}
	code := rpc.Unavailable
	if errors.Is(err, errStalled) || errors.Is(x.cause(), errTotal) {
		code = rpc.DeadlineExceeded
	}
	a.res.Trailer = rpc.Trailer(code, "stream_interrupted: "+cutText(err))
	x.proxy.log.Warn("call ended before its time", "model", x.req.Model, "at", a.place.name(), "err", err)
	return io.EOF
}

// podCode reports that a call's status says that something is wrong with the pod.
func podCode(code rpc.Code) bool { return code == rpc.Unavailable || code == rpc.Internal }
