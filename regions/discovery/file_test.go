package discovery_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
)

// plain decodes "ID address" lines; "#" begins a comment.
func plain(path string, text []byte) ([]regions.Pod, error) {
	var out []regions.Pod
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 2 {
			return nil, fmt.Errorf("%s:%d: want a name and an address", path, n)
		}
		p := pod("x", "10.0.0.1:8000")
		p.ID, p.HTTP = regions.PodID(words[0]), netip.MustParseAddrPort(words[1])
		out = append(out, p)
	}
	return out, nil
}

// TestFileOverTime walks a source through what happens to its file. A step lasts a
// second times its count.
func TestFileOverTime(t *testing.T) {
	type step struct {
		do     func(path string) error
		rounds int
		want   string // the set at the end; "-" none was ever emitted
		emits  int
		away   bool
	}
	write := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	rename := func(text string) func(string) error {
		return func(path string) error {
			if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}
	}
	// As the kubelet changes a ConfigMap: a link to a folder is swapped, above a link
	// to a file in it.
	swap := func(generation, text string) func(string) error {
		return func(path string) error {
			dir := filepath.Dir(path)
			if err := os.Mkdir(filepath.Join(dir, generation), 0o700); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, generation, "pods"), []byte(text), 0o600); err != nil {
				return err
			}
			if err := os.Symlink(generation, filepath.Join(dir, "..tmp")); err != nil {
				return err
			}
			if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
				return err
			}
			if err := os.Symlink(filepath.Join("..data", "pods"), path); err != nil && !os.IsExist(err) {
				return err
			}
			return nil
		}
	}
	const a, b, ab = "a 10.0.0.1:8000\n", "b 10.0.0.2:8000\n", "a 10.0.0.1:8000\nb 10.0.0.2:8000\n"
	nothing := func(string) error { return nil }
	for _, c := range []struct {
		what  string
		steps []step
	}{
		{"a change by renaming, seen twice", []step{
			{do: rename(a), want: "a", emits: 1},
			{do: rename(ab), rounds: 1, want: "a"},
			{do: nothing, rounds: 1, want: "a b", emits: 1},
			{do: nothing, rounds: 100, want: "a b"},
		}},
		{"a ConfigMap", []step{
			{do: swap("..1", a), want: "a", emits: 1},
			{do: swap("..2", b), rounds: 2, want: "b", emits: 1},
		}},
		{"of the same size", []step{
			{do: write(a), want: "a", emits: 1},
			{do: write(b), rounds: 2, want: "b", emits: 1},
		}},
		{"written in place, slowly", []step{
			{do: write(ab), want: "a b", emits: 1},
			{do: write(""), rounds: 1, want: "a b", away: true},
			{do: write(b), rounds: 1, want: "a b"},
			{do: write(b + a), rounds: 2, want: "b a", emits: 1},
		}},
		{"other words for the same", []step{
			{do: write(a), want: "a", emits: 1},
			{do: write("# 1\n" + ab), rounds: 1, want: "a"},
			{do: write("# 2\n" + ab), rounds: 1, want: "a b", emits: 1},
			{do: write("# 3\n" + ab), rounds: 3, want: "a b"},
		}},
		{"broken, for a day, then gone, then there", []step{
			{do: write(a), want: "a", emits: 1},
			{do: write("a\n"), rounds: 86400, want: "a", away: true},
			{do: os.Remove, rounds: 100, want: "a", away: true},
			{do: write(b), rounds: 1, want: "a"},
			{do: nothing, rounds: 1, want: "b", emits: 1},
		}},
		{"no pods, in so many words", []step{
			{do: write(a), want: "a", emits: 1},
			{do: write("# none\n"), rounds: 2, want: "", emits: 1},
			{do: write(a), rounds: 2, want: "a", emits: 1},
		}},
		{"no good file at the start", []step{
			{do: nothing, rounds: 3, want: "-", away: true},
			{do: write(" \n"), rounds: 3, want: "-", away: true},
			{do: write("a 10.0.0.1:8000\nc 10.0.0.1:8000\n"), rounds: 3, want: "-", away: true},
			{do: write("a 0.0.0.0:8000\n"), rounds: 3, want: "-", away: true},
			{do: write(a), rounds: 1, want: "a", emits: 1},
		}},
		{"what is no file", []step{
			{do: write(a), want: "a", emits: 1},
			{do: os.Remove, rounds: 1, want: "a", away: true},
			{do: func(path string) error { return os.Mkdir(path, 0o700) }, rounds: 2, want: "a", away: true},
			{do: os.Remove, rounds: 1, want: "a", away: true},
			{do: write(strings.Repeat("#", 1<<20+1)), rounds: 2, want: "a", away: true},
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(dir, "pods")
				if err := c.steps[0].do(path); err != nil {
					t.Fatal(err)
				}
				f, err := discovery.NewFile(discovery.FileOptions{Path: path, Decode: plain})
				if err != nil {
					t.Fatal(err)
				}
				var log strings.Builder
				registry := prometheus.NewRegistry()
				f.Report(slog.New(slog.NewTextHandler(&log, nil)), discovery.NewMetrics(registry))
				wasAway, went := false, 0
				run(t, f, func(emitted *[][]regions.Pod) {
					before := 0
					for i, s := range c.steps {
						if i > 0 {
							if err := s.do(path); err != nil {
								t.Fatal(err)
							}
						}
						pass(time.Duration(s.rounds) * time.Second)
						got := "-"
						if n := len(*emitted); n > 0 {
							got = ids((*emitted)[n-1])
						}
						if got != s.want || len(*emitted)-before != s.emits {
							t.Fatalf("step %d: %q after %d emissions, want %q after %d", i+1, got, len(*emitted)-before, s.want, s.emits)
						}
						before = len(*emitted)
						want := fmt.Sprintf("# HELP rhumb_discovery_away 1 while a source of pods does not answer and its pods stay as they were.\n# TYPE rhumb_discovery_away gauge\nrhumb_discovery_away{name=%q} %d\n",
							path, map[bool]int{true: 1}[s.away])
						if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "rhumb_discovery_away"); err != nil {
							t.Errorf("step %d: %v", i+1, err)
						}
						if s.away && !wasAway {
							went++
						}
						wasAway = s.away
					}
				})
				if n := strings.Count(log.String(), "the source is away"); n != went {
					t.Errorf("logged %d times that it is away, want %d:\n%s", n, went, log.String())
				}
				if n, err := testutil.GatherAndCount(registry, "rhumb_discovery_away", "rhumb_discovery_pods"); err != nil || n != 0 {
					t.Errorf("%d gauges are left behind, %v", n, err)
				}
			})
		})
	}
}

// TestFileSets: a set is the receiver's, and every difference is a change.
func TestFileSets(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "pods")
		var now regions.Pod
		f, err := discovery.NewFile(discovery.FileOptions{Path: path, Decode: func(string, []byte) ([]regions.Pod, error) {
			p := now
			p.Models = append([]regions.PodModel{}, now.Models...)
			return []regions.Pod{p}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		now = pod("a", "10.0.0.1:8000")
		changes := []func(){
			func() { now.GRPC = netip.MustParseAddrPort("10.0.0.1:8001") },
			func() { now.OpenAI = netip.MustParseAddrPort("10.0.0.1:9000") },
			func() { now.Metrics = netip.MustParseAddrPort("10.0.0.1:8002") },
			func() { now.HTTP = netip.MustParseAddrPort("10.0.0.1:8003") },
			func() { now.Terminating = true },
			func() { now.Models[0].Slots = 9 },
			func() { now.ID = "b" },
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, f, func(emitted *[][]regions.Pod) {
			(*emitted)[0][0].Models[0].Slots = 99
			for i, change := range changes {
				change()
				if err := os.WriteFile(path, []byte(strings.Repeat("x", i+2)), 0o600); err != nil {
					t.Fatal(err)
				}
				pass(2 * time.Second)
				if n := len(*emitted); n != i+2 {
					t.Fatalf("change %d: %d sets", i+1, n)
				}
			}
		})
	})
}

// TestFileStops: a source whose context is over looks once and ends.
func TestFileStops(t *testing.T) {
	f, err := discovery.NewFile(discovery.FileOptions{Path: t.TempDir(), Decode: plain})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Run(ctx, func([]regions.Pod) { t.Error("a folder has pods") }); err != nil {
		t.Error(err)
	}
	if _, err := discovery.NewFile(discovery.FileOptions{}); err == nil {
		t.Error("a source without a file")
	}
}
