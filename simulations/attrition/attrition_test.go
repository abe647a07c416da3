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

// options are what the flags say, small unless a whole run is asked for.
func options(t *testing.T) Options {
	t.Helper()
	o := DefaultOptions()
	if o.Bin, o.Dir = binary(t), *dir; o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Fault, o.Frontend, o.Resume = *fault, *frontend, *resumes
	if !*whole {
		o.Pods, o.Slots, o.Streams, o.Tokens, o.InterToken = 4, 16, 30, 40, 50*time.Millisecond
		o.Every, o.Back, o.For = 2*time.Second, time.Second, 7*time.Second
	}
	return o
}

// attrite runs, and prints how it went.
func attrite(t *testing.T, o Options) Report {
	t.Helper()
	report, err := Run(t.Context(), o, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	for _, err := range report.First {
		t.Log(err)
	}
	if report.Streams == 0 || report.Gone == 0 {
		t.Error("nothing went, so that nothing is shown")
	}
	return report
}

// TestAttrition: pods go under streams, and no client sees it. Without resumes the
// streams that were cut say so, each of them, and nothing else goes wrong.
func TestAttrition(t *testing.T) {
	o := options(t)
	r := attrite(t, o)
	switch {
	case o.Resume && r.Errors+r.Wrong+r.Typed > 0:
		t.Error("clients have seen that pods went")
	case !o.Resume && o.Frontend != "unary" && r.Errors+r.Wrong > 0:
		t.Error("something else than a cut stream was seen")
	}
}

// TestWithoutResumes does so on a small scale, whatever the flags say.
func TestWithoutResumes(t *testing.T) {
	if *whole {
		t.Skip("not in a whole run: -resume=false is the same")
	}
	for _, ask := range []string{"stream", "grpc"} {
		t.Run(ask, func(t *testing.T) {
			o := options(t)
			o.Fault, o.Frontend, o.Resume, o.For = "kill", ask, false, 3*time.Second
			if r := attrite(t, o); r.Typed == 0 || r.Errors+r.Wrong > 0 {
				t.Errorf("%d streams end with the words that say so, %d otherwise; want all that were cut, and none", r.Typed, r.Errors+r.Wrong)
			}
		})
	}
}
