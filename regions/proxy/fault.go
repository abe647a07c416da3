package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// statusClientGone is the customary status in logs of a client that left before
// its answer; nobody receives it.
const statusClientGone = 499

// Why a request ended without a pod's answer.
var (
	errStalled    = errors.New("no byte from the pod for too long")
	errClientGone = errors.New("the client left")
	errOwnTrouble = errors.New("the gateway can't open connections")
	errSwitched   = errors.New("answered with a switch of protocols that nobody asked for")
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
}

// Error is what the client is told.
func (e *refusedError) Error() string {
	if e.refusal == pool.UnknownModel {
		// Triton's words.
		return fmt.Sprintf("Request for unknown model: '%s' is not found", e.model)
	}
	return fmt.Sprintf("no pod can take a request for model '%s' at the moment, try again", e.model)
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
	text   string
	retry  bool // worth trying again soon
	hangUp bool // what is left of the request is not to be read
}

// faultOf maps everything that can go wrong before an answer's first byte to
// what the client is told. It is the one place where statuses are chosen.
func faultOf(err error) fault {
	var field *fieldError
	var refused *refusedError
	switch {
	case errors.As(err, &field):
		return fault{status: field.status, text: field.text, hangUp: true}
	case errors.Is(err, errBodyTooLarge):
		return fault{status: http.StatusRequestEntityTooLarge, text: "the request body is too large", hangUp: true}
	case errors.Is(err, errBodyStalled):
		return fault{status: http.StatusRequestTimeout, text: "the request body came too slowly", hangUp: true}
	case errors.Is(err, errBodyBroken):
		return fault{status: http.StatusBadRequest, text: "the request body could not be read", hangUp: true}
	case errors.Is(err, errClientGone):
		return fault{status: statusClientGone, text: "the client left", hangUp: true}
	case errors.As(err, &refused) && refused.refusal == pool.UnknownModel:
		return fault{status: http.StatusNotFound, text: refused.Error()}
	case errors.As(err, &refused):
		return fault{status: http.StatusServiceUnavailable, text: refused.Error(), retry: true}
	case errors.Is(err, errOwnTrouble):
		return fault{status: http.StatusServiceUnavailable, text: "the gateway is out of connections, try again", retry: true}
	case errors.Is(err, errStalled):
		return fault{status: http.StatusGatewayTimeout, text: "the pod did not answer in time"}
	default:
		return fault{status: http.StatusBadGateway, text: "the pod was lost before it answered; the request may have run"}
	}
}

// retryAfter is 1 to 3 seconds: a pod that crashed is out of rotation within
// one, and clients that were refused together should not come back together.
func retryAfter() string { return strconv.Itoa(1 + rand.IntN(3)) }

// write answers in Triton's shape. Over HTTP/2 there is nothing to hang up: what is
// left of a request ends with its stream, and the others go on.
func (f fault) write(w http.ResponseWriter, protocol int, region regions.ID) {
	body, err := json.Marshal(map[string]string{"error": f.text})
	if err != nil {
		body = []byte(`{"error":"internal"}`) // a string always marshals
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set(RegionHeader, string(region))
	if f.retry {
		h.Set("Retry-After", retryAfter())
	}
	if f.hangUp && protocol == 1 {
		h.Set("Connection", "close")
	}
	w.WriteHeader(f.status)
	_, _ = w.Write(body) // a client that is gone has its status in the log
}
