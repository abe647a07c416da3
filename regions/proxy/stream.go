package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/peek"
	"github.com/rhumb-lb/rhumb/regions/proxy/answer"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/vigil"
	"github.com/rhumb-lb/rhumb/regions/rpc"
)

// stream is an answer in parts, which the client gets whole, over one pod or, where
// pods are lost, several. It is the body of the answer.
type stream struct {
	answer.Answer
	x      *exchange
	object *answer.Object // the answer, if it is one object
	calls  *answer.Calls  // the answer, if it is these

	from io.ReadCloser // the present pod's answer
	buf  []byte
	out  []byte // for the client, not yet read
	cut  error  // why the present pod's answer ended before its time; to be seen to
	end  error
	lost error // why the answer ended before its time, and nobody went on
	took bool  // something whole
	idle bool  // it has no pod: all that was asked is answered
	// parted is closed when the pod that was let go then has ended its side.
	parted chan struct{}
	// resumes is how many pods it took until the present one went on.
	resumes int
	// own is the answer that the client gets, with what it was promised of the first
	// pod's trailer.
	own *http.Response
	// What the vigil asks: whether anything was given to the client, and whether the
	// stream could go on elsewhere.
	begun, resumable atomic.Bool
}

// newStream opens the request as a stream, if it is one or can be made one.
func (x *exchange) newStream() *stream {
	s := &stream{x: x}
	profile, limits := x.route.Profile, resume.DefaultLimits()
	switch {
	case x.req.Frontend == regions.GRPC:
		if !x.duplex() || profile.Name == "" || profile.Name == resume.OpenAI().Name {
			return nil
		}
		s.calls = answer.NewCalls(x.body, answer.CallOptions{
			Profile: profile, Limits: limits, Keep: int(x.limits.Buffer), Resume: !x.route.NoResume, Replay: !x.route.NoReplay,
			Arrived: func() { x.proxy.opts.Pool.Arrive(x.req.Model) },
		})
		s.Answer = s.calls
	case x.req.Streams:
		if x.req.Frontend == regions.OpenAI {
			// Its words are the same whatever is behind it; a model without a profile is
			// not resumed all the same.
			if profile.Name == "" {
				limits = resume.Limits{}
			}
			profile = resume.OpenAI()
		} else if profile.Name == resume.OpenAI().Name {
			profile = resume.Profile{}
		}
		s.Answer = answer.NewEvents(profile, limits, x.body, x.body.Bytes())
	case x.unary() && x.body.Whole():
		if s.object = answer.NewObject(profile, limits, x.body.Bytes()); s.object == nil {
			return nil
		}
		s.Answer = s.object
	default:
		return nil
	}
	return s
}

// duplex reports that the request goes on while it is answered.
func (x *exchange) duplex() bool { return x.req.Frontend == regions.GRPC && x.req.Streams }

// takes reports that an answer is one in parts.
func (s *stream) takes(res *http.Response) bool {
	if s.calls != nil {
		// A status alone is an answer of its own, but for the good end of a stream that
		// others have begun.
		code, answered := rpc.Answered(res.Header)
		return res.StatusCode == http.StatusOK && (!answered || s.own != nil && code == rpc.OK)
	}
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return res.StatusCode == http.StatusOK && kind == "text/event-stream"
}

// open takes a pod's answer over, waits for its first part and gives the answer for
// the client. It is an error if the pod's answer ends before. Comments before the first
// part are for nobody.
func (s *stream) open(res *http.Response) (*http.Response, error) {
	s.x.current.events.Store(true)
	s.from, s.cut = res.Body, nil
	if s.buf == nil {
		s.buf = make([]byte, 4<<10) // a burst of events; they come one by one
	}
	for s.took = false; !s.took && s.end == nil && s.cut == nil; {
		s.step()
	}
	if !s.took && s.cut != nil && !s.tellable() {
		return nil, s.cut
	}
	s.begun.Store(true)
	// A copy, lest the transport put the pod's trailers over ours.
	own := *res
	own.Body, own.Trailer = s, nil
	if own.ContentLength >= 0 { // of the pod's events, not of the client's
		own.Header, own.ContentLength = res.Header.Clone(), -1
		own.Header.Del("Content-Length")
	}
	if s.own == nil {
		s.own = &own
		if s.calls == nil { // calls have trailers without announcing them
			own.Trailer = maps.Clone(res.Trailer)
			if s.Refusal() == "" {
				if own.Trailer == nil {
					own.Trailer = http.Header{}
				}
				own.Trailer[ResumedHeader] = nil
			}
		}
	}
	return &own, nil
}

// tellable reports that an answer which begins with the end is one all the same: it goes
// on elsewhere from there, or it is not to be asked for again, so that the client gets
// what the pod says.
func (s *stream) tellable() bool {
	_, told := errors.AsType[*resume.PodError](s.cut)
	return told && (s.resumable.Load() || !s.x.current.repeatable)
}

// Read gives what comes next for the client.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		switch {
		case s.cut != nil:
			s.goOn()
		case s.end != nil:
			s.trail()
			return 0, s.end
		case s.rests():
			s.wake()
		default:
			s.step()
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// trail ends the answer with the pod's trailer, as far as it was announced, and ours.
func (s *stream) trail() {
	if s.parted != nil {
		<-s.parted // with its trailer
	}
	last := s.x.current
	if s.calls != nil {
		s.own.Trailer = last.callTrailer(s.lost)
	} else {
		for name, v := range last.trailer() {
			if _, announced := s.own.Trailer[name]; announced && name != ResumedHeader {
				s.own.Trailer[name] = v
			}
		}
	}
	if _, announced := s.own.Trailer[ResumedHeader]; !announced && s.calls == nil {
		return
	}
	if n := s.resumed(); n > 0 {
		s.own.Trailer.Set(ResumedHeader, strconv.Itoa(n))
	}
}

// resumed is how often the answer went on at another pod, here and in the region that
// gave it.
func (s *stream) resumed() int {
	a := s.x.current
	if a.place.pod != "" {
		return s.resumes
	}
	there, _ := strconv.Atoi(a.trailer().Get(ResumedHeader))
	return s.resumes + max(0, there)
}

// Close stops the present pod's answer.
func (s *stream) Close() error { return s.from.Close() }

// step reads once from the present pod.
func (s *stream) step() {
	n, err := s.from.Read(s.buf)
	h := s.Hear(s.buf[:n])
	switch {
	case h.Cut != nil || h.End != nil || err == nil:
	case errors.Is(err, io.EOF):
		h = h.Then(s.Over(s.x.current.trailers()))
	default:
		h.Cut = err
	}
	a := s.x.current
	a.sick, a.erred = a.sick || h.Sick, a.erred || h.Told > 0
	s.x.proxy.metrics.told(s.x.req.Model, h.Told)
	s.took = s.took || h.Some
	s.out, s.cut, s.end = h.Out, h.Cut, h.End
	if errors.Is(h.End, io.EOF) {
		a.bodyErr = io.EOF // though the pod may not know
	}
	if a.print == (regions.Fingerprint{}) && a.place.print != nil && n > 0 {
		a.print = a.place.print()
	}
	s.resumable.Store(!s.x.route.NoResume && s.Refusal() == "" && a.print != (regions.Fingerprint{}))
}

// goOn sees to a stream whose pod is lost: another pod goes on, or the client is told
// that there is none.
func (s *stream) goOn() {
	x, cut := s.x, s.cut
	s.out = nil
	if x.w.Err != nil || errors.Is(x.cause(), errClientGone) {
		s.cut, s.end = nil, cut // nobody is there any more
		return
	}
	cut = cmp.Or(x.cause(), cut)
	if bad := x.body.Failure(); errors.As(bad, new(peek.BodyError)) {
		cut = bad
	}
	for {
		a := x.current
		if !a.settled {
			a.bodyErr = s.cut
			_ = s.from.Close()
			a.settle(a.ended())
		}
		x.doubt(a)
		out, err := s.rest(a)
		s.out = append(s.out, out...)
		switch {
		case errors.Is(err, resume.ErrComplete):
			x.end = regions.EndServed
			s.cut, s.end = nil, io.EOF
			return
		case err != nil:
			x.proxy.metrics.resumed(x.req.Model, err)
			s.tell(cut, err)
			return
		case len(s.out) > 0:
			return // it goes to the client first: the next pod may have nothing to say for long
		}
		if cut = s.carryOn(a); cut == nil {
			return
		}
		if s.cut = cut; x.current == a { // no place was to be had
			s.tell(cut, errNoPlace)
			return
		}
	}
}

var (
	errNoResume      = errors.New("not resumed: it is off, or the pod was not lost")
	errNoPlace       = errors.New("not resumed: no pod has room")
	errNoFingerprint = errors.New("not resumed: the model's fingerprint is not known")
)

// rest makes the payload for the next pod after an attempt that was lost, and gives what
// the client gets before.
func (s *stream) rest(lost *attempt) ([]byte, error) {
	switch end := s.x.end; {
	case s.x.route.NoResume, end != regions.EndPodLost && end != regions.EndPodError && end != regions.EndFailed:
		return nil, errNoResume
	case lost.print == (regions.Fingerprint{}) && s.x.req.Same == (regions.Fingerprint{}):
		return nil, errNoFingerprint
	default:
		out, err := s.Continue(s.x.proxy.opts.Now())
		early, ok := errors.AsType[*resume.EarlyError](err)
		switch {
		case ok && len(out) > 0:
			return out, nil // the client need not wait for it
		case ok && s.x.rest(early.Until):
			return s.Continue(s.x.proxy.opts.Now())
		default:
			return out, err
		}
	}
}

// carryOn asks another pod for the rest. One that turns out to be a black hole before it
// said anything costs nothing: the next one is asked the same. One that is lost costs a
// resume, since it may be the request that kills pods.
func (s *stream) carryOn(lost *attempt) error {
	x := s.x
	if x.req.Same == (regions.Fingerprint{}) {
		x.req.Same = lost.print
	}
	x.avoid(lost)
	x.resumed++
	res, err := x.launch(s)
	for last := lost; err != nil; res, err = x.launch(s) {
		if x.current == last || !errors.Is(err, vigil.ErrAbandoned) || !x.miss() {
			return err
		}
		last = x.current
		x.avoid(last)
	}
	if now := x.current; !now.events.Load() {
		_ = res.Body.Close()
		now.settle(now.verdict())
		return fmt.Errorf("%s: status %d where the rest of a stream was asked for", now.place.name(), now.status)
	}
	s.resumes = x.resumed
	x.proxy.metrics.resumed(x.req.Model, nil)
	x.proxy.log.Info("stream resumed", "model", x.req.Model, "from", lost.place.name(), "at", x.current.place.name(), "resumes", x.resumed)
	return nil
}

// tell ends a stream that can't go on, and why it can't, with words that say so.
func (s *stream) tell(cut, why error) {
	s.out = append(s.out, s.Interrupt(cutText(cut))...)
	s.lost, s.cut, s.end = cut, nil, io.EOF
	if s.object == nil {
		s.x.proxy.log.Warn("stream ended before its time", "model", s.x.req.Model, "at", s.x.current.place.name(), "err", cut, "why", why)
	}
}

// cutText is what the client is told of a stream that ends before its time.
func cutText(cut error) string {
	var bad peek.BodyError
	switch {
	case errors.As(cut, &bad):
		return bad.Error()
	case errors.Is(cut, errStalled):
		return "no token from the pod for too long"
	case errors.Is(cut, errTotal):
		return "the request took too long"
	case errors.Is(cut, errIdle), errors.Is(cut, errDeadline), errors.Is(cut, errDismissed), errors.As(cut, new(unservedError)):
		return cut.Error()
	default:
		return "the pod was lost in the middle of its answer"
	}
}

// The two ways to ask a pod for text. Triton does not notice that the client of a
// generate has left, and works on to the end; with generate_stream it does.
const (
	generatePath       = "/generate"
	generateStreamPath = "/generate_stream"
)

// generates reports that the request is one of these two.
func (x *exchange) generates() bool {
	return x.unary() || x.req.Replayable && strings.HasSuffix(x.in.URL.Path, generateStreamPath)
}

// unary reports that the request asks for text in one piece.
func (x *exchange) unary() bool {
	return x.req.Replayable && strings.HasSuffix(x.in.URL.Path, generatePath)
}
