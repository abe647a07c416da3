package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// heard is what a scripted pod was sent.
type heard struct {
	path   string
	fields http.Header
	body   []byte
}

// TestCallsPassUnchanged: of each method the pod gets the very message and all metadata
// but what is Rhumb's and the key, and the client the very answer.
func TestCallsPassUnchanged(t *testing.T) {
	t.Parallel()
	pair, trust := webPair(t)
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "h2c", true: "h2"}[secure], func(t *testing.T) {
			t.Parallel()
			m := newMembers(t)
			o, _ := m.options("eu-west", "llama")
			token, k := newKey(t, keyring.Key{ID: "team-a"})
			o.Keys = newRing(t, k)
			way := trust
			if secure {
				o.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
			} else {
				way = nil
			}
			got := make(chan heard, 1)
			s := m.start(o, m.script(&o, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				got <- heard{r.URL.Path, r.Header.Clone(), body}
				w.Header()["X-One"] = []string{"a", "b"}
				w.Header().Set("X-Raw-Bin", "AP8H")
				w.Header().Set("Rhumb-Pod", "forged")
				accept(w)
				_, _ = w.Write(frame(&pb.ModelReadyResponse{Ready: true})) // field 1, a number: a name to none
				conclude(w, "9", "not%20yet", "T-Two", "x", "T-Two", "y", "T-Raw-Bin", "AP8H", "Rhumb-Resumed", "9")
			}))
			checkUnchanged(t, s.caller(way), token, got)
		})
	}
}

// checkUnchanged calls each method.
func checkUnchanged(t *testing.T, c pb.GRPCInferenceServiceClient, token string, got <-chan heard) {
	t.Helper()
	methods := map[string]struct {
		sent proto.Message
		call func(context.Context, ...grpc.CallOption) error
	}{}
	add := func(name string, sent proto.Message, call func(context.Context, ...grpc.CallOption) error) {
		methods[name] = struct {
			sent proto.Message
			call func(context.Context, ...grpc.CallOption) error
		}{sent, call}
	}
	ready, meta := &pb.ModelReadyRequest{Name: "llama", Version: "1"}, &pb.ModelMetadataRequest{Name: "llama"}
	config, stats := &pb.ModelConfigRequest{Name: "llama"}, &pb.ModelStatisticsRequest{Name: "llama"}
	infer := asking("llama", "id", "hi", 3)
	infer.Inputs, infer.RawInputContents = nil, [][]byte{{0, 1, 255}, make([]byte, 70_000)}
	add("ModelReady", ready, func(ctx context.Context, o ...grpc.CallOption) error {
		_, err := c.ModelReady(ctx, ready, o...)
		return err
	})
	add("ModelMetadata", meta, func(ctx context.Context, o ...grpc.CallOption) error {
		_, err := c.ModelMetadata(ctx, meta, o...)
		return err
	})
	add("ModelConfig", config, func(ctx context.Context, o ...grpc.CallOption) error {
		_, err := c.ModelConfig(ctx, config, o...)
		return err
	})
	add("ModelStatistics", stats, func(ctx context.Context, o ...grpc.CallOption) error {
		_, err := c.ModelStatistics(ctx, stats, o...)
		return err
	})
	add("ModelInfer", infer, func(ctx context.Context, o ...grpc.CallOption) error {
		_, err := c.ModelInfer(ctx, infer, o...)
		return err
	})
	add("ModelStreamInfer", infer, func(ctx context.Context, o ...grpc.CallOption) error {
		x, err := c.ModelStreamInfer(ctx, o...)
		if err != nil {
			return err
		}
		if err := errors.Join(x.Send(infer), x.CloseSend()); err != nil {
			return err
		}
		for err == nil {
			_, err = x.Recv()
		}
		return err
	})
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		ctx = metadata.AppendToOutgoingContext(ctx, "x-two", "1", "x-two", "2", "x-raw-bin", "\x00\xff\x07", "x-raw-bin", "",
			"under_score", "kept", "idempotency-key", "kept", "rhumb-made-up", "1", "authorization", "Bearer "+token)
		var head, tail metadata.MD
		err := methods[name].call(ctx, grpc.Header(&head), grpc.Trailer(&tail))
		cancel()
		pod := <-got
		if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "not yet" {
			t.Errorf("%s: the client is told %v", name, err)
		}
		if want := frame(methods[name].sent); pod.path != service+name || !sameMessage(pod.body, want, methods[name].sent) {
			t.Errorf("%s: the pod got %s with %d bytes, want %d", name, pod.path, len(pod.body), len(want))
		}
		for field, want := range map[string][]string{
			"X-Two": {"1", "2"}, "X-Raw-Bin": {"AP8H", ""}, "Te": {"trailers"}, "Under_score": {"kept"}, "Idempotency-Key": {"kept"},
			"Rhumb-Made-Up": nil, "Authorization": nil, "Content-Type": {"application/grpc"},
		} {
			if have := pod.fields.Values(field); !slices.Equal(have, want) {
				t.Errorf("%s: the pod got %s: %q, want %q", name, field, have, want)
			}
		}
		if len(pod.fields["Grpc-Timeout"]) != 1 {
			t.Errorf("%s: the pod got grpc-timeout %q", name, pod.fields["Grpc-Timeout"])
		}
		if !slices.Equal(head["x-one"], []string{"a", "b"}) || !slices.Equal(head["x-raw-bin"], []string{"\x00\xff\x07"}) || len(head["rhumb-pod"]) > 0 {
			t.Errorf("%s: the client got the header %v", name, head)
		}
		if !slices.Equal(tail["t-two"], []string{"x", "y"}) || !slices.Equal(tail["t-raw-bin"], []string{"\x00\xff\x07"}) || len(tail["rhumb-resumed"]) > 0 {
			t.Errorf("%s: the client got the trailer %v", name, tail)
		}
	}
}

// sameMessage compares a body with what was sent, which the library may write with a
// map in another order.
func sameMessage(body, want []byte, like proto.Message) bool {
	if len(body) != len(want) {
		return false
	}
	m := like.ProtoReflect().New().Interface()
	return proto.Unmarshal(body[5:], m) == nil && proto.Equal(m, like)
}

// TestConversation: each message arrives before the next is made, in both directions, and
// the client's half may end long before the pod's.
func TestConversation(t *testing.T) {
	t.Parallel()
	for _, profiled := range []bool{false, true} {
		t.Run(fmt.Sprintf("profile %v", profiled), func(t *testing.T) {
			t.Parallel()
			m := newMembers(t)
			o, _ := m.options("eu-west", "llama")
			if profiled {
				o.resumes(t)
			}
			const turns = 50
			ended := make(chan error, 1)
			last := make(chan struct{})
			s := m.start(o, m.script(&o, func(w http.ResponseWriter, r *http.Request) {
				accept(w)
				code := "14" // nobody's business who has all of its answers
				defer func() { conclude(w, code, "") }()
				for {
					b, err := readFrame(r.Body)
					if err != nil {
						return // a stream that rests comes anew
					}
					var q pb.ModelInferRequest
					if err := proto.Unmarshal(b, &q); err != nil {
						t.Error(err)
					}
					if q.GetId() == "last" {
						break
					}
					say(w, reply(q.GetId()))
				}
				_, err := readFrame(r.Body)
				code = "0"
				ended <- err
				select {
				case <-last:
				case <-r.Context().Done():
				}
				say(w, reply("last"))
			}))
			c := s.converse()
			for i := range turns {
				id := fmt.Sprint(i)
				if err := c.Send(asking("llama", id, "hi", 1)); err != nil {
					t.Fatal(err)
				}
				if r, err := c.Recv(); err != nil || r.GetInferResponse().GetId() != id {
					t.Fatalf("turn %d: %v, %v", i, r, err)
				}
			}
			if err := errors.Join(c.Send(asking("llama", "last", "hi", 1)), c.CloseSend()); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, io.EOF) {
				t.Errorf("the client's half ended at the pod with %v", err)
			}
			close(last)
			if r, err := c.Recv(); err != nil || r.GetInferResponse().GetId() != "last" {
				t.Errorf("after the half-close: %v, %v", r, err)
			}
			if r, err := c.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("it ended with %v, %v", r, err)
			}
		})
	}
}

// TestManyStreamsOnAConnection: a client's streams share one, each with its own text.
func TestManyStreamsOnAConnection(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.slots = 40
	o, pods := m.options("eu-west", "llama")
	o.resumes(t)
	s := m.start(o, pods)
	const streams, tokens = 90, 20
	c := s.caller(nil)
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() {
			x, err := c.ModelStreamInfer(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			text := fmt.Sprint("number ", i)
			if err := errors.Join(x.Send(asking("llama", "1", text, tokens)), x.CloseSend()); err != nil {
				t.Error(err)
			}
			if got, told, err := whole(x); got != written("llama", text, tokens) || told != "" || !errors.Is(err, io.EOF) {
				t.Errorf("%d: %q %s %v", i, got, told, err)
			}
		})
	}
	all.Wait()
	regionstest.Eventually(t, patience, func() bool { return s.counted("llama", regions.EndServed) == streams }, "all are counted as served")
}

// TestCancelReachesThePod tells how soon.
func TestCancelReachesThePod(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.count, m.slots = 1, 40
	o, pods := m.options("eu-west", "llama")
	o.resumes(t)
	s := m.start(o, pods)
	client := s.caller(nil)
	canceled := func() (n int) {
		for _, r := range pods[0].Requests() {
			if r.End == tritontest.Canceled {
				n++
			}
		}
		return n
	}
	var took []time.Duration
	for i := range 20 {
		ctx, leave := context.WithCancel(t.Context())
		x, err := client.ModelStreamInfer(ctx)
		if err == nil {
			err = x.Send(asking("llama", fmt.Sprint(i), "hi", 100_000))
		}
		if err == nil {
			_, err = x.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		left := time.Now()
		leave()
		for canceled() <= i && time.Since(left) < patience {
			<-time.After(100 * time.Microsecond) // Eventually looks every 5 ms
		}
		took = append(took, time.Since(left))
	}
	if n := canceled(); n != 20 {
		t.Errorf("the pod knows of %d of 20", n)
	}
	slices.Sort(took)
	t.Logf("from a client's cancel to the pod's: min %v, median %v, max %v", took[0], took[10], took[19])
	regionstest.Eventually(t, patience, func() bool { return s.counted("llama", regions.EndClientGone) == 20 }, "all have left")
}

// TestHowCallsEnd: the pod's status says whose fault an end is.
func TestHowCallsEnd(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, _ := m.options("eu-west", "llama")
	s := m.start(o, m.script(&o, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		code, alone := r.Header.Get("Code"), r.Header.Get("Alone") != ""
		if alone {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", code)
			return
		}
		accept(w)
		say(w, reply("1"))
		conclude(w, code, "")
	}))
	client := s.caller(nil)
	want := map[regions.End]float64{}
	for _, code := range []codes.Code{0, 2, 3, 4, 5, 8, 12, 13, 14} {
		for _, alone := range []string{"", "1"} {
			if alone != "" && code == 0 {
				continue // an answer without a message
			}
			end := regions.EndServed
			switch code {
			case codes.Unavailable:
				end = regions.EndPodError
			case codes.Internal:
				end = regions.EndFailed
			}
			want[end]++
			ctx := metadata.AppendToOutgoingContext(t.Context(), "code", fmt.Sprint(int(code)))
			if alone != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "alone", alone)
			}
			_, err := client.ModelInfer(ctx, asking("llama", "1", "hi", 1))
			if status.Code(err) != code {
				t.Errorf("%v %s: the client is told %v", code, alone, err)
			}
			regionstest.Eventually(t, patience, func() bool { return s.counted("llama", end) == want[end] }, fmt.Sprintf("%v (alone: %q) ends as %v", code, alone, end))
		}
	}
}

// TestInferIsNeverSentTwice: what may have begun is not sent again, however it was lost.
func TestInferIsNeverSentTwice(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, _ := m.options("eu-west", "llama")
	o.resumes(t)
	var mu sync.Mutex
	n := 0
	s := m.start(o, m.script(&o, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		n++
		panic(http.ErrAbortHandler)
	}))
	_, err := s.caller(nil).ModelInfer(t.Context(), asking("llama", "1", "hi", 1))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "may have run") {
		t.Errorf("the client is told %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if n != 1 {
		t.Errorf("it was sent %d times", n)
	}
}
