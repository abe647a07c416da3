package discovery

import (
	"context"
	"fmt"
	"slices"

	"github.com/rhumb-lb/rhumb/regions"
)

// Static is a [Source] of pods that never change: those of a configuration.
type Static struct {
	pods []regions.Pod
}

// NewStatic makes a source of the given pods, which it copies. The error names
// everything that [Validate] finds.
func NewStatic(pods []regions.Pod) (*Static, error) {
	if err := Validate(pods); err != nil {
		return nil, fmt.Errorf("static pods: %w", err)
	}
	return &Static{pods: clone(pods)}, nil
}

// Run emits the pods once and blocks until ctx is done. It returns nil.
func (s *Static) Run(ctx context.Context, emit func([]regions.Pod)) error {
	emit(clone(s.pods))
	<-ctx.Done()
	return nil
}

// clone copies a set down to the lists of models, so that a receiver may keep
// and change what it was given.
func clone(pods []regions.Pod) []regions.Pod {
	out := slices.Clone(pods)
	for i := range out {
		out[i].Models = slices.Clone(out[i].Models)
	}
	return out
}
