package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// framing is a client that speaks HTTP/2 in frames.
type framing struct {
	t      *testing.T
	framer *http2.Framer
	block  bytes.Buffer
	enc    *hpack.Encoder
	stream uint32 // of the last call
	calls  uint32
}

// raw opens a connection.
func (s *site) raw(settings ...http2.Setting) *framing {
	s.t.Helper()
	c, err := new(net.Dialer).DialContext(s.t.Context(), "tcp", s.Addrs()[0].String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		s.t.Fatal(err)
	}
	w := &framing{t: s.t, framer: http2.NewFramer(c, c)}
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.enc = hpack.NewEncoder(&w.block)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		s.t.Fatal(err)
	}
	if err := w.framer.WriteSettings(settings...); err != nil {
		s.t.Fatal(err)
	}
	return w
}

// call sends a call of one message, with fields as name, value pairs.
func (w *framing) call(method string, m proto.Message, fields ...string) {
	w.t.Helper()
	w.stream = 2*w.calls + 1
	w.calls++
	w.block.Reset()
	all := append([]string{
		":method", "POST", ":path", service + method, ":scheme", "http", ":authority", "here",
		"content-type", "application/grpc", "te", "trailers",
	}, fields...)
	for i := 0; i+1 < len(all); i += 2 {
		if err := w.enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]}); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: w.stream, BlockFragment: w.block.Bytes(), EndHeaders: true}); err != nil {
		w.t.Fatal(err)
	}
	if err := w.framer.WriteData(w.stream, true, frame(m)); err != nil {
		w.t.Fatal(err)
	}
}

// answer reads the frames of the last call's answer to its end.
func (w *framing) answer() (kinds []string, fields map[string]string) {
	w.t.Helper()
	fields = map[string]string{}
	for {
		f, err := w.framer.ReadFrame()
		if err != nil {
			w.t.Fatalf("after %v %v: %v", kinds, fields, err)
		}
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			_ = w.framer.WriteSettingsAck()
		}
		h := f.Header()
		if h.StreamID != w.stream || h.Type == http2.FrameWindowUpdate {
			continue
		}
		if head, ok := f.(*http2.MetaHeadersFrame); ok {
			for _, v := range head.Fields {
				fields[v.Name] = v.Value
			}
		}
		kind := h.Type.String()
		if h.Type == http2.FrameRSTStream {
			return append(kinds, kind), fields
		}
		if h.Flags.Has(http2.FlagDataEndStream) { // the same bit for both types
			return append(kinds, kind+" end"), fields
		}
		kinds = append(kinds, kind)
	}
}

// TestAStatusAloneStaysAlone: an answer of one block of fields is not taken apart on its
// way, whether it is a pod's or the gateway's own.
func TestAStatusAloneStaysAlone(t *testing.T) {
	t.Parallel()
	for _, profiled := range []bool{false, true} {
		t.Run(fmt.Sprintf("profile %v", profiled), func(t *testing.T) {
			t.Parallel()
			m := newMembers(t)
			o, _ := m.options("eu-west", "llama")
			if profiled {
				o.resumes(t)
			}
			s := m.start(o, m.script(&o, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", "application/grpc")
				w.Header().Set("Grpc-Status", "3")
				w.Header().Set("Grpc-Message", "bad")
				w.Header().Set("X-More", "of it")
			}))
			w := s.raw()
			for i := range 300 {
				method := []string{"ModelInfer", "ModelStreamInfer", "ModelReady"}[i%3]
				var m proto.Message = asking("llama", "1", "hi", 1)
				if i%3 == 2 {
					m = &pb.ModelReadyRequest{Name: "llama"}
				}
				w.call(method, m)
				if kinds, fields := w.answer(); !slices.Equal(kinds, []string{"HEADERS end"}) || fields["grpc-status"] != "3" || fields["grpc-message"] != "bad" || fields["x-more"] != "of it" {
					t.Fatalf("call %d of %s: %v %v", i, method, kinds, fields)
				}
			}
			for i := range 30 {
				w.call("ModelInfer", asking("nobodys", "1", "hi", 1))
				if kinds, fields := w.answer(); !slices.Equal(kinds, []string{"HEADERS end"}) || fields["grpc-status"] != "5" || fields["rhumb-reason"] != "unknown-model" {
					t.Fatalf("call %d for a model that is not there: %v %v", i, kinds, fields)
				}
			}
		})
	}
}

// TestDeadlines: the time that a call has waited is taken off what the pod is told, and a
// call whose time is over ends with a status, wherever it is.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.slots = 1
	o, _ := m.options("eu-west", "llama")
	release, told := make(chan struct{}), make(chan string, 9)
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	s := m.start(o, m.script(&o, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		told <- r.Header.Get("Grpc-Timeout")
		switch r.Header.Get("Act") {
		case "hold":
			<-release
		case "begin":
			accept(w)
			say(w, reply("1"))
			<-r.Context().Done()
		case "silent":
			<-r.Context().Done()
		}
		accept(w)
		say(w, reply("1"))
		conclude(w, "0", "")
	}))
	first, second := s.raw(), s.raw()
	first.call("ModelInfer", asking("llama", "1", "hi", 1), "act", "hold")
	if got := <-told; got != "" {
		t.Errorf("a pod is told %q where the client has no deadline", got)
	}
	begun := time.Now()
	second.call("ModelInfer", asking("llama", "2", "hi", 1), "grpc-timeout", "20S")
	regionstest.Eventually(t, patience, func() bool { return s.proxy.Waiting()["llama"] == 1 }, "the second waits")
	waited := time.Now()
	<-time.After(50 * time.Millisecond) // something to take off
	least := time.Since(waited)
	free()
	left, err := time.ParseDuration(strings.ToLower(strings.NewReplacer("m", "ms", "u", "us", "n", "ns", "S", "s").Replace(<-told)))
	if most := 20*time.Second - least; err != nil || left > most || left < 20*time.Second-time.Since(begun)-time.Millisecond {
		t.Errorf("the pod is told %v, %v; want at most %v", left, err, most)
	}
	if kinds, fields := second.answer(); fields["grpc-status"] != "0" {
		t.Errorf("%v %v", kinds, fields)
	}
	for _, method := range []string{"ModelInfer", "ModelStreamInfer"} {
		for act, want := range map[string]string{"silent": "HEADERS end", "begin": "HEADERS,DATA,HEADERS end"} {
			w := s.raw()
			begun := time.Now()
			w.call(method, asking("llama", "3", "hi", 1), "grpc-timeout", "150m", "act", act)
			kinds, fields := w.answer()
			if strings.Join(kinds, ",") != want || fields["grpc-status"] != "4" {
				t.Errorf("%s %s: %v %v, want %s", method, act, kinds, fields, want)
			}
			if act == "silent" && fields["rhumb-reason"] != "deadline" {
				t.Errorf("%s %s: for the reason %q", method, act, fields["rhumb-reason"])
			}
			t.Logf("%s of a pod that is to %s: 150 ms ended after %v", method, act, time.Since(begun))
		}
	}
	// A deadline is the client's: no pod is to blame.
	if n := s.counted("llama", regions.EndClientGone); n != 4 {
		t.Errorf("%v have ended as the client's doing", n)
	}
}

// TestAClientThatDoesNotReadIsCut: its pod is free again.
func TestAClientThatDoesNotReadIsCut(t *testing.T) {
	t.Parallel()
	for _, profiled := range []bool{false, true} {
		t.Run(fmt.Sprintf("profile %v", profiled), func(t *testing.T) {
			t.Parallel()
			m := newMembers(t)
			o, _ := m.options("eu-west", "llama")
			o.Limits.ClientStall = 200 * time.Millisecond
			if profiled {
				o.resumes(t)
			}
			freed := make(chan struct{})
			s := m.start(o, m.script(&o, func(w http.ResponseWriter, r *http.Request) {
				defer close(freed)
				accept(w)
				big := reply("1")
				big.InferResponse.Parameters = nil
				big.InferResponse.Outputs[0].Contents.BytesContents[0] = bytes.Repeat([]byte("x"), 4<<10)
				for r.Context().Err() == nil {
					say(w, big)
				}
			}))
			w := s.raw(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
			w.call("ModelStreamInfer", asking("llama", "1", "hi", 1_000_000))
			if kinds, _ := w.answer(); kinds[len(kinds)-1] != "RST_STREAM" {
				t.Errorf("it ended with %v", kinds)
			}
			select {
			case <-freed:
			case <-time.After(patience):
				t.Error("the pod still writes")
			}
			regionstest.Eventually(t, patience, func() bool { return s.counted("llama", regions.EndClientGone) == 1 }, "it is the client's doing")
		})
	}
}

// pings counts the PING and HEADERS frames that go out over the connections it opens.
type pings struct {
	to          string
	n, requests atomic.Int64
}

// dial opens connections as the agent does without it.
func (p *pings) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil || addr != p.to {
		return c, err
	}
	return &pingConn{Conn: c, all: p}, nil
}

// pingConn follows the frames that are written.
type pingConn struct {
	net.Conn
	all  *pings
	skip int // bytes of a frame, or of the preface
	head []byte
	past bool // the preface
}

// Write counts and writes.
func (c *pingConn) Write(b []byte) (int, error) {
	if !c.past {
		c.past, c.skip = true, len(http2.ClientPreface)
	}
	for rest := b; len(rest) > 0; {
		if n := min(c.skip, len(rest)); n > 0 {
			c.skip, rest = c.skip-n, rest[n:]
			continue
		}
		n := min(9-len(c.head), len(rest))
		c.head, rest = append(c.head, rest[:n]...), rest[n:]
		if len(c.head) == 9 {
			switch kind, ack := http2.FrameType(c.head[3]), http2.Flags(c.head[4]).Has(http2.FlagPingAck); {
			case kind == http2.FramePing && !ack:
				c.all.n.Add(1)
			case kind == http2.FrameHeaders:
				c.all.requests.Add(1)
			}
			c.skip, c.head = int(c.head[0])<<16|int(c.head[1])<<8|int(c.head[2]), c.head[:0]
		}
	}
	return c.Conn.Write(b)
}

// TestNoPingsToPods: a stream is silent while many others are cancelled before they have
// an answer, and Triton, which counts pings, has nothing to object. The client may ping.
func TestNoPingsToPods(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.count, m.slots, m.token = 1, 40, time.Hour
	o, pods := m.options("eu-west", "llama")
	watch := &pings{to: pods[0].GRPCAddr()}
	o.Dial = watch.dial
	s := m.start(o, pods)
	quiet := s.converse()
	if err := quiet.Send(asking("llama", "quiet", "hi", 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := quiet.Recv(); err != nil {
		t.Fatal(err)
	}
	pods[0].Zombie("llama", tritontest.Hanging) // takes requests and says nothing
	client := s.caller(nil)
	const cancelled = 30
	for i := range cancelled {
		ctx, leave := context.WithCancel(t.Context())
		x, err := client.ModelStreamInfer(ctx)
		if err == nil {
			err = x.Send(asking("llama", fmt.Sprint(i), "hi", 2))
		}
		if err != nil {
			t.Fatal(err)
		}
		regionstest.Eventually(t, patience, func() bool { return pods[0].Stats("llama").InFlight == 2 }, "the pod has it")
		leave()
		regionstest.Eventually(t, patience, func() bool { return pods[0].Stats("llama").InFlight == 1 }, "the pod has heard")
	}
	w := s.raw()
	for i := range 5 {
		if err := w.framer.WritePing(false, [8]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for acks := 0; acks < 5; {
		f, err := w.framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := f.(*http2.PingFrame); ok && p.IsAck() {
			acks++
		}
	}
	t.Logf("%d pings to the pod with %d calls cancelled", watch.n.Load(), cancelled)
	// The transport may ask once, with a cancelled call, whether the connection lives; Triton
	// takes two strikes.
	before, calls := watch.n.Load(), watch.requests.Load()
	if before > 2 || calls != cancelled+1 {
		t.Errorf("%d pings went to the pod with %d calls", before, calls)
	}
	// Another region would be pinged after three seconds without a frame.
	<-time.After(4 * time.Second)
	if n := watch.n.Load(); n != before {
		t.Errorf("%d pings went to the pod over a silent connection", n-before)
	}
	pods[0].Zombie("llama", tritontest.Alive)
	if err := quiet.Send(asking("llama", "again", "hi", 1)); err != nil {
		t.Fatal(err)
	}
	if r, err := quiet.Recv(); err != nil || r.GetInferResponse().GetId() != "again" {
		t.Errorf("the silent stream: %v, %v", r, err)
	}
}
