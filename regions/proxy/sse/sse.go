// Package sse splits a stream of server-sent events (WHATWG HTML, section 9.2)
// into whole events without changing a byte of them.
//
// An event here is everything up to and with the blank line that ends it:
// comments, unknown fields and line endings stay as they came, so that all events
// together are the stream.
package sse

import (
	"bytes"
	"errors"
)

// ErrTooLong is an event that is longer than the splitter may keep.
var ErrTooLong = errors.New("an event is too long")

// Splitter cuts a stream into events, however its bytes come. It keeps at most
// one event that is not whole yet. It is not safe for concurrent use.
type Splitter struct {
	longest int
	kept    []byte // fed, from the first byte of the next event
	seen    int    // bytes of kept that were looked at
	line    lineEnd
	// filled tells that the line looked at has bytes, wait that it ended with a CR
	// to which a LF may belong.
	filled, wait bool
}

// lineEnd is how the last line of the event has ended.
type lineEnd uint8

const (
	noLine lineEnd = iota
	byLF
	byCR
	byCRLF
)

// NewSplitter makes a splitter for events of at most so many bytes.
func NewSplitter(longest int) *Splitter { return &Splitter{longest: longest} }

// Feed takes the next bytes of the stream and keeps a copy of them. Call
// [Splitter.Next] until it has no more before feeding again.
func (s *Splitter) Feed(p []byte) { s.kept = append(s.kept, p...) }

// Next gives the next whole event, which is valid until Feed is called; nil if
// the bytes fed so far have none. Its error is ErrTooLong, and stays:
// [Splitter.Rest] then has the bytes that no event was made of.
func (s *Splitter) Next() ([]byte, error) {
	for s.seen < len(s.kept) && s.seen < s.longest {
		if end := s.step(s.kept[s.seen]); end > 0 {
			event := s.kept[:end:end]
			s.kept = s.kept[end:]
			s.seen, s.line, s.filled, s.wait = 0, noLine, false, false
			return event, nil
		}
	}
	if s.seen >= s.longest {
		return nil, ErrTooLong
	}
	if len(s.kept) == 0 {
		s.kept = nil // what a burst has left is not kept for the life of the stream
	}
	return nil, nil
}

// step looks at one byte. It returns where the event ends, 0 if it goes on.
//
// A blank line that ends with CR waits for the LF only where the line before had
// one: so no event of a stream that uses CRLF is torn, and none of a stream that
// uses CR is late. Whether to wait depends on earlier bytes alone, so that it does
// not matter how they came.
func (s *Splitter) step(b byte) int {
	if s.wait {
		s.wait = false
		blank := !s.filled
		s.filled = false
		if b == '\n' {
			s.seen++
			if s.line = byCRLF; blank {
				return s.seen
			}
			return 0
		}
		if s.line = byCR; blank {
			return s.seen
		}
	}
	s.seen++
	switch b {
	case '\n':
		blank := !s.filled
		s.line, s.filled = byLF, false
		if blank {
			return s.seen
		}
	case '\r':
		if !s.filled && s.line != byCRLF && s.line != noLine {
			return s.seen
		}
		s.wait = true
	default:
		s.filled = true
	}
	return 0
}

// Rest is what was fed and is not part of a whole event: at the end of a stream
// that was cut, half an event.
func (s *Splitter) Rest() []byte { return s.kept }

// Event is an event taken apart.
type Event struct {
	// Data is the data lines, joined with LF; nil if there are none.
	Data []byte
	// From and To are where Data is in the event, or may be put into it, if it has
	// one data line; otherwise both are 0.
	From, To int
	// Silent tells that the event has nothing but comments and blank lines:
	// clients' programs do not see it.
	Silent bool
	// Named tells that there are other fields than data (event, id, retry, or
	// unknown ones).
	Named bool
}

// Parse takes an event apart. Data of one line is part of the event's memory.
func Parse(event []byte) Event {
	e := Event{Silent: true}
	lines := 0
	for at := 0; at < len(event); {
		end := len(event)
		if i := bytes.IndexAny(event[at:], "\r\n"); i >= 0 {
			end = at + i
		}
		line := event[at:end]
		name, _, _ := bytes.Cut(line, []byte(":"))
		switch {
		case len(line) == 0, line[0] == ':':
		case string(name) == "data":
			e.Silent = false
			from := min(at+len("data:"), end)
			if from < end && event[from] == ' ' {
				from++
			}
			if lines++; lines == 1 {
				e.Data = event[from:end:end]
				if len(line) > len(name) { // a line without a colon has no place for data
					e.From, e.To = from, end
				}
			} else {
				e.Data = append(append(bytes.Clone(e.Data), '\n'), event[from:end]...)
				e.From, e.To = 0, 0
			}
		default:
			e.Silent, e.Named = false, true
		}
		at = end + 1
	}
	return e
}

// Append appends an event with these data to b. The data must be without line
// ends.
func Append(b, data []byte) []byte {
	return append(append(append(b, "data: "...), data...), "\n\n"...)
}
