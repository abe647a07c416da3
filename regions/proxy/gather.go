package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
)

// The two ways to ask a pod for text. Triton does not notice that the client of a
// generate has left, and works on to the end; with generate_stream it does.
const (
	generatePath       = "/generate"
	generateStreamPath = "/generate_stream"
)

// unary reports that the request asks for text in one piece.
func (x *exchange) unary() bool {
	return x.req.Replayable && strings.HasSuffix(x.in.URL.Path, generatePath)
}

// gatherAll asks for a stream and makes it an answer in one piece.
func (x *exchange) gatherAll() (*http.Response, error) {
	s := x.stream
	u := *x.out.URL
	u.Path = strings.TrimSuffix(u.Path, generatePath) + generateStreamPath
	x.out = x.out.Clone(x.out.Context())
	x.out.URL = &u
	res, err := x.launch(s)
	if err != nil {
		return nil, err
	}
	if !x.current.events.Load() {
		return s.early(res)
	}
	for s.end == nil {
		if s.cut != nil {
			s.goOn()
		} else {
			s.step()
		}
	}
	switch {
	case s.told != nil:
		status, body := s.gather.Failed(x.current.status, s.told)
		return inOne(res, status, body), nil //nolint:nilerr // the pod's error is the answer
	case !errors.Is(s.end, io.EOF):
		return nil, s.end
	}
	status, body := s.gather.Answer()
	res = inOne(res, status, body)
	if x.resumed > 0 {
		res.Header.Set(ResumedHeader, strconv.Itoa(x.resumed))
	}
	return res, nil
}

// maxRefusal bounds the answer of a pod that refuses, in bytes; Triton's are short.
const maxRefusal = 64 << 10

// early takes an answer that is no stream of text: an error, as an event if the
// model began.
func (s *stream) early(res *http.Response) (*http.Response, error) {
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return res, nil
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxRefusal))
	if err != nil {
		return nil, &lostError{s.x.current.place, err}
	}
	split := sse.NewSplitter(maxRefusal)
	split.Feed(text)
	event, _ := split.Next() // nil if it is none, which is no error of a pod
	var told *resume.PodError
	if errors.As(s.gather.Event(event), &told) {
		status, body := s.gather.Failed(res.StatusCode, told)
		return inOne(res, status, body), nil
	}
	return inOne(res, res.StatusCode, text), nil
}

// inOne is an answer with a JSON body instead of its events. What is left of these
// was read.
func inOne(res *http.Response, status int, body []byte) *http.Response {
	own := *res
	own.Header = res.Header.Clone()
	own.Header.Set("Content-Type", "application/json")
	own.Header.Set("Content-Length", strconv.Itoa(len(body)))
	own.StatusCode, own.Status = status, ""
	own.ContentLength, own.TransferEncoding, own.Trailer = int64(len(body)), nil, nil
	own.Body = &gatheredBody{bytes.NewReader(body), res.Body}
	return &own
}

// gatheredBody reads an answer from memory, and closes the one that it was made of.
type gatheredBody struct {
	io.Reader
	from io.Closer
}

// Close closes what it was made of.
func (b *gatheredBody) Close() error { return b.from.Close() }

// first is what the first pod is sent.
func (s *stream) first() []byte {
	if s.gather != nil {
		return s.gather.Body()
	}
	return s.session.Body()
}

// event takes one event and gives what the client gets for it.
func (s *stream) event(event []byte) ([]byte, error) {
	if s.gather != nil {
		return nil, s.gather.Event(event)
	}
	return s.session.Event(event)
}

// last gives what the client gets at the end.
func (s *stream) last() ([]byte, error) {
	if s.gather != nil {
		return nil, s.gather.Finish()
	}
	return s.session.Finish()
}

// stopped reports that the answer has ended and the pod does not know.
func (s *stream) stopped() bool {
	if s.gather != nil {
		return s.gather.Stopped()
	}
	return s.session.Stopped()
}

// refusal says why the stream can't be resumed.
func (s *stream) refusal() resume.Reason {
	if s.gather != nil {
		return s.gather.Refusal()
	}
	return s.session.Refusal()
}

// onward is the body for the next pod.
func (s *stream) onward(now time.Time) ([]byte, error) {
	if s.gather != nil {
		return s.gather.Continue(now)
	}
	return s.session.Continue(now)
}
