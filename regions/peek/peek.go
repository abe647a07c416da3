// Package peek reads the beginning of a request's body, as far as it says which
// model the request is for, and puts it back. What follows is looked at as it
// streams by, so that a body can't name one model to the gateway and another one
// to a pod. Memory does not grow with the body, and nothing else is decoded.
package peek

import (
	"bytes"
	"errors"
	"io"
	"slices"
)

const (
	// Most is how much of a body is read in search of the model. Clients put it first
	// or behind the messages; 64 KiB is some 15,000 tokens of prompt.
	Most = 64 << 10

	// maxName is the longest name of a model in bytes: Triton keeps each in a folder of
	// that name, and file systems take 255.
	maxName = 255

	// readSize is how much is read at once: most bodies are smaller.
	readSize = 4 << 10
)

// BodyError is what is wrong with a body, in words for who sent it.
type BodyError string

// Error is those words.
func (e BodyError) Error() string { return string(e) }

// Scanner reads a body as it comes. An error, always a [BodyError], is final.
type Scanner interface {
	io.Writer
	// Enough reports that more of the body would say nothing new.
	Enough() bool
}

// Head reads the beginning of a body until the scanner has enough, or most bytes.
// At the body's end, without enough, the error is [io.ErrUnexpectedEOF]; others are
// the scanner's or those of reading.
func Head(body io.Reader, s Scanner, most int) ([]byte, error) {
	var head []byte
	for len(head) < most && !s.Enough() {
		begun := len(head)
		head = slices.Grow(head, min(readSize, most-begun))
		n, err := body.Read(head[begun:min(cap(head), most)])
		head = head[:begun+n]
		if _, bad := s.Write(head[begun:]); bad != nil {
			return head, bad
		}
		switch {
		case errors.Is(err, io.EOF) && !s.Enough():
			return head, io.ErrUnexpectedEOF
		case err != nil && !errors.Is(err, io.EOF):
			return head, err
		}
	}
	return head, nil
}

// Whole is the body again. The scanner, which has seen the head, sees the rest as
// it is read, and its error ends the body; nil sees nothing. Closing closes the rest.
func Whole(head []byte, rest io.ReadCloser, s Scanner) io.ReadCloser {
	return &whole{head: *bytes.NewReader(head), rest: rest, scan: s}
}

type whole struct {
	head bytes.Reader
	rest io.ReadCloser
	scan Scanner
	err  error
}

// Read reads the head, then the rest.
func (w *whole) Read(p []byte) (int, error) {
	if w.head.Len() > 0 {
		n, err := w.head.Read(p)
		if w.head.Len() == 0 {
			w.head.Reset(nil) // a stream lives for long
		}
		return n, err
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.rest.Read(p)
	if w.scan != nil {
		if _, bad := w.scan.Write(p[:n]); bad != nil {
			n, err = 0, bad
		}
	}
	w.err = err
	return n, err
}

// Close closes the rest.
func (w *whole) Close() error { return w.rest.Close() }
