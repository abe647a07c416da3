package attrition

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var (
	fault    = flag.String("fault", "kill", "how pods go: kill, term or stop")
	frontend = flag.String("frontend", "stream", "what clients speak: stream, unary or grpc")
	resumes  = flag.Bool("resume", true, "whether streams are resumed")
	dir      = flag.String("dir", "", "a folder for keys, configuration and logs that stays; a temporary one if empty")
	whole    = flag.Bool("whole", false, "a minute with 300 streams instead of a few seconds with 30")
)

// binary builds the binary that the processes run.
func binary(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "rhumb")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/rhumb-lb/rhumb/cmd/rhumb")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return bin
}

// TestAttrition: pods go under streams, and no client sees it.
func TestAttrition(t *testing.T) {
	o := DefaultOptions()
	if o.Bin, o.Dir = binary(t), *dir; o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Fault, o.Frontend, o.Resume = *fault, *frontend, *resumes
	if !*whole {
		o.Pods, o.Slots, o.Streams, o.Tokens, o.InterToken = 4, 16, 30, 40, 50*time.Millisecond
		o.Every, o.Back, o.For = 2*time.Second, time.Second, 7*time.Second
	}
	report, err := Run(t.Context(), o, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	for _, err := range report.First {
		t.Log(err)
	}
	if report.Errors+report.Wrong+report.Typed > 0 && o.Resume {
		t.Error("clients have seen that pods went")
	}
	if report.Streams == 0 || report.Gone == 0 {
		t.Error("nothing went, so that nothing is shown")
	}
}
