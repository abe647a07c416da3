package discovery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// lookEvery is how often a file is read. It is read whole, also when its time and
	// size are as they were: two writes within a tick of the file system's clock look
	// alike, a ConfigMap changes by a symbolic link above it, and of a file of this
	// size a second's reading costs nothing.
	lookEvery = time.Second

	// maxFile bounds a file: MaxPods of 1 KiB each, which is four times what they need.
	maxFile = 1 << 20
)

// FileOptions are what a [File] source is made from.
type FileOptions struct {
	Path string
	// Decode reads a file's text, whose errors name the line. The text may be any
	// part of a file that is being written.
	Decode func(path string, text []byte) ([]regions.Pod, error)
}

// File is a [Source] of the pods that a file lists. A file that is broken, or gone,
// leaves the pods as they were.
type File struct {
	*Journal
	opts FileOptions
}

// NewFile makes a source. It does not look at the file yet.
func NewFile(o FileOptions) (*File, error) {
	if o.Path == "" {
		return nil, errors.New("no file to look at")
	}
	return &File{NewJournal(o.Path), o}, nil
}

// watched is what was seen of a file so far.
type watched struct {
	sum     [sha256.Size]byte // of the text that was decoded last
	decoded bool
	next    []regions.Pod // what it says, if err is nil
	err     error

	emitted []regions.Pod
	begun   bool
}

// Run reads the file each second until ctx is done, and then returns nil. A change
// is emitted when it was seen twice, since a file that is written in place is seen
// in part, and a part that ends with a line may well be in order; the first set is
// emitted at once, since it can take nothing away.
func (f *File) Run(ctx context.Context, emit func([]regions.Pod)) error {
	defer f.End()
	var w watched
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if pods, ok := f.look(&w); ok {
			f.Found(len(pods))
			emit(clone(pods))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look reads the file and reports whether there is a set to emit.
func (f *File) look(w *watched) (pods []regions.Pod, ok bool) {
	text, err := read(f.opts.Path)
	if err != nil {
		f.Away(err)
		return nil, false
	}
	before, had := w.next, w.decoded && w.err == nil
	if sum := sha256.Sum256(text); !w.decoded || sum != w.sum {
		w.sum, w.decoded = sum, true
		w.next, w.err = f.decode(text)
	}
	f.Away(w.err)
	if w.err != nil || w.begun && same(w.next, w.emitted) {
		return nil, false
	}
	if w.begun && !(had && same(before, w.next)) {
		return nil, false // once more
	}
	w.begun, w.emitted = true, w.next
	return w.next, true
}

func (f *File) decode(text []byte) ([]regions.Pod, error) {
	if len(bytes.TrimSpace(text)) == 0 { // as a file is that is about to be written
		return nil, fmt.Errorf("%s is empty; write \"pods: []\" if there are none", f.opts.Path)
	}
	pods, err := f.opts.Decode(f.opts.Path, text)
	if err != nil {
		return nil, err
	}
	if len(pods) > MaxPods {
		return nil, fmt.Errorf("%s has %d pods; a source may have %d", f.opts.Path, len(pods), MaxPods)
	}
	if err := Validate(pods); err != nil {
		return nil, fmt.Errorf("%s: %w", f.opts.Path, err)
	}
	return pods, nil
}

// read reads a regular file of at most maxFile bytes.
func read(path string) ([]byte, error) {
	info, err := os.Stat(path) // opening a pipe would wait for its writer
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return text, err
}

// same reports whether two sets are the same, in the same order.
func same(a, b []regions.Pod) bool {
	return slices.EqualFunc(a, b, func(x, y regions.Pod) bool {
		return slices.Equal(x.Models, y.Models) && x.ID == y.ID && x.HTTP == y.HTTP && x.GRPC == y.GRPC &&
			x.OpenAI == y.OpenAI && x.Metrics == y.Metrics && x.Terminating == y.Terminating
	})
}
