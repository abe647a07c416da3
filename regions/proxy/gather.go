package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/rhumb-lb/rhumb/regions/proxy/answer"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
)

// gather asks for a stream and makes it an answer in one piece.
func (s *stream) gather() (*http.Response, error) {
	x := s.x
	u := *x.out.URL
	u.Path = strings.TrimSuffix(u.Path, generatePath) + generateStreamPath
	x.out = x.out.Clone(x.out.Context())
	x.out.URL = &u
	for {
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
		if !s.startOver() {
			return s.gathered(res)
		}
	}
}

// startOver reports that an answer of which the client has nothing, and which could not go
// on elsewhere, is to be asked for anew.
func (s *stream) startOver() bool {
	x := s.x
	if s.lost == nil || x.resumed > 0 || !x.retries(x.current, x.end, s.lost) {
		return false
	}
	x.avoid(x.current)
	s.object = answer.NewObject(x.route.Profile, resume.DefaultLimits(), x.body.Bytes())
	s.Answer, s.lost, s.end = s.object, nil, nil
	return true
}

// gathered is the answer made of all its events.
func (s *stream) gathered(res *http.Response) (*http.Response, error) {
	x := s.x
	if status, body, failed := s.object.Failed(x.current.status); failed {
		return inOne(res, status, body), nil
	}
	switch {
	case !errors.Is(s.end, io.EOF):
		return nil, s.end
	case s.lost != nil:
		return nil, &lostError{x.current.place, s.lost}
	}
	status, body := s.object.Result()
	res = inOne(res, status, body)
	if n := s.resumed(); n > 0 {
		res.Header.Set(ResumedHeader, strconv.Itoa(n))
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
	s.object.Hear(text)
	if status, body, failed := s.object.Failed(res.StatusCode); failed {
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
