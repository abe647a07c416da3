package discovery_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pod is a valid pod for tests to spoil.
func pod(id, addr string) regions.Pod {
	return regions.Pod{
		ID: regions.PodID(id), HTTP: netip.MustParseAddrPort(addr),
		Models: []regions.PodModel{{Name: "llama", Slots: 8}},
	}
}

func TestValidate(t *testing.T) {
	good := []regions.Pod{pod("a", "10.0.0.1:8000"), pod("b", "[2001:db8::1]:8000")}
	for _, c := range []struct {
		name  string
		spoil func(pods []regions.Pod)
		want  []string // all must appear; none: valid
	}{
		{"valid, both families", func([]regions.Pod) {}, nil},
		{"optional addresses", func(p []regions.Pod) { p[0].Metrics = netip.MustParseAddrPort("10.0.0.1:8002") }, nil},
		{"duplicate ID", func(p []regions.Pod) { p[1].ID = "a" }, []string{`pod 2 ("a")`, "pod 1 has the same ID"}},
		{"no ID", func(p []regions.Pod) { p[0].ID = "" }, []string{`pod 1 ("")`, "no ID"}},
		{"no HTTP address", func(p []regions.Pod) { p[1].HTTP = netip.AddrPort{} }, []string{`pod 2 ("b")`, "no HTTP address"}},
		{"no port", func(p []regions.Pod) { p[0].HTTP = netip.MustParseAddrPort("10.0.0.1:0") }, []string{"HTTP address 10.0.0.1:0 can't be dialled"}},
		{"any address", func(p []regions.Pod) { p[0].HTTP = netip.MustParseAddrPort("[::]:8000") }, []string{"HTTP address [::]:8000 can't be dialled"}},
		{"bad metrics address", func(p []regions.Pod) { p[0].Metrics = netip.MustParseAddrPort("10.0.0.1:0") }, []string{"metrics address"}},
		{"metrics port as HTTP port", func(p []regions.Pod) { p[0].Metrics = p[0].HTTP }, []string{"HTTP and metrics addresses are both 10.0.0.1:8000"}},
		{"two pods at one address", func(p []regions.Pod) { p[1].HTTP = p[0].HTTP }, []string{`pod 2 ("b")`, `pod "a" has the same HTTP address 10.0.0.1:8000`}},
		{"no models", func(p []regions.Pod) { p[0].Models = nil }, []string{"no models"}},
		{"model without name", func(p []regions.Pod) { p[0].Models = []regions.PodModel{{Slots: 1}} }, []string{"a model has no name"}},
		{"model twice", func(p []regions.Pod) { p[0].Models = append(p[0].Models, p[0].Models[0]) }, []string{`model "llama" is listed twice`}},
		{"less than no slots", func(p []regions.Pod) { p[0].Models = []regions.PodModel{{Name: "llama", Slots: -1}} }, []string{`model "llama" has -1 slots`}},
		{"all at once", func(p []regions.Pod) { p[0].Models, p[1].HTTP = nil, netip.AddrPort{} }, []string{"no models", "no HTTP address"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pods := append([]regions.Pod(nil), good...)
			c.spoil(pods)
			_, err := discovery.NewStatic(pods)
			if len(c.want) == 0 {
				if err != nil {
					t.Fatalf("a valid set is refused: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("a bad set is accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func TestEmptySetIsValid(t *testing.T) {
	if err := discovery.Validate(nil); err != nil {
		t.Fatal(err)
	}
}

func TestStaticEmitsOnceAndBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		given := []regions.Pod{pod("a", "10.0.0.1:8000")}
		var source discovery.Source
		static, err := discovery.NewStatic(given)
		if err != nil {
			t.Fatal(err)
		}
		source = static
		given[0].Models[0].Name = "changed by the caller"

		ctx, cancel := context.WithCancel(t.Context())
		var emitted [][]regions.Pod
		ended := make(chan error, 1)
		go func() {
			ended <- source.Run(ctx, func(pods []regions.Pod) { emitted = append(emitted, pods) })
		}()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("Run ended before its context: %v", err)
		default:
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatalf("an ordered stop is no error, got %v", err)
		}
		if len(emitted) != 1 || len(emitted[0]) != 1 || emitted[0][0].Models[0].Name != "llama" {
			t.Fatalf("want one emission of what was given at first, got %v", emitted)
		}

		// What a receiver does to its set does not reach the next receiver.
		emitted[0][0].Models[0].Name = "changed by the receiver"
		again, cancelAgain := context.WithCancel(t.Context())
		cancelAgain()
		if err := source.Run(again, func(pods []regions.Pod) { emitted = append(emitted, pods) }); err != nil {
			t.Fatal(err)
		}
		if got := emitted[1][0].Models[0].Name; got != "llama" {
			t.Fatalf("second run emitted %q", got)
		}
	})
}
