package wire_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

func TestPods(t *testing.T) {
	loads := []regions.PodLoad{
		{Pod: "b", Model: "mistral", InFlight: 3}, {Pod: "a", Model: "llama", InFlight: 7},
		{Pod: "b", Model: "llama", InFlight: 1}, {Pod: "c", Model: "llama"},
	}
	b, err := wire.EncodePods("eu-west", loads)
	if err != nil {
		t.Fatal(err)
	}
	region, got, err := wire.DecodePods(golden(t, "pods", b))
	if err != nil || region != "eu-west" || len(got) != 3 {
		t.Fatalf("%s, %v, %v", region, got, err)
	}
	for _, l := range loads[:3] {
		if !slices.Contains(got, wire.PodLoad{Pod: wire.PodHash(l.Pod), Model: l.Model, InFlight: l.InFlight}) {
			t.Errorf("%+v is not among %v", l, got)
		}
	}
	if b, err := wire.EncodePods("eu-west", nil); err != nil {
		t.Error(err)
	} else if _, got, err := wire.DecodePods(b); err != nil || len(got) != 0 {
		t.Errorf("nothing in flight: %v, %v", got, err)
	}
}

// TestPodsFitAPacket: a hundred pods with two models, as their names are in Kubernetes.
func TestPodsFitAPacket(t *testing.T) {
	var loads []regions.PodLoad
	for i := range 100 {
		for _, m := range []regions.ModelName{"llama-3.1-70b-instruct", "mistral-7b"} {
			loads = append(loads, regions.PodLoad{Pod: regions.PodID(fmt.Sprintf("inference/triton-llama-%d-6f9c5d7b8-abcde", i)), Model: m, InFlight: 100})
		}
	}
	b, err := wire.EncodePods("eu-west", loads)
	const room = 1000 // of 1,200, with the envelope and memberlist's own
	if err != nil || len(b) > room {
		t.Errorf("%d bytes, want at most %d; %v", len(b), room, err)
	}
}

// TestPodsOfOneHash: their loads add up, and never overflow.
func TestPodsOfOneHash(t *testing.T) {
	b, err := wire.EncodePods("eu-west", []regions.PodLoad{{Pod: "a", Model: "m", InFlight: 2}, {Pod: "a", Model: "m", InFlight: 1<<32 - 1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, got, err := wire.DecodePods(b); err != nil || len(got) != 1 || got[0].InFlight != wire.MaxRequests {
		t.Errorf("%v, %v", got, err)
	}
}

func TestBadPods(t *testing.T) {
	many := make([]uint32, wire.MaxPods+1)
	for i := range many {
		many[i] = uint32(i)
	}
	for want, m := range map[string]*wire.Pods{
		"region":    {Region: "EU"},
		"model":     {Region: "eu", Models: []string{""}},
		"loads of":  {Region: "eu", Models: []string{"m"}, Pods: []uint32{1, 2}, InFlight: []uint32{1}},
		"in order":  {Region: "eu", Models: []string{"m"}, Pods: []uint32{2, 1}, InFlight: []uint32{1, 1}},
		"not in":    {Region: "eu", Models: []string{"m", "m"}, Pods: []uint32{1}, InFlight: []uint32{1, 1}},
		"more than": {Region: "eu", Models: []string{"m"}, Pods: []uint32{1}, InFlight: []uint32{wire.MaxRequests + 1}},
		"at most":   {Region: "eu", Models: []string{"m"}, Pods: many, InFlight: many},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := wire.DecodePods(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if _, _, err := wire.DecodePods(make([]byte, wire.MaxPayload+1)); err == nil {
		t.Error("more than a payload was read")
	}
	if _, _, err := wire.DecodePods([]byte("x")); err == nil {
		t.Error("what is no message was read")
	}
}

// FuzzDecodePods: what is read can be written again and is the same.
func FuzzDecodePods(f *testing.F) {
	b, err := wire.EncodePods("eu", []regions.PodLoad{{Pod: "a", Model: "m", InFlight: 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		region, loads, err := wire.DecodePods(b)
		if err != nil {
			return
		}
		if region.Validate() != nil || len(loads) > wire.MaxPods*wire.MaxModels {
			t.Errorf("%q, %d loads", region, len(loads))
		}
		for _, l := range loads {
			if l.InFlight == 0 || l.InFlight > wire.MaxRequests {
				t.Errorf("%+v", l)
			}
		}
	})
}
