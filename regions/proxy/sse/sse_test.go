package sse_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/proxy/sse"
)

// split feeds a stream in pieces and collects the events, and what is left.
func split(pieces ...string) (events []string, rest string, err error) {
	s := sse.NewSplitter(1 << 10)
	for _, p := range pieces {
		s.Feed([]byte(p))
		for {
			e, err := s.Next()
			if err != nil {
				return events, string(s.Rest()), err
			}
			if e == nil {
				break
			}
			events = append(events, string(e))
		}
	}
	return events, string(s.Rest()), nil
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		want         []string
		rest         string
	}{
		{"one", "data: a\n\n", []string{"data: a\n\n"}, ""},
		{"two", "data: a\n\ndata:b\n\n", []string{"data: a\n\n", "data:b\n\n"}, ""},
		{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []string{"data: a\r\n\r\n", "data: b\r\n\r\n"}, ""},
		{"CR", "data: a\r\rdata: b\r\r", []string{"data: a\r\r", "data: b\r\r"}, ""},
		{"several lines", ": hello\nid: 7\ndata: a\ndata: b\n\n", []string{": hello\nid: 7\ndata: a\ndata: b\n\n"}, ""},
		{"comments between", ": ok\n\ndata: a\n\n", []string{": ok\n\n", "data: a\n\n"}, ""},
		{"blank lines", "\n\r\n\rdata: a\n\n", []string{"\n", "\r\n", "\r", "data: a\n\n"}, ""},
		{"half", "data: a\n\ndata: b\n", []string{"data: a\n\n"}, "data: b\n"},
		{"half a line end", "data: a\r\n\r", nil, "data: a\r\n\r"},
		{"mixed", "a\n\r\nb\r\n\nc\r\n\rd", []string{"a\n\r", "\n", "b\r\n\n", "c\r\n\r"}, "d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			events, rest, err := split(c.stream)
			if err != nil || !slices.Equal(events, c.want) || rest != c.rest {
				t.Errorf("split(%q) = %q, rest %q, %v; want %q, rest %q", c.stream, events, rest, err, c.want, c.rest)
			}
		})
	}
}

// An event must not be late: the bytes that end it give it.
func TestSplitIsPrompt(t *testing.T) {
	for _, end := range []string{"\n\n", "\r\n\r\n", "\r\r"} {
		s := sse.NewSplitter(64)
		for range 3 {
			s.Feed([]byte("data: a" + end))
			if e, err := s.Next(); err != nil || string(e) != "data: a"+end {
				t.Errorf("after %q: %q, %v", end, e, err)
			}
		}
	}
}

func TestSplitTooLong(t *testing.T) {
	s := sse.NewSplitter(8)
	s.Feed([]byte("data:1\n\ndata:22\n\n"))
	if e, err := s.Next(); err != nil || string(e) != "data:1\n\n" {
		t.Fatalf("an event of the largest size: %q, %v", e, err)
	}
	for range 2 {
		if e, err := s.Next(); !errors.Is(err, sse.ErrTooLong) {
			t.Fatalf("a larger one: %q, %v", e, err)
		}
	}
	if string(s.Rest()) != "data:22\n\n" {
		t.Errorf("rest %q", s.Rest())
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		event  string
		data   string
		inside bool
		silent bool
		named  bool
	}{
		{"data: {}\n\n", "{}", true, false, false},
		{"data:{}\r\n\r\n", "{}", true, false, false},
		{"data:  x\r\r", " x", true, false, false},
		{"data\n\n", "", false, false, false},
		{"data: a\ndata: b\n\n", "a\nb", false, false, false},
		{": c\ndata: a\n: d\n\n", "a", true, false, false},
		{": c\n\n", "", false, true, false},
		{"\n", "", false, true, false},
		{"event: x\ndata: a\n\n", "a", true, false, true},
		{"\ufeffdata: a\n\n", "", false, false, true},
		{"id\n\n", "", false, false, true},
	} {
		e := sse.Parse([]byte(c.event))
		if string(e.Data) != c.data || e.Silent != c.silent || e.Named != c.named {
			t.Errorf("Parse(%q) = %+v", c.event, e)
		}
		if c.inside && c.event[e.From:e.To] != c.data {
			t.Errorf("Parse(%q): data at %d to %d", c.event, e.From, e.To)
		}
		if !c.inside && e.From+e.To != 0 {
			t.Errorf("Parse(%q): data at %d to %d, though not of one line", c.event, e.From, e.To)
		}
	}
	if got := sse.Append([]byte("x"), []byte("{}")); string(got) != "xdata: {}\n\n" {
		t.Errorf("Append: %q", got)
	}
}

// FuzzSplit cuts any stream anywhere: the events are the same, and all bytes are
// there in their order.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("data: a\r\n\r\n: c\n\ndata: b\r\rdata"), uint16(3), uint16(9))
	f.Add([]byte("\r\n\r\r\n\n\r"), uint16(1), uint16(2))
	f.Add([]byte(strings.Repeat("x", 1<<10)+"\n\n"), uint16(1<<10), uint16(1<<10+1))
	f.Fuzz(func(t *testing.T, stream []byte, i, j uint16) {
		whole, rest, wantErr := split(string(stream))
		if joined := strings.Join(whole, "") + rest; joined != string(stream) {
			t.Fatalf("%q is split into %q and %q", stream, whole, rest)
		}
		a, b := min(int(i), len(stream)), min(int(j), len(stream))
		if a > b {
			a, b = b, a
		}
		single := make([]string, len(stream))
		for k := range stream {
			single[k] = string(stream[k : k+1])
		}
		for _, pieces := range [][]string{{string(stream[:a]), string(stream[a:b]), string(stream[b:])}, single} {
			events, left, err := split(pieces...)
			if !slices.Equal(events, whole) || !errors.Is(err, wantErr) || wantErr == nil && left != rest {
				t.Fatalf("%q in %q gives %q, rest %q, %v; at once %q, rest %q, %v", stream, pieces, events, left, err, whole, rest, wantErr)
			}
		}
		for _, e := range whole {
			checkParsed(t, []byte(e))
		}
	})
}

// checkParsed holds Parse against the lines of an event, read the plain way.
func checkParsed(t *testing.T, event []byte) {
	t.Helper()
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(event))
	var data []string
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, _ := strings.Cut(line, ":"); name == "data" {
			data = append(data, strings.TrimPrefix(value, " "))
		}
	}
	e := sse.Parse(event)
	if string(e.Data) != strings.Join(data, "\n") {
		t.Fatalf("Parse(%q): %q, want %q", event, e.Data, data)
	}
	if e.To > 0 && !bytes.Equal(event[e.From:e.To], e.Data) {
		t.Fatalf("Parse(%q): %q is not at %d to %d", event, e.Data, e.From, e.To)
	}
}
