package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
	"github.com/rhumb-lb/rhumb/regions/proxy/vigil"
)

// maxEvent bounds one event of a stream in bytes. An event has a token's text and some
// counters, or with log probabilities tens of kilobytes; what is longer passes as it
// comes, and is not resumed.
const maxEvent = 1 << 20

// stream is an answer in events, which the client gets whole, over one pod or, where
// pods are lost, several. It is the body of the answer.
type stream struct {
	x       *exchange
	session *resume.Session
	gather  *resume.Gathering // of a request that is answered in one piece; then there is no session
	body    []byte            // for the present pod
	whole   bool              // the client's body is in memory

	from  io.ReadCloser // the present pod's answer
	split *sse.Splitter
	buf   []byte
	out   []byte // for the client, not yet read
	own   []byte // the pod's own words on why it ends, for the client if nobody else goes on
	cut   error  // why the present pod's answer ended before its time; to be seen to
	end   error
	took  bool             // an event
	torn  bool             // an event was passed on in parts
	told  *resume.PodError // by the pod, for an answer in one piece
	// origin is the first pod's answer, whose trailer comes at its end; trailer is what
	// the client was promised of it, and ours.
	origin  *http.Response
	trailer http.Header
	// What the vigil asks: whether anything was given to the client, and whether the
	// stream could go on elsewhere.
	begun, resumable atomic.Bool
}

// newStream opens the request as a stream, if it is one or can be made one.
func (x *exchange) newStream() *stream {
	if x.req.Frontend == regions.GRPC {
		return nil
	}
	s := &stream{x: x, whole: x.body.Whole()}
	switch {
	case x.req.Streams:
		profile, limits := x.route.Profile, resume.DefaultLimits()
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
		s.session = resume.Open(profile, limits, x.body.Bytes()) // nil if it is not in memory: refused
	case s.whole && x.unary():
		if s.gather, _ = resume.Gather(x.route.Profile, resume.DefaultLimits(), x.body.Bytes()); s.gather == nil {
			return nil
		}
	default:
		return nil
	}
	if s.whole {
		s.body = s.first()
	}
	return s
}

// Open is the body for one attempt; it implements payload.
func (s *stream) Open(moved func()) io.ReadCloser {
	if !s.whole {
		return s.x.body.Open(moved)
	}
	return io.NopCloser(bytes.NewReader(s.body))
}

// Length implements payload.
func (s *stream) Length() int64 {
	if !s.whole {
		return s.x.body.Length()
	}
	return int64(len(s.body))
}

// Whole implements payload.
func (s *stream) Whole() bool { return s.whole }

// isEvents reports that an answer is a stream of events.
func isEvents(res *http.Response) bool {
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return res.StatusCode == http.StatusOK && kind == "text/event-stream"
}

// open takes a pod's answer over, waits for its first event and gives the answer for
// the client. It is an error if the pod's answer ends before.
func (s *stream) open(res *http.Response) (*http.Response, error) {
	a := s.x.current
	a.events.Store(true)
	s.from, s.split, s.cut, s.own = res.Body, sse.NewSplitter(maxEvent), nil, nil
	if s.buf == nil {
		s.buf = make([]byte, 4<<10) // a burst of events; they come one by one
	}
	for s.took = false; !s.took && s.end == nil && s.cut == nil; {
		s.step()
	}
	if !s.took && s.cut != nil {
		return nil, s.cut
	}
	s.resumable.Store(!s.x.route.NoResume && s.refusal() == "" && a.place.print != (regions.Fingerprint{}))
	s.begun.Store(true)
	// A copy, lest the transport put the pod's trailers over ours.
	own := *res
	own.Body = s
	if s.origin == nil {
		s.origin = res
		s.trailer = maps.Clone(res.Trailer)
		if s.refusal() == "" {
			if s.trailer == nil {
				s.trailer = http.Header{}
			}
			s.trailer[ResumedHeader] = nil
		}
	}
	own.Trailer = s.trailer
	return &own, nil
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
		default:
			s.step()
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// trail passes the pod's trailer on, as far as it was announced.
func (s *stream) trail() {
	for name, v := range s.origin.Trailer {
		if _, announced := s.trailer[name]; announced && name != ResumedHeader {
			s.trailer[name] = v
		}
	}
}

// Close stops the present pod's answer.
func (s *stream) Close() error { return s.from.Close() }

// step reads once from the present pod.
func (s *stream) step() {
	s.out = nil
	n, err := s.from.Read(s.buf)
	s.split.Feed(s.buf[:n])
	for s.cut == nil {
		event, tooLong := s.split.Next()
		if tooLong != nil {
			s.pass()
			return
		}
		if event == nil {
			break
		}
		if s.take(event); s.end != nil {
			return
		}
	}
	switch {
	case s.cut != nil || err == nil:
	case errors.Is(err, io.EOF):
		s.finish()
	default:
		s.cut = err
	}
}

// take takes one event.
func (s *stream) take(event []byte) {
	s.took = true
	out, err := s.event(event)
	var told *resume.PodError
	if errors.As(err, &told) && told.Status() >= http.StatusInternalServerError {
		s.x.current.inBand = true
	}
	switch {
	case told != nil && told.Retryable && !s.x.route.NoResume:
		s.cut, s.own = err, out
		return
	case s.gather != nil && err != nil:
		s.told, s.end, s.x.current.bodyErr = told, io.EOF, io.EOF
		if told == nil {
			s.end = err // the answer is too long
		}
		return
	}
	s.out = append(s.out, out...)
	if s.stopped() {
		s.x.current.bodyErr = io.EOF
		s.finish()
	}
}

// pass gives an event that is too long to the client as far as it has come, and what
// follows as it comes.
func (s *stream) pass() {
	if s.gather != nil {
		s.end = sse.ErrTooLong
		return
	}
	s.took, s.torn = true, true
	s.out = append(s.out, s.split.Rest()...)
	s.split = sse.NewSplitter(maxEvent)
	s.session.Skip()
	s.resumable.Store(false)
}

// finish ends a stream that is complete, or that its pod ended cleanly.
func (s *stream) finish() {
	last, err := s.last()
	if err != nil {
		s.cut = err
		return
	}
	s.out = append(append(s.out, s.split.Rest()...), last...)
	s.end = io.EOF
}

// goOn sees to a stream whose pod is lost: another pod goes on, or the client is told
// that there is none.
func (s *stream) goOn() {
	x, cut := s.x, s.cut
	s.cut, s.out = nil, nil
	if x.w.Err != nil || errors.Is(x.cause(), errClientGone) {
		s.end = cut // nobody is there any more
		return
	}
	for {
		a := x.current
		if !a.settled {
			a.bodyErr = cut
			_ = s.from.Close()
			a.settle(a.ended())
		}
		body, err := s.rest(a)
		if errors.Is(err, resume.ErrComplete) {
			x.end = regions.EndServed
			s.out, _ = s.last() // nothing is missing, so that it does not fail
			s.end = io.EOF
			return
		}
		if err != nil {
			x.proxy.metrics.resumed(x.req.Model, err)
			s.tell(cut, err)
			return
		}
		if cut = s.carryOn(a, body); cut == nil {
			return
		}
		if x.current == a { // no place was to be had
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

// rest is the body for the next pod after an attempt that was lost.
func (s *stream) rest(lost *attempt) ([]byte, error) {
	switch end := s.x.end; {
	case s.x.route.NoResume, end != regions.EndPodLost && end != regions.EndPodError:
		return nil, errNoResume
	case lost.place.print == (regions.Fingerprint{}) && s.x.req.Same == (regions.Fingerprint{}):
		return nil, errNoFingerprint
	default:
		body, err := s.onward(s.x.proxy.opts.Now())
		if early, ok := errors.AsType[*resume.EarlyError](err); ok && s.x.rest(early.Until) {
			body, err = s.onward(s.x.proxy.opts.Now())
		}
		return body, err
	}
}

// carryOn asks another pod for the rest. One that turns out to be a black hole before it
// said anything costs nothing: the next one is asked the same. One that is lost costs a
// resume, since it may be the request that kills pods.
func (s *stream) carryOn(lost *attempt, body []byte) error {
	x := s.x
	s.body = body
	if x.req.Same == (regions.Fingerprint{}) {
		x.req.Same = lost.place.print
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
		end := regions.EndServed
		if now.podError() {
			end = regions.EndPodError
		}
		now.settle(end)
		return fmt.Errorf("%s: status %d where the rest of a stream was asked for", now.place.name(), res.StatusCode)
	}
	x.proxy.metrics.resumed(x.req.Model, nil)
	x.proxy.log.Info("stream resumed", "model", x.req.Model, "from", lost.place.name(), "at", x.current.place.name(), "resumes", x.resumed)
	s.trailer.Set(ResumedHeader, strconv.Itoa(x.resumed))
	return nil
}

// tell ends a stream that can't go on, and why it can't, with an event that says so.
func (s *stream) tell(cut, why error) {
	if s.gather != nil {
		if s.cut, s.end = nil, io.EOF; !errors.As(cut, &s.told) {
			s.end = &lostError{s.x.current.place, cut}
		}
		return
	}
	if s.torn {
		s.out = []byte("\n\n") // half an event may have gone out
	}
	if len(s.own) > 0 {
		s.out = append(s.out, s.own...)
	} else {
		s.out = append(s.out, s.session.Terminal(cutText(cut))...)
	}
	s.cut, s.end = nil, io.EOF
	s.x.proxy.log.Warn("stream ended before its time", "model", s.x.req.Model, "at", s.x.current.place.name(), "err", cut, "why", why)
}

// cutText is what the client is told of a stream that ends before its time.
func cutText(cut error) string {
	switch {
	case errors.Is(cut, errStalled):
		return "no token from the pod for too long"
	case errors.Is(cut, errTotal):
		return "the request took too long"
	default:
		return "the pod was lost in the middle of its answer"
	}
}
