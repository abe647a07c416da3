package rpc_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"       //nolint:depguard // frame by frame, as no client of net/http shows them
	"golang.org/x/net/http2/hpack" //nolint:depguard // likewise
	"google.golang.org/grpc/codes"

	"github.com/rhumb-lb/rhumb/regions/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCodes(t *testing.T) {
	for status, want := range map[int]codes.Code{
		200: codes.OK, 400: codes.InvalidArgument, 401: codes.Unauthenticated, 403: codes.PermissionDenied, 404: codes.NotFound,
		405: codes.Unimplemented, 408: codes.DeadlineExceeded, 413: codes.ResourceExhausted, 415: codes.InvalidArgument, 417: codes.InvalidArgument,
		429: codes.ResourceExhausted, 431: codes.ResourceExhausted, 499: codes.Canceled, 500: codes.Internal, 501: codes.Unimplemented,
		502: codes.Unavailable, 503: codes.Unavailable, 504: codes.DeadlineExceeded, 302: codes.Unknown,
	} {
		if got := rpc.FromHTTP(status); uint32(got) != uint32(want) {
			t.Errorf("%d is %v, want %v", status, got, want)
		}
	}
	for c := rpc.Code(0); c < 17; c++ {
		var lib codes.Code
		if err := lib.UnmarshalJSON([]byte(`"` + c.String() + `"`)); err != nil || uint32(lib) != uint32(c) {
			t.Errorf("%d is called %s: %v, %v", c, c, lib, err)
		}
	}
	if got := rpc.Code(17).String(); got != "other" {
		t.Errorf("17 is called %s", got)
	}
}

func TestIsType(t *testing.T) {
	for kind, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "Application/GRPC": true, "application/grpc;charset=utf-8": true,
		"application/grpc-web": false, "application/grpc-web+proto": false, "application/json": false, "": false,
	} {
		if rpc.IsType(kind) != want {
			t.Errorf("%q: want %v", kind, want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "40m": 40 * time.Millisecond, "5u": 5 * time.Microsecond,
		"99999999n": 99999999, "0S": 0, "99999999H": 1<<63 - 1, "00000001S": time.Second,
	} {
		if got, err := rpc.ParseTimeout(s); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "S", "5", "5s", "-5S", "+5S", "1.5S", " 5S", "5S ", "123456789S", "5SS", "0x5S", "1_0S"} {
		if got, err := rpc.ParseTimeout(s); err == nil || !strings.Contains(err.Error(), "grpc-timeout") {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}

// FuzzTimeout: what is written is read as the same, but for what is rounded off.
func FuzzTimeout(f *testing.F) {
	f.Add(int64(time.Second), "5S")
	f.Add(int64(1<<63-1), "99999999H")
	f.Fuzz(func(t *testing.T, n int64, s string) {
		if d, err := rpc.ParseTimeout(s); err == nil && d < 0 {
			t.Fatalf("%q is %v", s, d)
		}
		if n < 1 {
			return
		}
		d := time.Duration(n)
		got, err := rpc.ParseTimeout(rpc.FormatTimeout(d))
		if err != nil || got > d || got < d-d/1_000_000 {
			t.Fatalf("%v is written as %s and read as %v, %v", d, rpc.FormatTimeout(d), got, err)
		}
	})
}

// frames sends a call in raw HTTP/2 and returns the types of what comes on its stream,
// and the header fields.
func frames(t *testing.T, h http.HandlerFunc) (kinds []string, fields map[string]string) {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.SetDeadline(time.Now().Add(20*time.Second)), say(c, http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":path", Value: "/s/M"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "h"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	} {
		if err := enc.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(fr.WriteSettings(), fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true,
	}), fr.WriteData(1, true, []byte{0, 0, 0, 0, 0})); err != nil {
		t.Fatal(err)
	}
	fields = map[string]string{}
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Header().StreamID != 1 || f.Header().Type == http2.FrameWindowUpdate {
			continue
		}
		kind := f.Header().Type.String()
		if head, ok := f.(*http2.MetaHeadersFrame); ok {
			for _, v := range head.Fields {
				fields[v.Name] = v.Value
			}
		}
		if f.Header().Flags.Has(http2.FlagDataEndStream) { // the same bit for both types
			return append(kinds, kind+" end"), fields
		}
		kinds = append(kinds, kind)
	}
}

func say(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

// TestRefuseIsTrailersOnly: a refusal is one HEADERS frame that ends the stream, as
// clients want it that take a status from nowhere else.
func TestRefuseIsTrailersOnly(t *testing.T) {
	kinds, fields := frames(t, func(w http.ResponseWriter, _ *http.Request) {
		rpc.Refuse(w, rpc.Unavailable, "no pod: 100% of 'é' gone\n")
	})
	if strings.Join(kinds, ",") != "HEADERS end" || fields[":status"] != "200" || fields["content-type"] != "application/grpc" ||
		fields["grpc-status"] != "14" || fields["grpc-message"] != "no pod: 100%25 of '%C3%A9' gone%0A" {
		t.Errorf("%v, %v", kinds, fields)
	}
}

func TestReply(t *testing.T) {
	kinds, fields := frames(t, func(w http.ResponseWriter, _ *http.Request) { rpc.Reply(w, []byte{8, 1}) })
	if strings.Join(kinds, ",") != "HEADERS,DATA,HEADERS end" || fields["grpc-status"] != "0" {
		t.Errorf("%v, %v", kinds, fields)
	}
}

func TestAnswered(t *testing.T) {
	for _, tt := range []struct {
		name, value, want string
		ok                bool
	}{
		{rpc.StatusHeader, "14", "UNAVAILABLE", true}, {http.TrailerPrefix + rpc.StatusHeader, "0", "OK", true}, {"X", "0", "UNKNOWN", false},
		{rpc.StatusHeader, "99", "other", true}, {rpc.StatusHeader, "rubbish", "other", true}, {rpc.StatusHeader, "99999", "other", true},
	} {
		if got, ok := rpc.Answered(http.Header{tt.name: {tt.value}}); got.String() != tt.want || ok != tt.ok {
			t.Errorf("%s %s: %v, %v", tt.name, tt.value, got, ok)
		}
	}
}
