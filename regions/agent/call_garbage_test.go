package agent

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions/regionstest"
	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// TestLaterMessagesAreReadToo: what is no message ends a stream by the client's fault,
// with requests of its own under way and without.
func TestLaterMessagesAreReadToo(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	o.resumes(t)
	s := m.start(o, pods)
	for _, tokens := range []int64{1, 10_000} {
		conn, err := grpc.NewClient(s.Addrs()[0].String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		x, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, pb.GRPCInferenceService_ModelStreamInfer_FullMethodName, grpc.ForceCodec(regionstest.BytesCodec{}))
		if err != nil {
			t.Fatal(err)
		}
		first, err := proto.Marshal(asking("llama", "1", "hi", tokens))
		var got []byte
		if err := errors.Join(err, x.SendMsg(&first), x.RecvMsg(&got)); err != nil {
			t.Fatal(err)
		}
		bad := []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffgarbage")
		for err = x.SendMsg(&bad); err == nil; {
			err = x.RecvMsg(&got)
		}
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "can't be read") {
			t.Errorf("%d tokens: %v", tokens, err)
		}
		_ = conn.Close()
	}
	for _, p := range s.pool.Pods() {
		if p.Failed > 0 {
			t.Errorf("%s is blamed", p.ID)
		}
	}
}
