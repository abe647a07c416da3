package agent

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// service is the path of Triton's methods.
const service = "/inference.GRPCInferenceService/"

// script is a simulated pod whose gRPC port does what a test says.
func (m *members) script(o *Options, serve http.HandlerFunc) []*tritontest.Pod {
	m.t.Helper()
	server := httptest.NewUnstartedServer(serve)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	m.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	m.count = 1
	pods, found := m.pods("scripted", "llama")
	found[0].GRPC = netip.MustParseAddrPort(server.Listener.Addr().String())
	source, err := discovery.NewStatic(found)
	if err != nil {
		m.t.Fatal(err)
	}
	o.Sources = []discovery.Source{source}
	return pods
}

// resumes makes a region's streams go on when their pod is lost.
func (o *Options) resumes(t *testing.T) {
	t.Helper()
	profile, err := resume.NewProfile("vllm")
	if err != nil {
		t.Fatal(err)
	}
	for i := range o.Models {
		o.Models[i].Route = proxy.Route{Profile: profile}
	}
}

// caller is a client of gRPC, over TLS if it trusts somebody.
func (s *site) caller(trust *tls.Config) pb.GRPCInferenceServiceClient {
	s.t.Helper()
	way := insecure.NewCredentials()
	if trust != nil {
		way = credentials.NewTLS(trust)
	}
	conn, err := grpc.NewClient("passthrough:///"+s.Addrs()[0].String(), grpc.WithTransportCredentials(way))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return pb.NewGRPCInferenceServiceClient(conn)
}

// conversation is a stream of calls at its client.
type conversation = grpc.BidiStreamingClient[pb.ModelInferRequest, pb.ModelStreamInferResponse]

// converse opens one that asks for nothing yet.
func (s *site) converse() conversation {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*patience)
	s.t.Cleanup(cancel)
	c, err := s.caller(nil).ModelStreamInfer(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// asking is a request for tokens as a stream.
func asking(model, id, text string, tokens int64) *pb.ModelInferRequest {
	return &pb.ModelInferRequest{
		ModelName: model, Id: id,
		Inputs: []*pb.ModelInferRequest_InferInputTensor{
			{Name: "text_input", Datatype: "BYTES", Shape: []int64{1}, Contents: &pb.InferTensorContents{BytesContents: [][]byte{[]byte(text)}}},
			{Name: "stream", Datatype: "BOOL", Shape: []int64{1}, Contents: &pb.InferTensorContents{BoolContents: []bool{true}}},
		},
		Parameters: map[string]*pb.InferParameter{"max_tokens": {ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: tokens}}},
	}
}

// written is what a pod writes if nothing happens to it.
func written(model, text string, tokens int) string {
	return strings.Join(tritontest.Tokens(model, text, tokens), "")
}

// textOf is a response's text.
func textOf(m *pb.ModelStreamInferResponse) string {
	r := m.GetInferResponse()
	for i, out := range r.GetOutputs() {
		switch raw := r.GetRawOutputContents(); {
		case out.GetName() != "text_output":
		case len(raw) > 0:
			return string(raw[i][4:])
		default:
			return string(out.GetContents().GetBytesContents()[0])
		}
	}
	return ""
}

// whole reads a conversation of one request to its end: io.EOF is well.
func whole(c conversation) (text, told string, err error) {
	var all strings.Builder
	for {
		m, err := c.Recv()
		if err != nil {
			return all.String(), told, err
		}
		told += m.GetErrorMessage()
		all.WriteString(textOf(m))
	}
}

// frame is a message as it goes over the wire.
func frame(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// readFrame reads a message's bytes off the wire.
func readFrame(r io.Reader) ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[1:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

// say writes messages at once.
func say(w http.ResponseWriter, all ...proto.Message) {
	for _, m := range all {
		_, _ = w.Write(frame(m))
	}
	_ = http.NewResponseController(w).Flush()
}

// reply is a scripted pod's only response to a request, which it says as Triton and its
// vLLM backend do.
func reply(id string) *pb.ModelStreamInferResponse {
	return &pb.ModelStreamInferResponse{InferResponse: &pb.ModelInferResponse{
		ModelName: "llama", Id: id,
		Outputs: []*pb.ModelInferResponse_InferOutputTensor{
			{Name: "text_output", Datatype: "BYTES", Shape: []int64{1}, Contents: &pb.InferTensorContents{BytesContents: [][]byte{[]byte("so")}}},
			{Name: "finish_reason", Datatype: "BYTES", Shape: []int64{1}, Contents: &pb.InferTensorContents{BytesContents: [][]byte{[]byte("stop")}}},
		},
		Parameters: map[string]*pb.InferParameter{"triton_final_response": {ParameterChoice: &pb.InferParameter_BoolParam{BoolParam: true}}},
	}}
}

// accept begins the answer to a call.
func accept(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/grpc")
	w.WriteHeader(http.StatusOK)
}

// conclude ends it, with further trailers as name, value pairs.
func conclude(w http.ResponseWriter, code, message string, more ...string) {
	all := append([]string{"Grpc-Status", code, "Grpc-Message", message}, more...)
	for i := 0; i+1 < len(all); i += 2 {
		if all[i+1] != "" {
			w.Header().Add(http.TrailerPrefix+all[i], all[i+1])
		}
	}
}

// counted is how many requests for a model have ended so.
func (s *site) counted(model string, end regions.End) (n float64) {
	s.t.Helper()
	families, err := s.opts.Registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "rhumb_proxy_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["model"] == model && labels["end"] == end.String() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}
