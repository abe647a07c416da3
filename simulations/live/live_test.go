package live

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rhumb-lb/rhumb/simulations/process"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(asDig) != "" {
		if err := dig(os.Stdout, os.Args[1:]); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(9) // as dig does when no server answers
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(tests{m})
}

// tests are all tests with the removal of what they share.
type tests struct{ *testing.M }

// Run runs them.
func (t tests) Run() int {
	dir, err := os.MkdirTemp("", "rhumb-bin-")
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	built.dir = dir
	return t.M.Run()
}

// built is the binary that all tests run, made once.
var built struct {
	sync.Once
	dir string
	err error
}

// binary builds rhumb.
func binary(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		built.err = process.Run(context.Background(), "../..", "go", "build", "-o", filepath.Join(built.dir, "rhumb"), "./cmd/rhumb")
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "rhumb")
}

// TestTour is the whole world as processes: see steps.
func TestTour(t *testing.T) {
	w, err := NewAnywhere(t.Context(), Options{Bin: binary(t), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = w.Check(t.Context(), &out)
	t.Log("\n" + out.String())
	if err != nil {
		t.Error(err)
	}
	if err := w.End(t.Context()); err != nil {
		t.Error(err)
	}
	for _, p := range w.all() {
		if strings.Contains(p.LastWords(), "panic") {
			t.Errorf("%s: %s", p.Name, p.LastWords())
		}
	}
}

// TestStrays: a process that can't go on ends the wait for the world, with its
// last words.
func TestStrays(t *testing.T) {
	w, err := NewAnywhere(t.Context(), Options{Bin: binary(t), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.CommandContext(t.Context(), "kill", "-9", strconv.Itoa(w.agents[0].PID())).Run(); err != nil {
		t.Fatal(err)
	}
	if gone := <-w.failed; !strings.Contains(gone.Error(), "us-east ended by itself (signal: killed)") {
		t.Errorf("got %v", gone)
	}
	if err := w.End(t.Context()); err != nil {
		t.Error(err)
	}
}
