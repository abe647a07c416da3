package telemetry

import (
	"log/slog"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestNewLogger(t *testing.T) {
	tests := []struct {
		level, format string
		want          []string // in the output of one info and one warn line
		absent        string
	}{
		{"info", "text", []string{"level=INFO msg=first region=eu", "level=WARN"}, `"msg"`},
		{"warn", "json", []string{`"level":"WARN","msg":"second"`}, "first"},
	}
	for _, test := range tests {
		var out strings.Builder
		level, err := ParseLevel(test.level)
		if err != nil {
			t.Fatal(err)
		}
		logger, err := NewLogger(&out, level, test.format)
		if err != nil {
			t.Fatal(err)
		}
		logger.Info("first", "region", "eu")
		logger.Warn("second")
		for _, want := range test.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s %s: no %q in %s", test.level, test.format, want, out.String())
			}
		}
		if strings.Contains(out.String(), test.absent) {
			t.Errorf("%s %s: %q in %s", test.level, test.format, test.absent, out.String())
		}
	}
	if _, err := ParseLevel("loud"); err == nil {
		t.Error("level loud was accepted")
	}
	if _, err := NewLogger(nil, slog.LevelInfo, "xml"); err == nil {
		t.Error("format xml was accepted")
	}
}

// TestLevelChanges: a level can change while a logger writes.
func TestLevelChanges(t *testing.T) {
	var out strings.Builder
	var level slog.LevelVar
	logger, err := NewLogger(&out, &level, "text")
	if err != nil {
		t.Fatal(err)
	}
	logger.Debug("before")
	level.Set(slog.LevelDebug)
	logger.Debug("after")
	if got := out.String(); strings.Contains(got, "before") || !strings.Contains(got, "after") {
		t.Errorf("logged %q", got)
	}
}

func TestBuild(t *testing.T) {
	if b := buildOf(&debug.BuildInfo{}); b.Version != "unknown" || b.Revision != "unknown" || b.Go == "" {
		t.Errorf("nothing recorded: %+v", b)
	}
	b := buildOf(&debug.BuildInfo{
		Main:     debug.Module{Version: "v1.2.3"},
		Settings: []debug.BuildSetting{{Key: "vcs.modified", Value: "true"}, {Key: "vcs.revision", Value: "abc"}},
	})
	if want := "rhumb v1.2.3 (revision abc+dirty, "; !strings.HasPrefix(b.String(), want) {
		t.Errorf("%s, want %s", b, want)
	}
}

func TestNewRegistry(t *testing.T) {
	registry := NewRegistry(Build{Version: "v1", Revision: "abc", Go: "go1"})
	want := `# HELP rhumb_build_info Always 1; the labels say which build this is.
# TYPE rhumb_build_info gauge
rhumb_build_info{goversion="go1",revision="abc",version="v1"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "rhumb_build_info"); err != nil {
		t.Error(err)
	}
}
