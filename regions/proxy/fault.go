package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admit"
	"github.com/rhumb-lb/rhumb/regions/peek"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/proxy/client"
	"github.com/rhumb-lb/rhumb/regions/proxy/link"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/shape"
)

// statusClientGone is the customary status in logs of a client that left before
// its answer; nobody receives it.
const statusClientGone = 499

// Why a request ended without a pod's answer, or with a part of it.
var (
	errSilent       = errors.New("no answer from the pod for too long")
	errStalled      = errors.New("no byte from the pod for too long")
	errTotal        = errors.New("the request took too long")
	errNoConnection = errors.New("could not connect in time")
	errDismissed    = errors.New("the gateway stops")
	errIdle         = errors.New("no request for too long")
	errDraining     = errors.New("the pod shuts down")
	errNoRoom       = errors.New("the region has no room")
	errDeadline     = errors.New("the client's time is over")
	errNotJSON      = errors.New("the request body is not JSON")
	errClientGone   = errors.New("the client left")
	errOwnTrouble   = errors.New("the gateway can't open connections")
	errSwitched     = errors.New("answered with a switch of protocols that nobody asked for")
)

// fieldError is a request's header field that is not accepted.
type fieldError struct {
	status int
	text   string
}

// Error is what the client is told.
func (e *fieldError) Error() string { return e.text }

// refusedError is a request that no place could be had for.
type refusedError struct {
	refusal pool.Refusal
	model   regions.ModelName
	guest   bool // another region sent it, which can ask elsewhere
}

// Error is what the client is told.
func (e *refusedError) Error() string {
	if e.refusal == pool.UnknownModel {
		// Triton's words.
		return fmt.Sprintf("Request for unknown model: '%s' is not found", e.model)
	}
	return fmt.Sprintf("no pod can take a request for model '%s' at the moment, try again", e.model)
}

// waitedError is a request that could not or not longer wait for a place.
type waitedError struct {
	err   *admit.RefusedError
	none  bool // there was no pod at all, rather than busy ones
	model regions.ModelName
}

// Error is what the client is told.
func (e *waitedError) Error() string {
	if e.none {
		return (&refusedError{model: e.model, refusal: pool.NoPod}).Error()
	}
	return fmt.Sprintf("all pods of model '%s' are busy, try again", e.model)
}

// lostError is a pod or region that could not be reached or was lost.
type lostError struct {
	place place
	err   error
}

// Error names the place, for the log.
func (e *lostError) Error() string { return fmt.Sprintf("%s: %v", e.place.name(), e.err) }

// Unwrap gives the reason.
func (e *lostError) Unwrap() error { return e.err }

// fault is an answer that the proxy gives itself.
type fault struct {
	status int
	reason string // one word for programs, in ReasonHeader
	text   string
	retry  time.Duration // when it is worth trying again; 0 if not
	client bool          // the client's doing
	hangUp bool          // what is left of the request is not to be read
	fresh  bool          // provably nothing of the request was begun
}

// faultOf maps everything that can go wrong before an answer's first byte to
// what the client is told. It is the one place where statuses are chosen.
func faultOf(err error) fault {
	if f, ok := clientFault(err); ok {
		return f
	}
	var refused *refusedError
	var waited *waitedError
	var told *resume.PodError
	switch {
	case errors.As(err, &told):
		return fault{status: told.Status(), reason: "pod-error", text: told.Text, retry: retryAfter()}
	case errors.As(err, &refused) && refused.refusal == pool.UnknownModel:
		return fault{status: http.StatusNotFound, reason: "unknown-model", text: refused.Error()}
	case errors.As(err, &refused):
		return fault{status: http.StatusServiceUnavailable, reason: "no-pod", text: refused.Error(), retry: retryAfter(), fresh: true}
	case errors.As(err, &waited) && waited.none:
		return fault{status: http.StatusServiceUnavailable, reason: "no-pod", text: waited.Error(), retry: waited.err.RetryAfter}
	case errors.As(err, &waited):
		return fault{status: http.StatusTooManyRequests, reason: waited.err.Reason.String(), text: waited.Error(), retry: waited.err.RetryAfter}
	case errors.Is(err, errOwnTrouble):
		return fault{status: http.StatusServiceUnavailable, reason: "no-connections", text: "the gateway is out of connections, try again", retry: retryAfter(), fresh: true}
	case errors.Is(err, errNoConnection):
		return fault{status: http.StatusServiceUnavailable, reason: "connect-timeout", text: "no pod could be connected to in time, try again", retry: retryAfter()}
	case errors.Is(err, errDraining), errors.Is(err, link.ErrNotBegun):
		return fault{status: http.StatusServiceUnavailable, reason: "no-pod", text: "no pod could take the request, try again", retry: retryAfter(), fresh: true}
	case errors.Is(err, errTotal):
		return fault{status: http.StatusGatewayTimeout, reason: "total-timeout", text: "the request took too long"}
	case errors.Is(err, errStalled):
		return fault{status: http.StatusGatewayTimeout, reason: "token-timeout", text: "no token from the pod for too long; the request may have run"}
	case errors.Is(err, errSilent):
		return fault{status: http.StatusGatewayTimeout, reason: "first-byte-timeout", text: "the pod did not answer in time"}
	default:
		return fault{status: http.StatusBadGateway, reason: "pod-lost", text: "the pod was lost before it answered; the request may have run"}
	}
}

// clientFault maps what is the client's doing.
func clientFault(err error) (fault, bool) {
	f := fault{client: true, hangUp: true}
	var field *fieldError
	var bad peek.BodyError
	switch {
	case errors.Is(err, errNotJSON):
		f.status, f.reason, f.text, f.hangUp = http.StatusBadRequest, "bad-body", errNotJSON.Error(), false
	case errors.As(err, &bad):
		f.status, f.reason, f.text = http.StatusBadRequest, "bad-body", bad.Error()
	case errors.Is(err, errDeadline):
		f.status, f.reason, f.text, f.hangUp = http.StatusGatewayTimeout, "deadline", errDeadline.Error(), false
	case errors.As(err, &field):
		f.status, f.reason, f.text = field.status, "bad-field", field.text
	case errors.Is(err, client.ErrTooLarge):
		f.status, f.reason, f.text = http.StatusRequestEntityTooLarge, "body-too-large", "the request body is too large"
	case errors.Is(err, client.ErrStalled):
		f.status, f.reason, f.text = http.StatusRequestTimeout, "body-timeout", "the request body came too slowly"
	case errors.Is(err, client.ErrBroken):
		f.status, f.reason, f.text = http.StatusBadRequest, "body-broken", "the request body could not be read"
	case errors.Is(err, errClientGone):
		f.status, f.reason, f.text = statusClientGone, "client-gone", "the client left"
	default:
		return fault{}, false
	}
	return f, true
}

// retryAfter is 1 to 3 seconds: a pod that crashed is out of rotation within
// one, and clients that were refused together should not come back together.
func retryAfter() time.Duration { return time.Second + rand.N(2*time.Second) }

// write answers in the form of the frontend. Over HTTP/2 there is nothing to hang up:
// what is left of a request ends with its stream, and the others go on.
func (f fault) write(w http.ResponseWriter, r *http.Request, x *exchange) {
	h := w.Header()
	h.Set(RegionHeader, string(x.proxy.opts.Region))
	h.Set(ReasonHeader, f.reason)
	if f.fresh {
		h.Set(NotStartedHeader, "1")
	}
	if f.retry > 0 {
		// Whole seconds (RFC 9110 section 10.2.3), rounded up.
		h.Set("Retry-After", strconv.Itoa(int((f.retry+time.Second-1)/time.Second)))
	}
	if f.hangUp && r.ProtoMajor == 1 {
		h.Set("Connection", "close")
	}
	shape.Error{Status: f.status, Text: f.text, Code: f.code()}.Write(w, x.req.Frontend)
}

// code is OpenAI's word for what is wrong.
func (f fault) code() string {
	if f.status == http.StatusNotFound {
		return "model_not_found"
	}
	return strings.ReplaceAll(f.reason, "-", "_")
}
