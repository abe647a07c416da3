package rpc

import (
	"context"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/socket"
)

// frame is what precedes each message: a flag and its length.
const frame = 5

// admit finds the model of a request and decodes it.
func (s *Server) admit(r *pb.ModelInferRequest) (*core.Engine, core.Request, *core.Error) {
	if err := s.accepting(); err != nil {
		return nil, core.Request{}, err
	}
	eng, err := s.core.Lookup(r.ModelName, r.ModelVersion)
	if err == nil {
		err = s.core.Serving()
	}
	if err != nil {
		return nil, core.Request{}, err
	}
	q, err := decode(r, eng.Model())
	return eng, q, err
}

// run generates for one request of a connection and enters it in the ledger.
func (s *Server) run(ctx context.Context, c *socket.Conn, eng *core.Engine, q core.Request, stream bool, out func(*core.Job) core.Answer) {
	j := s.core.Begin(core.GRPC, eng.Model(), q, stream)
	c.Carry(j)
	j.Ended(s.core.Generate(ctx, eng, j, q, out(j)))
	c.Settle(j)
}

// ModelInfer serves coupled models; a client that leaves cancels its request.
func (s *Server) ModelInfer(ctx context.Context, r *pb.ModelInferRequest) (*pb.ModelInferResponse, error) {
	eng, q, err := s.admit(r)
	if eng != nil && !eng.Model().Coupled {
		err = core.Unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
	}
	if err != nil {
		return nil, failure(err)
	}
	one := new(oneAnswer)
	s.run(ctx, connOf(ctx), eng, q, false, func(j *core.Job) core.Answer {
		one.job = j
		return one
	})
	switch {
	case one.err != nil:
		return nil, failure(one.err)
	case one.response == nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return one.response, nil
}

// oneAnswer is the one response of ModelInfer.
type oneAnswer struct {
	job      *core.Job
	response *pb.ModelInferResponse
	err      *core.Error
}

// Events is false: it is no stream.
func (a *oneAnswer) Events() bool { return false }

// Send keeps the response.
func (a *oneAnswer) Send(m core.Model, q core.Request, s core.Step) error {
	a.response = encode(m, q, s)
	a.job.Wrote(frame + proto.Size(a.response))
	return nil
}

// Finish keeps the error.
func (a *oneAnswer) Finish(err *core.Error) core.End {
	if err != nil {
		a.err = err
		a.job.Wrote(len(err.Text))
		return core.Failed
	}
	return core.Completed
}
