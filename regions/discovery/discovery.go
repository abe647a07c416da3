// Package discovery finds the pods of a region. A [Source] emits whole sets:
// what differs from the set before is the receiver's finding, so that a lost
// or repeated emission can't leave a pod behind. A source that is away for a
// while stays silent; it never empties the set.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/rhumb-lb/rhumb/regions"
)

// Source finds pods.
type Source interface {
	// Run emits the set of pods at its start and whenever it changes, from one
	// goroutine, until ctx is done. Each emitted set is valid in the sense of
	// [Validate], belongs to the receiver and replaces the one before. Run
	// returns nil when ctx is done, and an error when it can never emit again.
	Run(ctx context.Context, emit func([]regions.Pod)) error
}

// Validate reports everything that keeps a set of pods from being used, each
// with the pod's place in the set. An empty set is valid: a pool that is scaled
// to zero.
//
// Beside what would make a pod useless, it refuses two pods at one address:
// their slots would be counted twice, and the pool would send one server twice
// what it can run.
func Validate(pods []regions.Pod) error {
	var errs []error
	ids := make(map[regions.PodID]int, len(pods))
	at := make(map[netip.AddrPort]regions.PodID, len(pods))
	for i, p := range pods {
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("pod %d (%q): %s", i+1, string(p.ID), fmt.Sprintf(format, args...)))
		}
		if p.ID == "" {
			bad("it has no ID; give each pod a name that is unique in its region")
		} else if first, ok := ids[p.ID]; ok {
			bad("pod %d has the same ID; give each pod a name that is unique in its region", first+1)
		} else {
			ids[p.ID] = i
		}
		if err := validateAddresses(p); err != nil {
			bad("%v", err)
		} else if other, ok := at[p.HTTP]; ok {
			bad("pod %q has the same HTTP address %s; list each server once, with all of its models", string(other), p.HTTP)
		} else {
			at[p.HTTP] = p.ID
		}
		if err := validateModels(p.Models); err != nil {
			bad("%v", err)
		}
	}
	return errors.Join(errs...)
}

// validateAddresses reports the first address that can't be dialled. Only the
// HTTP address is required.
func validateAddresses(p regions.Pod) error {
	type address struct {
		name     string
		addr     netip.AddrPort
		required bool
	}
	all := [...]address{{"HTTP", p.HTTP, true}, {"GRPC", p.GRPC, false}, {"OpenAI", p.OpenAI, false}, {"metrics", p.Metrics, false}}
	for i, a := range all {
		switch {
		case a.addr == netip.AddrPort{} && !a.required:
			continue
		case !a.addr.IsValid():
			return fmt.Errorf("it has no %s address; set it to the address and port of the KServe v2 server, like 10.0.0.7:8000", a.name)
		case a.addr.Port() == 0 || a.addr.Addr().IsUnspecified():
			return fmt.Errorf("its %s address %s can't be dialled; it needs a port and the pod's own address", a.name, a.addr)
		}
		for _, b := range all[:i] {
			if a.addr == b.addr {
				// Triton's metrics server answers 200 to any path, a probe's included.
				return fmt.Errorf("its %s and %s addresses are both %s; Triton serves HTTP at port 8000, gRPC at 8001, metrics at 8002 and OpenAI at 9000 unless told otherwise", b.name, a.name, a.addr)
			}
		}
	}
	return nil
}

// validateModels reports the first thing that is wrong with a pod's models.
func validateModels(models []regions.PodModel) error {
	if len(models) == 0 {
		return errors.New("it has no models; list each model that it may serve, with its slots")
	}
	seen := make(map[regions.ModelName]bool, len(models))
	for _, m := range models {
		switch {
		case m.Name == "":
			return errors.New("a model has no name; use the name as Triton spells it")
		case seen[m.Name]:
			return fmt.Errorf("model %q is listed twice", string(m.Name))
		case m.Slots < 0:
			return fmt.Errorf("model %q has %d slots; set how many sequences the pod runs at a time, or 0 if that is not known", string(m.Name), m.Slots)
		}
		seen[m.Name] = true
	}
	return nil
}
