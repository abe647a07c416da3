package wire

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/regions"
)

// MaxPods is the most pods of a record of their loads. A hundred with two models fit
// a packet; a thousand go over a stream.
const MaxPods = 4096

// PodLoad is what an agent has in flight on a pod, which it names by [PodHash].
type PodLoad struct {
	Pod      uint32
	Model    regions.ModelName
	InFlight uint32
}

// PodHash is a pod's name in a record of loads.
func PodHash(id regions.PodID) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // a hash does not fail
	return h.Sum32()
}

// EncodePods gives the payload of a PODS body, or says what is wrong with the loads.
// What two pods of one hash have adds up.
func EncodePods(region regions.ID, loads []regions.PodLoad) ([]byte, error) {
	m := &Pods{Region: string(region)}
	for _, l := range loads {
		m.Models = append(m.Models, string(l.Model))
		m.Pods = append(m.Pods, PodHash(l.Pod))
	}
	slices.Sort(m.Models)
	slices.Sort(m.Pods)
	m.Models, m.Pods = slices.Compact(m.Models), slices.Compact(m.Pods)
	m.InFlight = make([]uint32, len(m.Pods)*len(m.Models))
	for _, l := range loads {
		pod, _ := slices.BinarySearch(m.Pods, PodHash(l.Pod))
		model, _ := slices.BinarySearch(m.Models, string(l.Model))
		at := &m.InFlight[pod*len(m.Models)+model]
		*at = min(*at+min(l.InFlight, MaxRequests), MaxRequests)
	}
	if err := checkPods(m); err != nil {
		return nil, fmt.Errorf("encode pods: %w", err)
	}
	b, err := order.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode pods: %w", err)
	}
	return b, nil
}

// DecodePods reads the payload of a PODS body: the region and what its agent has in
// flight, nowhere zero.
func DecodePods(b []byte) (regions.ID, []PodLoad, error) {
	if len(b) > MaxPayload {
		return "", nil, fmt.Errorf("decode pods: %d bytes, at most %d allowed", len(b), MaxPayload)
	}
	m := &Pods{}
	if err := proto.Unmarshal(b, m); err != nil {
		return "", nil, fmt.Errorf("decode pods: %w", err)
	}
	if err := checkPods(m); err != nil {
		return "", nil, fmt.Errorf("decode pods: %w", err)
	}
	var out []PodLoad
	for i, n := range m.GetInFlight() {
		if n > 0 {
			models := len(m.GetModels())
			out = append(out, PodLoad{m.GetPods()[i/models], regions.ModelName(m.GetModels()[i%models]), n})
		}
	}
	return regions.ID(m.GetRegion()), out, nil
}

func checkPods(m *Pods) error {
	if err := regions.ID(m.GetRegion()).Validate(); err != nil {
		return fmt.Errorf("region: %w", err)
	}
	for _, name := range m.GetModels() {
		if err := checkModelName(name); err != nil {
			return err
		}
	}
	switch pods, models := len(m.GetPods()), len(m.GetModels()); {
	case models > MaxModels:
		return fmt.Errorf("%d models, at most %d allowed", models, MaxModels)
	case pods > MaxPods:
		return fmt.Errorf("%d pods, at most %d allowed", pods, MaxPods)
	case len(m.GetInFlight()) != pods*models:
		return fmt.Errorf("%d loads of %d pods and %d models", len(m.GetInFlight()), pods, models)
	case !ascends(m.GetModels()) || !ascends(m.GetPods()):
		return fmt.Errorf("models or pods are not in order")
	case slices.ContainsFunc(m.GetInFlight(), func(n uint32) bool { return n > MaxRequests }):
		return fmt.Errorf("more than %d requests on a pod", MaxRequests)
	}
	return nil
}

// ascends reports whether each is above the one before.
func ascends[T cmp.Ordered](all []T) bool {
	for i := 1; i < len(all); i++ {
		if all[i] <= all[i-1] {
			return false
		}
	}
	return true
}
