package attrition

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// callConns is how many connections the clients of gRPC share. The gateway takes 100
// streams at once on each, and 300 are not spread evenly.
const callConns = 4

// callAsker asks by ModelStreamInfer, each time on a stream of its own.
type callAsker struct {
	conns []*grpc.ClientConn
	next  chan *grpc.ClientConn // one after the other
}

func newCallAsker(gateway netip.AddrPort) (*callAsker, error) {
	c := &callAsker{next: make(chan *grpc.ClientConn, callConns)}
	for range callConns {
		conn, err := grpc.NewClient("passthrough:///"+gateway.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			c.close()
			return nil, err
		}
		c.conns = append(c.conns, conn)
		c.next <- conn
	}
	return c, nil
}

func (c *callAsker) close() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *callAsker) ask(ctx context.Context, prompt string, tokens int) (answer, error) {
	a := answer{want: strings.Join(tritontest.Tokens("llama", prompt, tokens), "")}
	conn := <-c.next
	c.next <- conn
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	stream, err := inferencepb.NewGRPCInferenceServiceClient(conn).ModelStreamInfer(ctx)
	if err != nil {
		return a, err
	}
	if err := errors.Join(stream.Send(question(prompt, tokens)), stream.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return a, err // io.EOF: the status says why
	}
	err = a.hear(stream)
	a.resumed = len(stream.Trailer().Get(proxy.ResumedHeader)) > 0
	return a, err
}

// question asks for tokens as a stream.
func question(prompt string, tokens int) *inferencepb.ModelInferRequest {
	return &inferencepb.ModelInferRequest{
		ModelName: "llama", Id: "1",
		Inputs: []*inferencepb.ModelInferRequest_InferInputTensor{
			{Name: "text_input", Datatype: "BYTES", Shape: []int64{1}, Contents: &inferencepb.InferTensorContents{BytesContents: [][]byte{[]byte(prompt)}}},
			{Name: "stream", Datatype: "BOOL", Shape: []int64{1}, Contents: &inferencepb.InferTensorContents{BoolContents: []bool{true}}},
		},
		Parameters: map[string]*inferencepb.InferParameter{
			"max_tokens": {ParameterChoice: &inferencepb.InferParameter_Int64Param{Int64Param: int64(tokens)}},
		},
	}
}

// hear reads responses to the end of the stream.
func (a *answer) hear(stream grpc.BidiStreamingClient[inferencepb.ModelInferRequest, inferencepb.ModelStreamInferResponse]) error {
	var text strings.Builder
	last := time.Time{}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			a.text = text.String()
			return nil
		}
		if err != nil {
			a.typed = strings.Contains(err.Error(), "stream_interrupted")
			return err
		}
		if now := time.Now(); !last.IsZero() {
			a.pause = max(a.pause, now.Sub(last))
		}
		last = time.Now()
		if said := r.GetErrorMessage(); said != "" {
			a.typed = strings.Contains(said, "stream_interrupted")
			return errors.New(said)
		}
		part, err := textOf(r.GetInferResponse())
		if err != nil {
			return err
		}
		text.WriteString(part)
	}
}

// prefix is the length of what stands before a text in a raw tensor: its length.
const prefix = 4

// textOf is the text that a response has.
func textOf(r *inferencepb.ModelInferResponse) (string, error) {
	for i, out := range r.GetOutputs() {
		switch raw, typed := r.GetRawOutputContents(), out.GetContents().GetBytesContents(); {
		case out.GetName() != "text_output":
		case len(typed) == 1:
			return string(typed[0]), nil
		case i < len(raw) && len(raw[i]) >= prefix:
			return string(raw[i][prefix:]), nil
		default:
			return "", fmt.Errorf("text_output without one text: %v", out)
		}
	}
	return "", nil // the mark of the end alone
}
