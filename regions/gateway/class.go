package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/rpc"
)

// What a client may ask for: who goes first where requests wait for a slot, and for
// how long this one may.
const (
	classHeader = "Rhumb-Priority"
	waitHeader  = "Rhumb-Max-Wait"
)

// longestWait is as much as a stream may live; more is a slip of the finger.
const longestWait = 24 * time.Hour

// ask reads what the request asks for. Its class is at most the key's: without keys
// everybody could go first, so nobody goes before the normal ones.
func (v *visit) ask(h http.Header) error {
	most := regions.ClassNormal
	if v.key != nil {
		most = v.key.Class
	}
	v.class = most
	if v.guest.From != "" {
		v.class = v.guest.Class // its own gateway has read the field
	} else if said, ok := h[classHeader]; ok {
		c, known := regions.ParseClass(said[0])
		if !known || len(said) > 1 {
			return badField(classHeader, "high, normal or low")
		}
		v.class = min(c, most)
	}
	if said, ok := h[waitHeader]; ok {
		d, known := parseWait(said[0])
		if !known || len(said) > 1 {
			return badField(waitHeader, "seconds or a duration like 5s, of at most 24h")
		}
		v.maxWait = d
	}
	if said, ok := h[rpc.TimeoutHeader]; ok && v.route.frontend == regions.GRPC {
		d, err := rpc.ParseTimeout(said[0])
		if err != nil {
			return badRequest(err.Error())
		}
		// No time at all is not the same as none that was said.
		v.timeout = max(d, 1)
		if v.maxWait == 0 || v.maxWait > v.timeout {
			v.maxWait = v.timeout
		}
	}
	return nil
}

// badField is a field of the header with a value that is not understood.
func badField(name, want string) error {
	return &refusal{status: http.StatusBadRequest, text: name + ": want " + want, hangUp: true}
}

// parseWait reads "5", "0.5" or "5s". Nothing is the shortest wait there is, since 0
// stands for the default.
func parseWait(s string) (time.Duration, bool) {
	d, err := time.ParseDuration(s)
	if seconds, bad := strconv.ParseFloat(s, 64); bad == nil && seconds <= longestWait.Seconds() {
		d, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil || d < 0 || d > longestWait {
		return 0, false
	}
	return max(d, 1), true
}
