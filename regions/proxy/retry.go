package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy/budget"
	"github.com/rhumb-lb/rhumb/regions/proxy/link"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
)

// retries reports that a request is to be tried elsewhere after an attempt that ended
// so before its answer began.
//
// What provably has not begun to run goes on anywhere, as long as its body is there.
// What may have run goes on only if running it twice is harmless, once, and never
// after a timeout: the pod may still be at it.
func (x *exchange) retries(a *attempt, end regions.End, err error) bool {
	now := x.proxy.opts.Now()
	switch {
	case errors.Is(err, errNoRoom):
		return a.resendable()
	case errors.Is(err, link.ErrNotBegun):
		return a.resendable() && x.miss() && x.count()
	case errors.Is(err, errDraining):
		return x.miss() && x.count()
	case errors.As(err, new(*resume.PodError)):
		// Its first word, so that nothing was made. What a second pod says counts.
		again := x.doubted != nil
		x.doubt(a)
		return !again && a.repeatable && !x.shown(a) && x.miss() && x.proxy.retries.doubt(x.req.Model, now) && x.count()
	case end != regions.EndPodLost:
		return false
	case a.nothingWritten():
		return a.resendable() && x.miss() &&
			(!errors.Is(err, errNoConnection) || x.proxy.retries.error(x.req.Model, now)) && x.count()
	case !a.repeatable || x.shown(a):
		return false
	}
	x.replays++
	return (a.paid.Load() || x.proxy.retries.death(x.req.Model, now)) && x.count()
}

// doubtful reports that an error may be the pod's or the request's own, and gives another
// pod that is to be asked, which tells: one that is there at once, and only once.
func (x *exchange) doubtful(a *attempt) (to place, asked bool) {
	switch {
	case a.place.pod == "", x.req.Frontend == regions.GRPC, !a.repeatable, x.doubted != nil:
		return place{}, false
	case a.status < http.StatusBadRequest, a.verdict() != regions.EndFailed:
		return place{}, false
	case !x.proxy.retries.doubt(x.req.Model, x.proxy.opts.Now()):
		return place{}, false
	}
	if to, asked = x.another(a.place.pod); asked {
		x.doubt(a)
		x.count()
	}
	return to, asked
}

// doubt keeps whom to blame for an error if another pod serves the request.
func (x *exchange) doubt(a *attempt) {
	if x.doubted == nil && a.verdict() == regions.EndFailed {
		x.doubted = a.place.blame
	}
}

// clear ends the doubt once there is an answer. One that finds fault with the request finds
// none with the first pod.
func (x *exchange) clear(a *attempt) {
	if x.doubted != nil && a.status < http.StatusBadRequest && a.verdict() == regions.EndServed {
		x.doubted(x.proxy.opts.Now())
	}
	x.doubted = nil
}

// resendable reports that what was sent can be sent again.
func (a *attempt) resendable() bool { return a.sent.Whole() || a.x.body.Intact() }

// maxBusy bounds the answer of a pod that has no room, in bytes.
const maxBusy = 4 << 10

// busyWords are what Triton says, with 503, of requests that it did not begin: its queue
// is full, or the request has been in it for too long.
var busyWords = [...]string{"Exceeds maximum queue size", "Request timeout expired"}

// isBusy reports that a pod says so.
func isBusy(said string) bool {
	return slices.ContainsFunc(busyWords[:], func(w string) bool { return strings.Contains(said, w) })
}

// busy reports that a pod refused a request before it began, and that another is to be
// asked. Of an ensemble some part may have run, which harms only what is not generation.
func (x *exchange) busy(a *attempt, res *http.Response) bool {
	a.note(res)
	allowed := x.proxy.retries.error
	if res.StatusCode == http.StatusBadRequest {
		allowed = x.proxy.retries.doubt // a client's words may be among these
	}
	return a.full && a.repeatable && x.miss() && allowed(x.req.Model, x.proxy.opts.Now()) && x.count()
}

// note reads the words with which a pod refuses a request. Triton answers a generation that
// fails before its first response with 400, whatever the reason is.
func (a *attempt) note(res *http.Response) {
	unavailable, bad := res.StatusCode == http.StatusServiceUnavailable, res.StatusCode == http.StatusBadRequest && a.x.generates()
	if a.place.pod == "" || !unavailable && !bad {
		return
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxBusy))
	a.full = err == nil && isBusy(string(text))
	a.erred = bad && !a.full && resume.NewPodError(string(text)).Retryable
	res.Body = &gatheredBody{io.MultiReader(bytes.NewReader(text), res.Body), res.Body}
}

// shown reports that the client may have got something of an attempt's answer.
func (x *exchange) shown(a *attempt) bool {
	if a.events.Load() {
		return x.stream.begun.Load() && x.stream.object == nil
	}
	return a.first.Load() != 0
}

// miss counts an attempt for which nobody worked, and reports that another is allowed.
func (x *exchange) miss() bool {
	x.misses++
	return x.misses <= x.limits.Misses
}

func (x *exchange) count() bool {
	x.proxy.metrics.replays.WithLabelValues(string(x.req.Model)).Inc()
	return true
}

// movable reports that a request whose pod is out and silent can go on elsewhere. It
// is called from the vigil, beside the exchange.
func (x *exchange) movable(a *attempt) bool {
	if a.events.Load() && x.stream.begun.Load() && x.stream.resumable.Load() {
		return true
	}
	if x.shown(a) || !a.repeatable {
		return false
	}
	if !a.paid.Load() {
		a.paid.Store(x.proxy.retries.death(x.req.Model, x.proxy.opts.Now()))
	}
	return a.paid.Load()
}

// retries are the budgets of each model that somebody knows.
type retries struct {
	mu     sync.Mutex
	models map[regions.ModelName]*repeats
}

// repeats is one model's budget and how many of its requests are under way.
type repeats struct {
	budget  budget.Budget
	running int
}

func (r *retries) begin(m regions.ModelName, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.models == nil {
		r.models = map[regions.ModelName]*repeats{}
	}
	if r.models[m] == nil {
		r.models[m] = &repeats{}
	}
	r.models[m].running++
	r.models[m].budget.Request(now)
}

// end counts a request out that was counted in.
func (r *retries) end(x *exchange) {
	if !x.known {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.models[x.req.Model].running--
}

func (r *retries) death(m regions.ModelName, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.models[m]
	return of.budget.Death(now, of.running)
}

func (r *retries) doubt(m regions.ModelName, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.models[m].budget.Doubt(now)
}

func (r *retries) error(m regions.ModelName, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.models[m].budget.Error(now)
}
