package peek_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rhumb-lb/rhumb/regions/peek"
)

// framed is a message as gRPC sends it.
func framed(flag byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message))), message...)
}

// named is a message with a model's name in field 1, and fields of all types around.
func named(name string, more ...byte) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 1<<63)
	b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), name)
	b = protowire.AppendFixed32(protowire.AppendTag(b, 3, protowire.Fixed32Type), 1)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 1<<29-1, protowire.Fixed64Type), 1)
	b = protowire.AppendBytes(protowire.AppendTag(b, 7, protowire.BytesType), bytes.Repeat([]byte{10}, 300))
	return append(b, more...)
}

func TestMessages(t *testing.T) {
	second := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "b")
	for name, tt := range map[string]struct {
		stream [][]byte
		model  string
		bad    string // part of the error
	}{
		"one":                   {[][]byte{framed(0, named("llama"))}, "llama", ""},
		"several":               {[][]byte{framed(0, named("a")), framed(0, named("a")), framed(0, nil)}, "a", ""},
		"no name":               {[][]byte{framed(0, named("a")[11:11])}, "", ""},
		"an empty name":         {[][]byte{framed(0, named(""))}, "", ""},
		"the longest":           {[][]byte{framed(0, named(strings.Repeat("m", 255)))}, strings.Repeat("m", 255), ""},
		"too long":              {[][]byte{framed(0, named(strings.Repeat("m", 256)))}, "", "255 bytes"},
		"a second name":         {[][]byte{framed(0, named("a", second...))}, "a", "twice"},
		"another in the stream": {[][]byte{framed(0, named("a")), framed(0, named("b"))}, "a", "first message names"},
		"compressed":            {[][]byte{framed(1, named("a"))}, "", "compressed"},
		"compressed later":      {[][]byte{framed(0, named("a")), framed(1, named("a"))}, "a", "compressed"},
		"an odd flag":           {[][]byte{framed(2, named("a"))}, "", "can't be read"},
		"a name that is none":   {[][]byte{framed(0, []byte{1 << 3, 5})}, "", "can't be read"},
		"a group":               {[][]byte{framed(0, []byte{2<<3 | 3, 2<<3 | 4})}, "", "can't be read"},
		"field 0":               {[][]byte{framed(0, []byte{0, 5})}, "", "can't be read"},
		"a field beyond it all": {[][]byte{framed(0, []byte{2<<3 | 2, 5, 1})}, "", "can't be read"},
		"a name beyond it all":  {[][]byte{framed(0, []byte{1<<3 | 2, 5, 'a'})}, "", "can't be read"},
		"an endless number":     {[][]byte{framed(0, bytes.Repeat([]byte{0xff}, 20))}, "", "can't be read"},
		"half a number":         {[][]byte{framed(0, append(named("a"), 0x80))}, "a", "can't be read"},
	} {
		stream := bytes.Join(tt.stream, nil)
		for way, in := range map[string]io.Reader{"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream))} {
			var m peek.Messages
			head, err := peek.Head(in, &m, peek.Most)
			if err == nil {
				var got []byte
				if got, err = io.ReadAll(peek.Whole(head, io.NopCloser(in), &m)); err == nil && !bytes.Equal(got, stream) {
					t.Errorf("%s %s: the stream is not what it was", name, way)
				}
			}
			if m.Model != tt.model || (err == nil) != (tt.bad == "") || err != nil && !strings.Contains(err.Error(), tt.bad) {
				t.Errorf("%s %s: %q, %v; want %q, %q", name, way, m.Model, err, tt.model, tt.bad)
			}
		}
	}
}

// TestHeadOfStream: no more is read than is needed, so that a client that waits for
// an answer to its first message is not waited for.
func TestHeadOfStream(t *testing.T) {
	in, out := io.Pipe()
	go func() { _, _ = out.Write(framed(0, named("llama"))) }()
	var m peek.Messages
	if _, err := peek.Head(in, &m, peek.Most); err != nil || m.Model != "llama" {
		t.Errorf("%q, %v", m.Model, err)
	}
	_ = in.Close()
}

// oracleOf reads a message by the library; more than one name or none is not ok.
func oracleOf(b []byte) (name string, ok bool) {
	for names := 0; ; {
		if len(b) == 0 {
			return name, names <= 1
		}
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 || field > protowire.MaxValidNumber || kind == protowire.StartGroupType || kind == protowire.EndGroupType {
			return "", false
		}
		b = b[n:]
		if field == 1 {
			text, n := protowire.ConsumeBytes(b)
			if kind != protowire.BytesType || n < 0 || len(text) > 255 {
				return "", false
			}
			name, b = string(text), b[n:]
			names++
			continue
		}
		if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
			return "", false
		}
		b = b[n:]
	}
}

// FuzzMessages compares with protobuf's own reader, in parts of any size.
func FuzzMessages(f *testing.F) {
	f.Add(named("llama"), uint8(0))
	f.Add(named("a", 1<<3|2, 1, 'b'), uint8(4))
	f.Add([]byte{1<<3 | 2, 0x81, 0x00, 'a', 0x10, 0x80, 0x00}, uint8(1))
	f.Add([]byte{0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, uint8(9))
	f.Fuzz(func(t *testing.T, message []byte, part uint8) {
		var m peek.Messages
		var err error
		for rest := framed(0, message); len(rest) > 0 && err == nil; {
			n := min(len(rest), int(part)+1)
			_, err = m.Write(rest[:n])
			rest = rest[n:]
		}
		name, ok := oracleOf(message)
		if (err == nil) != ok || ok && (!m.First || m.Model != name) {
			t.Fatalf("%x: %q, %v; by protowire %q, %v", message, m.Model, err, name, ok)
		}
	})
}
