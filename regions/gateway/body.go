package gateway

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/affinity"
	"github.com/rhumb-lb/rhumb/regions/peek"
)

const (
	// senderStep is how much of a body may be waited for anew: a sender of single bytes
	// gets one senderStall for all of the next KiB. A model's name needs no more than
	// 64 of them.
	senderStep  = 1 << 10
	senderStall = 30 * time.Second

	// streamIdle is how long the first message of a stream may take: clients open one
	// before they have anything to say.
	streamIdle = 10 * time.Minute
)

// sender reads a body from the client under a rolling deadline, and under the one of
// the whole request, if it has one.
type sender struct {
	from  io.Reader
	ctl   *http.ResponseController
	due   int           // bytes until the wait begins anew
	wait  time.Duration // how long the client is still waited for until then
	until time.Time     // the zero time: no end
}

// Read reads from the client.
func (s *sender) Read(p []byte) (int, error) {
	began := time.Now()
	end := began.Add(s.wait)
	if !s.until.IsZero() && s.until.Before(end) {
		end = s.until
	}
	_ = s.ctl.SetReadDeadline(end)
	n, err := s.from.Read(p)
	s.wait -= time.Since(began)
	if s.due -= n; s.due <= 0 {
		s.due, s.wait = senderStep, senderStall
	}
	return n, err
}

// readHead reads the beginning of the request's body until the scanner has enough.
// After it nobody waits for the client, until the forwarder does.
func (v *visit) readHead(r *http.Request, s peek.Scanner) ([]byte, error) {
	ctl := http.NewResponseController(v)
	from := &sender{from: r.Body, ctl: ctl, due: 1, wait: senderStall}
	if v.route.name == callStreamInfer {
		from.wait = streamIdle
	}
	if v.timeout > 0 {
		from.until = time.Now().Add(v.timeout)
	}
	// Over HTTP/2 a deadline of writing that passes meanwhile would cut the stream.
	_ = ctl.SetWriteDeadline(time.Time{})
	head, err := peek.Head(from, s, peek.Most)
	_ = ctl.SetReadDeadline(time.Time{})
	_ = ctl.SetWriteDeadline(time.Now().Add(ownWrite))
	return head, err
}

// broken is the answer to a body that could not be read.
func broken(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &refusal{status: http.StatusRequestTimeout, text: "the request body came too slowly", hangUp: true}
	}
	return badRequest("the request body could not be read")
}

// read reads the route's model, where it is in the body, and the prompt, where it is
// wanted, and makes the body whole again.
func (g *Gateway) read(v *visit, r *http.Request) error {
	if v.route.frontend == regions.GRPC {
		return g.readMessage(v, r)
	}
	if v.route.frontend == regions.OpenAI {
		return g.readObject(v, r)
	}
	v.meet = g.opts.Affinity(v.route.model)
	if affinity.Wants(v.meet) && (v.route.name == routeGenerate || v.route.name == routeGenerateStream) {
		return v.readPrompt(r)
	}
	return nil
}

// readObject reads the model of one of OpenAI's requests.
func (g *Gateway) readObject(v *visit, r *http.Request) error {
	if kind := r.Header.Get("Content-Encoding"); kind != "" && kind != "identity" {
		return &refusal{status: http.StatusUnsupportedMediaType, text: "send the body without Content-Encoding", hangUp: true}
	}
	o := &peek.Object{Keep: affinity.PromptBytes}
	head, err := v.readHead(r, o)
	var bad peek.BodyError
	switch {
	case errors.As(err, &bad):
		return badRequest(bad.Error())
	case errors.Is(err, io.ErrUnexpectedEOF):
		return badRequest("the body must be a JSON object, and ends before its end")
	case err != nil:
		return broken(err)
	case o.Model == "" && o.Enough():
		return &refusal{status: http.StatusBadRequest, text: `the body must name its model, as "model"`, param: "model"}
	case o.Model == "":
		return &refusal{
			status: http.StatusBadRequest, text: `"model" is not within the first 64 KiB of the body; send it first`,
			param: "model", hangUp: true,
		}
	}
	v.route.model = regions.ModelName(o.Model)
	v.meet = g.opts.Affinity(v.route.model)
	v.streams, v.prompt = o.Stream, o.Prompt
	r.Body = peek.Whole(head, r.Body, o)
	return nil
}

// readMessage reads the model of a call.
func (g *Gateway) readMessage(v *visit, r *http.Request) error {
	m := new(peek.Messages)
	head, err := v.readHead(r, m)
	var bad peek.BodyError
	switch {
	case errors.Is(err, peek.ErrCompressed):
		return &refusal{status: http.StatusNotImplemented, text: err.Error(), accept: "identity"}
	case errors.As(err, &bad):
		return badRequest(bad.Error())
	case errors.Is(err, io.ErrUnexpectedEOF):
		return badRequest("the call ends before its first message does")
	case err != nil:
		return broken(err)
	case m.Model == "" && m.Enough():
		return badRequest("the message names no model")
	case m.Model == "":
		return badRequest("the model's name is not within the first 64 KiB of the message")
	}
	v.route.model = regions.ModelName(m.Model)
	v.meet = g.opts.Affinity(v.route.model)
	r.Body = peek.Whole(head, r.Body, m)
	return nil
}

// readPrompt reads how a prompt begins. What is wrong with such a body is the pod's
// to say, so it then is one without a prompt.
func (v *visit) readPrompt(r *http.Request) error {
	o := &prompt{peek.Object{Keep: affinity.PromptBytes}}
	head, err := v.readHead(r, o)
	var bad peek.BodyError
	if err != nil && !errors.As(err, &bad) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return broken(err)
	}
	v.prompt = o.Prompt
	r.Body = peek.Whole(head, r.Body, nil)
	return nil
}

// prompt has enough once it has as much of the prompt as is kept.
type prompt struct{ peek.Object }

// Enough reports that the prompt's beginning is known, or that it will not come.
func (p *prompt) Enough() bool { return len(p.Prompt) == p.Keep || p.Object.Enough() }
