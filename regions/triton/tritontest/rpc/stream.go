package rpc

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// finalResponse and emptyFinal are the parameters by which decoupled models tell
// the end of a request, and by which clients ask to be told.
const (
	finalResponse = "triton_final_response"
	emptyFinal    = "triton_enable_empty_final_response"
)

// errClosed ends what is left of a stream that was closed by an error.
var errClosed = errors.New("stream is closed")

// exchange is one ModelStreamInfer.
type exchange struct {
	server *Server
	stream grpc.BidiStreamingServer[pb.ModelInferRequest, pb.ModelStreamInferResponse]
	strict bool           // triton_grpc_error: the first failed response closes the stream
	wg     sync.WaitGroup // requests under way
	order  chan struct{}  // closed when the last coupled request before has answered

	mu     sync.Mutex // guards failed, and sending
	failed *core.Error
}

// ModelStreamInfer serves requests that share a stream: those for decoupled
// models side by side, the others one after the other. It ends when the client
// has half-closed and all are answered.
func (s *Server) ModelStreamInfer(stream grpc.BidiStreamingServer[pb.ModelInferRequest, pb.ModelStreamInferResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	x := &exchange{server: s, stream: stream, order: make(chan struct{})}
	close(x.order)
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		values := md.Get("triton_grpc_error")
		x.strict = len(values) > 0 && values[0] == "true"
	}
	requests := make(chan *pb.ModelInferRequest)
	var broken error // of the reader; read after requests is closed
	s.wg.Go(func() {
		defer close(requests)
		for {
			r, err := stream.Recv()
			if err != nil {
				broken = err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				broken = ctx.Err()
				return
			}
		}
	})
	err := x.serve(ctx, requests, cancel)
	if err == nil && !errors.Is(broken, io.EOF) {
		cancel() // the client has left
		err = broken
	}
	x.wg.Wait()
	cancel()
	if x.failed != nil {
		return failure(x.failed)
	}
	return err
}

// serve begins requests until there are no more, or the stream is over.
func (x *exchange) serve(ctx context.Context, requests <-chan *pb.ModelInferRequest, cancel context.CancelFunc) error {
	for {
		select {
		case r, more := <-requests:
			if !more {
				return nil
			}
			x.begin(ctx, r, cancel)
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// begin answers one request in the background.
func (x *exchange) begin(ctx context.Context, r *pb.ModelInferRequest, cancel context.CancelFunc) {
	eng, q, err := x.server.admit(r)
	if err != nil {
		_ = x.send(refusal(r, err)) // a stream that is over needs no answer
		return
	}
	a := &streamAnswer{exchange: x, request: r, gone: ctx.Done(), cancel: cancel}
	if eng.Model().Coupled {
		a.turn = x.order
		x.order = make(chan struct{})
		a.done = x.order
	}
	x.wg.Go(func() {
		if a.done != nil {
			defer close(a.done)
		}
		x.server.run(ctx, connOf(ctx), eng, q, !eng.Model().Coupled, func(j *core.Job) core.Answer {
			a.job = j
			return a
		})
	})
}

// refusal is how a request fails that was never given to its model: only its id
// tells which.
func refusal(r *pb.ModelInferRequest, err *core.Error) *pb.ModelStreamInferResponse {
	return &pb.ModelStreamInferResponse{ErrorMessage: err.Text, InferResponse: &pb.ModelInferResponse{Id: r.Id}}
}

// send sends one response; a stream takes one at a time.
func (x *exchange) send(r *pb.ModelStreamInferResponse) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed != nil {
		return errClosed
	}
	return x.stream.Send(r)
}

// streamAnswer is the responses to one request of a stream.
type streamAnswer struct {
	exchange *exchange
	request  *pb.ModelInferRequest
	gone     <-chan struct{} // closed with the stream
	cancel   context.CancelFunc
	job      *core.Job
	turn     <-chan struct{} // a coupled model waits for it
	done     chan struct{}
	ended    bool // by the flag of the last response
}

// Events tells whether the model is decoupled.
func (a *streamAnswer) Events() bool { return a.turn == nil }

// Send sends one response. That of vLLM says itself that it is the last; a
// TensorRT-LLM ensemble ends without another response.
func (a *streamAnswer) Send(m core.Model, q core.Request, s core.Step) error {
	a.ended = s.Last() && (m.Flavour == core.VLLM || m.Coupled)
	return a.write(&pb.ModelStreamInferResponse{InferResponse: encode(m, q, s)}, a.ended)
}

func (a *streamAnswer) write(r *pb.ModelStreamInferResponse, final bool) error {
	if a.turn != nil {
		select {
		case <-a.turn:
		case <-a.gone:
			return errClosed
		}
	}
	if r.InferResponse.Parameters == nil {
		r.InferResponse.Parameters = make(map[string]*pb.InferParameter)
	}
	r.InferResponse.Parameters[finalResponse] = &pb.InferParameter{ParameterChoice: &pb.InferParameter_BoolParam{BoolParam: final}}
	if err := a.exchange.send(r); err != nil {
		return err
	}
	a.job.Wrote(frame + proto.Size(r))
	return nil
}

// Finish ends the request: with an error in-band while the stream stays open, or
// with an empty response if the client asked to be told.
func (a *streamAnswer) Finish(err *core.Error) core.End {
	r := a.request
	empty := &pb.ModelInferResponse{Id: r.Id, ModelName: r.ModelName, ModelVersion: r.ModelVersion}
	switch {
	case err != nil && err.Early:
		m := refusal(r, err)
		if a.exchange.send(m) != nil {
			return core.Running
		}
		a.job.Wrote(frame + proto.Size(m))
		return core.Failed
	case err != nil && a.exchange.strict:
		a.exchange.close(err, a.cancel)
		a.job.Wrote(len(err.Text))
		return core.Failed
	case err != nil:
		if a.write(&pb.ModelStreamInferResponse{ErrorMessage: err.Text, InferResponse: empty}, true) != nil {
			return core.Running
		}
		return core.Failed
	case !a.ended && r.Parameters[emptyFinal].GetBoolParam():
		if a.write(&pb.ModelStreamInferResponse{InferResponse: empty}, true) != nil {
			return core.Running
		}
	}
	return core.Completed
}

// close ends the stream with the status of its first failure.
func (x *exchange) close(err *core.Error, cancel context.CancelFunc) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed == nil {
		x.failed = err
	}
	cancel()
}
