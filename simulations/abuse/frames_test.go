package abuse

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames is a client of HTTP/2 that writes whatever frames it likes.
type frames struct {
	*http2.Framer
	t      *testing.T
	conn   net.Conn
	out    *bufio.Writer
	fields *hpack.Encoder
	block  bytes.Buffer
	id     uint32 // of the last stream

	ended  chan struct{} // its connection has ended, or nobody reads
	mu     sync.Mutex
	heard  map[http2.FrameType]int // under mu, like the following
	resets map[http2.ErrCode]int
	status map[string]int
	away   []http2.ErrCode
	text   int // bytes
	failed error
}

// http2 opens a connection; a deaf one is not read from.
func (v *victim) http2(deaf bool, settings ...http2.Setting) *frames {
	v.t.Helper()
	f := &frames{
		t: v.t, conn: v.dial(), ended: make(chan struct{}),
		heard: map[http2.FrameType]int{}, resets: map[http2.ErrCode]int{}, status: map[string]int{},
	}
	f.out = bufio.NewWriterSize(f.conn, 64<<10)
	f.Framer = http2.NewFramer(f.out, bufio.NewReader(f.conn))
	f.AllowIllegalWrites, f.AllowIllegalReads = true, true
	f.fields = hpack.NewEncoder(&f.block)
	_, _ = io.WriteString(f.out, http2.ClientPreface)
	_ = f.WriteSettings(settings...)
	f.flush()
	if deaf {
		close(f.ended)
	} else {
		go f.listen()
	}
	v.t.Cleanup(func() {
		_ = f.conn.Close()
		<-f.ended
	})
	return f
}

// listen notes all that comes.
func (f *frames) listen() {
	defer close(f.ended)
	table := hpack.NewDecoder(4096, nil)
	for {
		x, err := f.ReadFrame()
		f.mu.Lock()
		if err != nil {
			f.failed = err
			f.mu.Unlock()
			return
		}
		f.heard[x.Header().Type]++
		switch x := x.(type) {
		case *http2.RSTStreamFrame:
			f.resets[x.ErrCode]++
		case *http2.GoAwayFrame:
			f.away = append(f.away, x.ErrCode)
		case *http2.DataFrame:
			f.text += len(x.Data())
		case *http2.HeadersFrame:
			fields, _ := table.DecodeFull(x.HeaderBlockFragment())
			for _, h := range fields {
				if h.Name == ":status" {
					f.status[h.Value]++
				}
			}
		}
		f.mu.Unlock()
	}
}

// flush sends what was written. That the gateway has hung up is well.
func (f *frames) flush() bool { return f.out.Flush() == nil }

// head is the block of a request's head.
func (f *frames) head(method, path string, more ...hpack.HeaderField) []byte {
	f.block.Reset()
	for _, h := range append([]hpack.HeaderField{
		{Name: ":method", Value: method}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "h"}, {Name: ":path", Value: path},
	}, more...) {
		_ = f.fields.WriteField(h)
	}
	return bytes.Clone(f.block.Bytes())
}

const generate = "/v2/models/llama/generate"

// open sends a request's head, as the whole of it or not.
func (f *frames) open(whole bool) uint32 {
	f.id += 1 + f.id%2 // 1, 3, 5
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.id, BlockFragment: f.head("POST", generate), EndStream: whole, EndHeaders: true})
	return f.id
}

// ask sends a request with a word.
func (f *frames) ask(word string) uint32 {
	id := f.open(false)
	_ = f.WriteData(id, true, []byte(`"`+word+`"`))
	return id
}

// hangUp waits until the gateway has ended the connection, and tells with which
// codes of GOAWAY.
func (f *frames) hangUp() []http2.ErrCode {
	f.t.Helper()
	<-f.ended
	f.mu.Lock()
	defer f.mu.Unlock()
	var late net.Error
	if errors.As(f.failed, &late) && late.Timeout() {
		f.t.Error("the gateway does not hang up")
	}
	return f.away
}

// alive checks that the connection still serves.
func (f *frames) alive() {
	f.t.Helper()
	before := f.answered("200")
	f.ask("fine")
	if !f.flush() {
		f.t.Fatal("the connection is closed")
	}
	eventually(f.t, func() bool { return f.answered("200") > before }, "the connection still serves")
}

func (f *frames) answered(status string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status[status]
}
