package abuse

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// flood is one kind of frames, repeated.
type flood struct {
	name string
	// settings are the client's.
	settings []http2.Setting
	// begin is sent once, then n times each.
	begin func(*frames)
	each  func(f *frames, i int)
	n     int
	// What becomes of the connection: it is cut, it is of no more use to who did
	// this, or it still serves.
	cut, spent bool
	// slow: it takes half a minute until it is cut; in virtual time that is tested in
	// the gateway's package.
	slow bool
}

// floods are attacks by frames that are small, or that the protocol allows.
func floods() []flood {
	many := times(5_000, 100_000)
	return []flood{
		{name: "rapid reset", n: many, cut: true, each: func(f *frames, _ int) {
			_ = f.WriteRSTStream(f.open(true), http2.ErrCodeCancel)
		}},
		{name: "rapid reset of hung requests", n: many, cut: true, each: func(f *frames, _ int) {
			_ = f.WriteRSTStream(f.ask("hang"), http2.ErrCodeCancel)
		}},
		{name: "made you reset: window of 0", n: many, cut: true, each: func(f *frames, _ int) {
			_ = f.WriteWindowUpdate(f.ask("hang"), 0)
		}},
		{name: "made you reset: window overflows", n: many, cut: true, each: func(f *frames, _ int) {
			_ = f.WriteWindowUpdate(f.ask("hang"), 1<<31-1)
		}},
		{name: "made you reset: data after the end", n: many, cut: true, each: func(f *frames, _ int) {
			_ = f.WriteData(f.ask("hang"), true, []byte("x"))
		}},
		{name: "made you reset: head after the end", n: many, cut: true, each: func(f *frames, _ int) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.ask("hang"), BlockFragment: f.head("POST", generate), EndStream: true, EndHeaders: true})
		}},
		{name: "made you reset: own dependency", n: many, cut: true, each: func(f *frames, _ int) {
			id := f.ask("hang")
			_ = f.WritePriority(id, http2.PriorityParam{StreamDep: id})
		}},
		{name: "more streams than allowed", n: many, spent: true, each: func(f *frames, i int) {
			if i < 100 {
				f.ask("hang")
			} else {
				f.open(true)
			}
		}},
		{name: "settings", n: many, each: func(f *frames, i int) {
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)})
		}},
		{name: "ping", n: many, each: func(f *frames, i int) { _ = f.WritePing(false, [8]byte{byte(i)}) }},
		{name: "empty data", n: many, begin: func(f *frames) { f.open(false) }, each: func(f *frames, _ int) { _ = f.WriteData(f.id, false, nil) }},
		{name: "padding only", n: many, begin: func(f *frames) { f.open(false) }, each: func(f *frames, _ int) {
			_ = f.WriteDataPadded(f.id, false, nil, make([]byte, 1))
		}},
		{name: "priority", n: many, each: func(f *frames, i int) {
			_ = f.WritePriority(uint32(2*i+1), http2.PriorityParam{StreamDep: uint32(2*i + 3), Weight: 7})
		}},
		{name: "small windows", n: many, begin: func(f *frames) { f.ask("drip") }, each: func(f *frames, _ int) { _ = f.WriteWindowUpdate(f.id, 1) }},
		{name: "unknown frames", n: many, each: func(f *frames, _ int) { _ = f.WriteRawFrame(0xbe, 0, 0, make([]byte, 100)) }},
		{name: "1 MiB of continuation", n: 64, cut: true, begin: func(f *frames) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.head("POST", generate), EndStream: true})
		}, each: func(f *frames, i int) {
			f.block.Reset()
			for k := range 2 {
				_ = f.fields.WriteField(hpack.HeaderField{Name: fmt.Sprintf("x-%d-%d", i, k), Value: strings.Repeat("~", 8<<10), Sensitive: true})
			}
			_ = f.WriteContinuation(1, false, f.block.Bytes())
		}},
		{name: "empty continuation", n: many, cut: true, slow: true, begin: func(f *frames) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.head("POST", generate), EndStream: true})
		}, each: func(f *frames, _ int) { _ = f.WriteContinuation(1, false, nil) }},
		{name: "compressed bomb", n: times(50, 1000), begin: func(f *frames) {
			f.block.Reset()
			_ = f.fields.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("~", 3<<10)})
			f.id = 1
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: append(f.head("GET", "/v2/health/live"), f.block.Bytes()...), EndStream: true, EndHeaders: true})
		}, each: func(f *frames, _ int) {
			// One byte for each further field of 3 KiB.
			f.id += 2
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.id, BlockFragment: append(f.head("GET", "/v2/health/live"), bytes.Repeat([]byte{0xbe}, 8<<10)...), EndStream: true, EndHeaders: true})
		}},
		{name: "no window", settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}, n: 100, spent: true, each: func(f *frames, _ int) { f.ask("pour") }},
	}
}

func TestFloods(t *testing.T) {
	for _, x := range floods() {
		if x.slow && !*heavy {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			v := attack(t, nil)
			b := v.beside(x.name)
			f := v.http2(false, x.settings...)
			if x.begin != nil {
				x.begin(f)
			}
			sent := 0
			for ; sent < x.n; sent++ {
				x.each(f, sent)
				if sent%100 == 99 && !f.flush() {
					break
				}
			}
			f.flush()
			note := fmt.Sprintf("%d sent", sent)
			if x.cut {
				note += fmt.Sprintf(", cut with %v", f.hangUp())
			} else if !x.spent {
				f.alive()
			}
			b.name += " (" + note + ")"
			b.done(64)
			_ = f.conn.Close()
			v.freed(0)
			eventually(t, func() bool { return v.pod.open.Load() == 0 }, "the pod is let go")
			t.Logf("%34s pod heard %d of it", "", v.pod.heard.Load()-int64(len(b.took))-1)
			v.blameless()
		})
	}
}

// TestDeafFloods: frames that want an answer, from who reads none.
func TestDeafFloods(t *testing.T) {
	for _, x := range floods() {
		if x.name != "ping" && x.name != "settings" && !strings.HasPrefix(x.name, "made you") {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			v := attack(t, nil)
			b := v.beside(x.name + ", not read")
			f := v.http2(true)
			if tcp, ok := f.conn.(*net.TCPConn); ok {
				_ = tcp.SetReadBuffer(4 << 10)
			}
			ended := make(chan error, 1)
			n := 0
			go func() {
				var err error
				for err == nil && n < times(2_000_000, 5_000_000) {
					x.each(f, n)
					err = f.out.Flush()
					n++
				}
				ended <- err
			}()
			var err error
			select {
			case err = <-ended:
			case <-time.After(time.Duration(times(5, 60)) * time.Second):
				err = errors.New("still at it")
				_ = f.conn.Close()
				<-ended //nolint:errcheck // it was told to end
			}
			b.name += fmt.Sprintf(" (%d sent, then %v)", n, err)
			b.done(64)
			_ = f.conn.Close()
			v.freed(0)
		})
	}
}
