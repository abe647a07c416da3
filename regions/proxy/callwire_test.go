package proxy_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"       //nolint:depguard // frame by frame, as no server of net/http sends them
	"golang.org/x/net/http2/hpack" //nolint:depguard // the same
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/rpc"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// service is a pod that answers as its functions say.
type service struct {
	inferencepb.UnimplementedGRPCInferenceServiceServer
	ready func(ctx context.Context) error
	infer func(grpc.BidiStreamingServer[inferencepb.ModelInferRequest, inferencepb.ModelStreamInferResponse]) error
}

func (s *service) ModelReady(ctx context.Context, _ *inferencepb.ModelReadyRequest) (*inferencepb.ModelReadyResponse, error) {
	return &inferencepb.ModelReadyResponse{Ready: true}, s.ready(ctx)
}

func (s *service) ModelStreamInfer(x grpc.BidiStreamingServer[inferencepb.ModelInferRequest, inferencepb.ModelStreamInferResponse]) error {
	return s.infer(x)
}

func (s *service) start(t *testing.T) string {
	t.Helper()
	l := listen(t)
	server := grpc.NewServer()
	inferencepb.RegisterGRPCInferenceServiceServer(server, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return l.Addr().String()
}

// startH2 serves HTTP/2 over plain TCP.
func startH2(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l := listen(t)
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), ReadHeaderTimeout: patience}
	s.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr().String()
}

// TestMetadata: what a client and a pod say to each other goes through exactly, but for
// what is the gateway's own.
func TestMetadata(t *testing.T) {
	var heard metadata.MD
	pod := &service{ready: func(ctx context.Context) error {
		heard, _ = metadata.FromIncomingContext(ctx)
		_ = grpc.SendHeader(ctx, metadata.Pairs("head-bin", "\x00\xff", "twice", "1", "twice", "2"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("tail-bin", "\x00\xfe", "twice", "3", "twice", "4", "rhumb-forged", "x"))
		return nil
	}}
	g := newRig(t, nil, pod.start(t))
	said := metadata.Pairs("triton_grpc_error", "true", "idempotency-key", "k", "a-bin", "\x00\x01", "twice", "1", "twice", "2")
	ctx := metadata.NewOutgoingContext(t.Context(), metadata.Join(said, metadata.Pairs("rhumb-spoof", "1")))
	var head, tail metadata.MD
	if _, err := g.caller(t).ModelReady(ctx, &inferencepb.ModelReadyRequest{Name: "llama"}, grpc.Header(&head), grpc.Trailer(&tail)); err != nil {
		t.Fatal(err)
	}
	for name, want := range said {
		if !slices.Equal(heard.Get(name), want) {
			t.Errorf("the pod hears %s as %q, want %q", name, heard.Get(name), want)
		}
	}
	if len(heard.Get("rhumb-spoof"))+len(tail.Get("rhumb-forged")) > 0 {
		t.Error("the gateway's own fields come from elsewhere")
	}
	if h, tw := head.Get("head-bin"), head.Get("twice"); !slices.Equal(h, []string{"\x00\xff"}) || !slices.Equal(tw, []string{"1", "2"}) {
		t.Errorf("the head is %v", head)
	}
	if b, tw := tail.Get("tail-bin"), tail.Get("twice"); !slices.Equal(b, []string{"\x00\xfe"}) || !slices.Equal(tw, []string{"3", "4"}) {
		t.Errorf("the trailers are %v", tail)
	}
}

// TestDeadline: a call ends when its client said that it gives up, and the pod is told
// what is left of that time.
func TestDeadline(t *testing.T) {
	told := make(chan string, 1)
	g := newRig(t, nil, startH2(t, func(_ http.ResponseWriter, r *http.Request) {
		told <- r.Header.Get(rpc.TimeoutHeader)
		<-r.Context().Done()
	}))
	way := &http.Transport{Protocols: new(http.Protocols)}
	way.Protocols.SetUnencryptedHTTP2(true)
	defer way.CloseIdleConnections()
	req := newRequest(t, http.MethodPost, g.url+"/inference.GRPCInferenceService/ModelInfer", bytes.NewReader(make([]byte, 5)),
		"Content-Type", "application/grpc", "Te", "trailers", rpc.TimeoutHeader, "500m")
	res, err := way.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if code, _ := rpc.Answered(res.Header); code != rpc.DeadlineExceeded {
		t.Errorf("it ended with %v, want DEADLINE_EXCEEDED", code)
	}
	left, err := rpc.ParseTimeout(<-told)
	if err != nil || left <= 0 || left >= 500*time.Millisecond {
		t.Errorf("the pod was told %v, %v", left, err)
	}
	if saw := g.saw(); len(saw) > 0 {
		t.Errorf("the client's time counts against the pod: %v", saw)
	}
}

// framesPod answers each stream by act, frame by frame, and counts the calls.
func framesPod(t *testing.T, act func(f *http2.Framer, stream uint32)) (addr string, calls *atomic.Int32) {
	t.Helper()
	calls = new(atomic.Int32)
	return rawPod(t, func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(c, c)
		_ = f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
			case *http2.DataFrame:
				if frame.StreamEnded() {
					calls.Add(1)
					act(f, frame.StreamID)
				}
			}
		}
	}), calls
}

// TestNotBegun: of what a pod says that it has not begun, another one is asked; what may
// have begun is sent once, since ModelInfer may be any model's.
func TestNotBegun(t *testing.T) {
	for _, tt := range []struct {
		name  string
		act   func(f *http2.Framer, stream uint32)
		calls int32
	}{
		{"refused", func(f *http2.Framer, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeRefusedStream) }, 2},
		{"goes away before it", func(f *http2.Framer, id uint32) { _ = f.WriteGoAway(id-1, http2.ErrCodeNo, nil) }, 2},
		{"protocol error", func(f *http2.Framer, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeProtocol) }, 1},
		{"internal error", func(f *http2.Framer, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeInternal) }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, first := framesPod(t, tt.act)
			b, second := framesPod(t, tt.act)
			g := newRig(t, nil, a, b)
			_, err := g.caller(t).ModelInfer(t.Context(), generation("1", 1))
			if status.Code(err) != codes.Unavailable {
				t.Errorf("%v, want UNAVAILABLE", err)
			}
			if n := first.Load() + second.Load(); n != tt.calls {
				t.Errorf("sent %d times, want %d", n, tt.calls)
			}
		})
	}
}

// TestSilentCalls: a pod that falls silent ends a stream by the limit that it is under,
// whether or not the client keeps its half open.
func TestSilentCalls(t *testing.T) {
	once := &service{infer: func(s grpc.BidiStreamingServer[inferencepb.ModelInferRequest, inferencepb.ModelStreamInferResponse]) error {
		r, err := s.Recv()
		if err == nil {
			err = s.Send(&inferencepb.ModelStreamInferResponse{InferResponse: &inferencepb.ModelInferResponse{Id: r.GetId()}})
		}
		<-s.Context().Done()
		return err
	}}
	const short = time.Second
	for name, tune := range map[string]func(*proxy.Options){
		"token": func(o *proxy.Options) { o.Limits.Token = short },
		"total": func(o *proxy.Options) { o.Limits.Total = short },
	} {
		for _, profile := range []bool{false, true} {
			for _, half := range []bool{false, true} {
				t.Run(name+map[bool]string{true: ", text"}[profile]+map[bool]string{true: ", half-closed"}[half], func(t *testing.T) {
					t.Parallel()
					g := newRig(t, func(o *proxy.Options) {
						if profile {
							resuming(t)(o)
						}
						tune(o)
					}, once.start(t))
					c := g.converse(t)
					_ = c.Send(generation("1", 1))
					if half {
						_ = c.CloseSend()
					}
					var err error
					for err == nil {
						_, err = c.Recv()
					}
					if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "stream_interrupted") {
						t.Errorf("it ended with %v, want DEADLINE_EXCEEDED", err)
					}
					if !slices.Equal(g.saw(), []string{"a:served"}) { // the probes know better
						t.Errorf("seen of the pod: %v", g.saw())
					}
					end := regions.EndTimeout
					if name == "token" && !profile {
						end = regions.EndClientGone // it may be the client's turn
					}
					g.ended(end, 1)
				})
			}
		}
	}
}

// TestAnIdleClientIsNoPodsFault: while nothing is asked, the pod owes nothing.
func TestAnIdleClientIsNoPodsFault(t *testing.T) {
	_, addrs := callPods(t, 1)
	const token = 2 * time.Second
	g := newRig(t, func(o *proxy.Options) {
		resuming(t)(o)
		o.Limits.Token, o.Limits.FirstByte = token, token
	}, addrs...)
	g.learn(1)
	c := g.converse(t)
	for turn := range 2 {
		if err := c.Send(generation("1", 3)); err != nil {
			t.Fatal(err)
		}
		if _, err := hear(c, "1"); err != nil {
			t.Fatalf("turn %d: %v", turn, err)
		}
		if turn == 0 {
			select { // what is waited for is that nothing happens
			case <-time.After(token + token/4):
			case <-t.Context().Done():
			}
		}
	}
	_ = c.CloseSend()
	g.ended(regions.EndServed, 1)
}

// TestSilentOverHTTP2: who does not answer is told from who is lost, and a request that may
// run is not sent again.
func TestSilentOverHTTP2(t *testing.T) {
	var asked atomic.Int32
	silent := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked.Add(1)
		<-r.Context().Done()
	}
	short := func(o *proxy.Options) { o.Limits.FirstByte = 200 * time.Millisecond }
	t.Run("pod", func(t *testing.T) {
		asked.Store(0)
		g := newRig(t, short, startH2(t, silent), startH2(t, silent))
		_, err := g.caller(t).ModelInfer(t.Context(), generation("1", 1))
		if status.Code(err) != codes.DeadlineExceeded || asked.Load() != 1 {
			t.Errorf("%v, asked %d times", err, asked.Load())
		}
		g.ended(regions.EndTimeout, 1)
	})
	t.Run("region", func(t *testing.T) {
		asked.Store(0)
		to := &elsewhere{urls: []string{"http://" + startH2(t, silent), "http://" + startH2(t, silent)}}
		g := newRig(t, func(o *proxy.Options) { short(o); with(to)(o) })
		res, text, err := g.post("/v2/models/llama/generate", "{}")
		if err != nil || res.StatusCode != http.StatusGatewayTimeout || asked.Load() != 1 {
			t.Errorf("%v %s %v, asked %d times", res, text, err, asked.Load())
		}
	})
}

// TestAStatusAloneStaysAlone: a call that fails at once is answered by one block of header
// fields, as gRPC's clients tell it from a stream that fails.
func TestAStatusAloneStaysAlone(t *testing.T) {
	pod := &service{ready: func(context.Context) error { return status.Error(codes.NotFound, "no € such") }}
	g := newRig(t, nil, pod.start(t))
	c := g.dial()
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = f.WriteSettings()
	var block bytes.Buffer
	fields := hpack.NewEncoder(&block)
	body := append(binary.BigEndian.AppendUint32([]byte{0}, 7), "\x0a\x05llama"...)
	for n := range uint32(50) {
		block.Reset()
		for _, field := range [][2]string{
			{":method", "POST"}, {":scheme", "http"}, {":path", "/inference.GRPCInferenceService/ModelReady"}, {":authority", g.addr},
			{"content-type", "application/grpc"}, {"te", "trailers"},
		} {
			_ = fields.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 1, BlockFragment: block.Bytes(), EndHeaders: true})
		_ = f.WriteData(2*n+1, true, body)
		for ended := false; !ended; {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
			case *http2.MetaHeadersFrame:
				if ended = frame.StreamEnded(); !ended {
					t.Fatalf("call %d: the head does not end the stream: %v", n, frame.Fields)
				}
			case *http2.DataFrame:
				t.Fatalf("call %d has data", n)
			}
		}
	}
}

// TestCallsSpill: a call goes one hop, over the same protocol.
func TestCallsSpill(t *testing.T) {
	_, addrs := callPods(t, 1)
	there := newRig(t, func(o *proxy.Options) { o.Region = "there" }, addrs...)
	here := newRig(t, with(&elsewhere{urls: []string{there.url}, knows: true})) // no pods
	c := here.converse(t)
	if err := c.Send(generation("1", 3)); err != nil {
		t.Fatal(err)
	}
	heard, err := hear(c, "1")
	if err != nil || heard["1"].text.String() != written("hi", 3) {
		t.Errorf("%q, %v", heard["1"].text.String(), err)
	}
	if h, _ := c.Header(); !slices.Equal(h.Get(proxy.RegionHeader), []string{"there"}) {
		t.Errorf("the head is %v", h)
	}
	_ = c.CloseSend()
	if _, err := c.Recv(); err != io.EOF { //nolint:errorlint // grpc's own
		t.Error(err)
	}
}
